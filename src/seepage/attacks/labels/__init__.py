"""Labels from the last layer's gradient: one file for each method, the choice among them, and what they read."""

"""Networks walked backwards, one layer after the other, in closed form."""

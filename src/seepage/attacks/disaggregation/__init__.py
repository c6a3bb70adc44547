"""A linear layer's gradient taken apart into its examples: directions, scales, inputs, and what proves them."""

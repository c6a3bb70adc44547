"""A Flower app whose server captures what its clients send."""

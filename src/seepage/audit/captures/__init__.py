"""A captured update without the truth: what the server has, what is claimed of the client, how the attack ended."""

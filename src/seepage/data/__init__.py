"""Where private batches come from."""

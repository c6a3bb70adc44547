"""What clients do with their batches."""

"""Linear algebra that knows nothing of networks or clients."""

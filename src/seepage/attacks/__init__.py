"""Observation in, reconstruction out."""

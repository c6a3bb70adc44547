"""Findings -> tables, figures, one self-contained page."""

"""The command line: the only room that prints."""

from seepage.cli.app import app, main

__all__ = ["app", "main"]

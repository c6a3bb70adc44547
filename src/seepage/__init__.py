"""Seepage: how much private training data does a federated-learning update give away?"""

import importlib
from typing import Any

__all__ = ["__version__", "audit"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``seepage.audit(...)`` without an import of torch by whoever only imports seepage."""
    if name == "audit":
        return importlib.import_module("seepage.audit")
    raise AttributeError(f"module 'seepage' has no attribute {name!r}")

"""Seepage: how much private training data does a federated-learning update give away?"""

__all__ = ["__version__"]

__version__ = "0.1.0"

"""Where private batches come from."""

from seepage.data.normalization import Normalization
from seepage.data.sources import BUNDLED, Dataset, InputKind, draw_batch, load_dataset
from seepage.data.tabular import Column, TableEncoding

__all__ = [
    "BUNDLED",
    "Column",
    "Dataset",
    "InputKind",
    "Normalization",
    "TableEncoding",
    "draw_batch",
    "load_dataset",
]

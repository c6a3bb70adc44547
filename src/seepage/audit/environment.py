"""What a figure may depend on besides its options: versions, and the memory that was used."""

import platform
import resource
import sys

import numpy as np
import torch

import seepage

__all__ = ["peak_memory_mib", "versions"]


def versions() -> dict[str, str]:
    """Of what a figure may depend on."""
    return {
        "seepage": seepage.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def peak_memory_mib(device: torch.device) -> float:
    """Peak so far of the whole process, or of what torch allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

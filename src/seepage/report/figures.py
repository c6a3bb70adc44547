"""Pictures as data URIs: nothing on the page comes from anywhere else."""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["picture_uri", "read_pictures"]

_LARGEST = 1 << 30  # bytes of one artifact


def read_pictures(run: Path, artifact: str | None) -> dict[str, Tensor] | str:
    """The tensors of one artifact, or one sentence on why they cannot be shown.

    The name comes from a file and is not trusted: it has to stay inside the run's folder.
    """
    if artifact is None:
        return "No pictures were recorded."
    path = (run / artifact).resolve()
    if not path.is_relative_to(run.resolve()) or path.suffix != ".safetensors":
        return "The pictures are named outside the run's folder and were not opened."
    if not path.is_file():
        return f"The pictures are missing: {artifact} is not there."
    if path.stat().st_size > _LARGEST:
        return f"The pictures are larger than {_LARGEST >> 20} MiB and were not opened."
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        return f"The pictures could not be read: {error}."
    return tensors if _well_formed(tensors) else "The pictures have an unexpected form and are not shown."


def picture_uri(image: Tensor) -> str:
    """A PNG data URI of one image ``[c, h, w]`` in [0, 1], 1 or 3 channels; values outside are clipped."""
    pixels = image.nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _well_formed(tensors: dict[str, Tensor]) -> bool:
    originals, found, matched = (tensors.get(name) for name in ("originals", "reconstructions", "matched"))
    if originals is None or found is None or matched is None or originals.shape != found.shape:
        return False
    return (
        originals.ndim == 4
        and originals.shape[1] in (1, 3)
        and originals.is_floating_point()
        and found.is_floating_point()
        and matched.shape == originals.shape[:1]
        and matched.dtype in (torch.uint8, torch.bool)
    )

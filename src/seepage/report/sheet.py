"""Reconstructed images side by side on one picture."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["write_sheet"]

_MOST = 64
_SIDE = 2048
_GAP = 2
_CERTIFIED, _DOUBTFUL = (0.85, 0.1, 0.1), (0.6, 0.6, 0.6)  # frames: what surely leaked, what may be wrong


def write_sheet(path: Path, images: Tensor, certified: Tensor) -> bool:
    """Write the first 64 ``images [k, c, h, w]`` in [0, 1] as one PNG; a red frame means certified.

    Returns:
        Whether these are images that can be drawn; nothing is written otherwise.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images) or max(images.shape[2:]) > _SIDE // 8:
        return False
    shown = images[:_MOST].detach().cpu().float().nan_to_num(0.0).clamp(0, 1)
    shown = shown.expand(-1, 3, -1, -1)
    count, _, height, width = shown.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tall, wide = height + 2 * _GAP, width + 2 * _GAP
    sheet = torch.ones(3, rows * tall, columns * wide)
    for index, image in enumerate(shown):
        top, left = index // columns * tall, index % columns * wide
        frame = torch.tensor(_CERTIFIED if bool(certified[index]) else _DOUBTFUL)
        sheet[:, top : top + tall, left : left + wide] = frame[:, None, None]
        sheet[:, top + _GAP : top + _GAP + height, left + _GAP : left + _GAP + width] = image
    pixels = sheet.mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, "PNG")
    return True

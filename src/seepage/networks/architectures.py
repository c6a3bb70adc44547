"""The networks of the zoo: what the literature on gradient inversion audits most."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "ViT", "lenet", "mlp", "resnet18", "resnet20"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "gelu": nn.GELU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "silu": nn.SiLU,
        "leaky_relu": nn.LeakyReLU,
    }
)


def mlp(inputs: int, widths: Sequence[int], classes: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Flatten, then a linear layer and an activation for each hidden width, then a linear layer to the classes."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((inputs, *widths)):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def lenet(input_shape: tuple[int, int, int], classes: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """The network of Deep Leakage from Gradients (Zhu et al. 2019): three convolutions, one linear layer.

    The strides are 2, 2, 1; without pooling and with padding 2, every input entry takes part in the gradient.
    """
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, 12, kernel_size=5, padding=2, stride=stride), activation()]
        channels, height, width = 12, -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(inputs))


def resnet18(channels: int, classes: int) -> nn.Sequential:
    """ResNet-18 as used on CIFAR (He et al. 2016): a 3x3 stem without max-pooling, then four stages of two blocks."""
    return _resnet(channels, classes, widths=(64, 128, 256, 512), blocks=2)


def resnet20(channels: int, classes: int) -> nn.Sequential:
    """The ResNet-20 made for CIFAR (He et al. 2016): three stages of three blocks, 16 to 64 channels.

    Where a block changes the size, the shortcut is a 1x1 convolution (their option B) as in :func:`resnet18`.
    """
    return _resnet(channels, classes, widths=(16, 32, 64), blocks=3)


def _resnet(channels: int, classes: int, *, widths: Sequence[int], blocks: int) -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
    parts: dict[str, nn.Module] = {"stem": stem}
    for number, (before, after) in enumerate(pairwise((widths[0], *widths)), start=1):
        first = _BasicBlock(before, after, 1 if before == after else 2)
        parts[f"stage{number}"] = nn.Sequential(first, *(_BasicBlock(after, after, 1) for _ in range(blocks - 1)))
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(widths[-1], classes)}
    return nn.Sequential(OrderedDict(parts))


class _Attention(nn.Module):
    """Self-attention ``[b, t, d] -> [b, t, d]`` that can be differentiated twice under ``sdpa_kernel(MATH)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t, d = tokens.shape
        query, key, value = self.qkv(tokens).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)  # [b, heads, t, d / heads]
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return out


class _EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021): 4 pre-norm blocks, class token, learned positions.

    The patches are the largest squares that tile the image and leave at least 7 x 7 of them, else single pixels.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, *, width: int = 96, heads: int = 4, blocks: int = 4
    ) -> None:
        super().__init__()
        channels, h, w = input_shape
        sides = (p for p in range(min(h, w), 1, -1) if h % p == w % p == 0 and (h // p) * (w // p) >= 49)
        patch = next(sides, 1)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (h // patch) * (w // patch), width))
        self.blocks = nn.Sequential(*(_EncoderBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[b, channels, h, w] -> [b, classes]``."""
        patches = self.patches(inputs).flatten(2).transpose(1, 2)  # [b, patches, width]
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), patches], dim=1) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return out

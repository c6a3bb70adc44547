"""One layer of a chain, walked forwards and backwards, and what its gradient says of its input."""

import math
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn import grad as grads

from seepage.networks.layers import Activation

__all__ = ["REVERSIBLE", "Link"]

REVERSIBLE = {
    Activation.RELU: torch.relu,
    Activation.SIGMOID: torch.sigmoid,
    Activation.TANH: torch.tanh,
    Activation.NONE: torch.clone,
}


class _Geometry(TypedDict):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One layer of a chain and what follows it, for one example.

    Args:
        module: an ``nn.Linear`` or ``nn.Conv2d``.
        weight_name: as in ``named_parameters()``.
        bias_name: the same, ``None`` without one.
        activation: what follows.
        input_shape: ``[n]`` or ``[c, h, w]``.
        output_shape: ``[m]`` or ``[c', h', w']``.
    """

    module: nn.Linear | nn.Conv2d
    weight_name: str
    bias_name: str | None
    activation: Activation
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        """Else it is linear."""
        return isinstance(self.module, nn.Conv2d)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[k, *input_shape]`` to ``[k, *output_shape]``, with bias."""
        found: Tensor = self.module(inputs)
        return found

    def activate(self, outputs: Tensor) -> Tensor:
        """The activation of ``outputs``."""
        return REVERSIBLE[self.activation](outputs)

    def bias_of_outputs(self) -> Tensor:
        """The bias, to be added to ``[*output_shape]``."""
        weight, bias = self.module.weight.detach(), self.module.bias
        if bias is None:
            return weight.new_zeros(())
        return bias.detach().reshape(-1, *[1] * (len(self.output_shape) - 1))

    def linear(self, inputs: Tensor) -> Tensor:
        """``W x``: ``[*input_shape]`` to ``[*output_shape]``."""
        return self._linear(inputs[None])[0]

    def transposed(self, errors: Tensor) -> Tensor:
        """``W^T d``: any view of ``[*output_shape]`` to ``[*input_shape]``."""
        return self._transposed(errors.reshape(1, *self.output_shape))[0]

    def gradient(self, inputs: Tensor, errors: Tensor) -> Tensor:
        """The weight's gradient for an input ``[*input_shape]`` of a convolution and errors ``d``."""
        found: Tensor = grads.conv2d_weight(  # type: ignore[no-untyped-call]
            inputs[None], self.module.weight.shape, errors.reshape(1, *self.output_shape), **self._geometry
        )
        return found

    def gradient_transposed(self, gradient: Tensor, errors: Tensor) -> Tensor:
        """The transpose of :meth:`gradient` in ``inputs``: a gradient to ``[*input_shape]``."""
        found: Tensor = grads.conv2d_input(  # type: ignore[no-untyped-call]
            (1, *self.input_shape), gradient, errors.reshape(1, *self.output_shape), **self._geometry
        )
        return found[0]

    def normal_equations(self, errors: Tensor, weights: Tensor) -> tuple[Tensor, float, float]:
        """For a convolution's input: ``s A^T diag(weights) A + t B^T B``, ``s`` and ``t``.

        ``A`` is :meth:`linear`, ``B`` is :meth:`gradient` at ``errors``; ``s`` and ``t`` make their rows alike in size.

        Args:
            errors: ``d``, any view of ``[*output_shape]``.
            weights: ``[*output_shape]``, zero where the output is not known.
        """
        channels, size = self.input_shape[0], math.prod(self.input_shape)
        eye = torch.eye(size, dtype=errors.dtype, device=errors.device).reshape(size, *self.input_shape)
        forward = torch.cat(
            [self._transposed(self._linear(part) * weights).flatten(1) for part in torch.split(eye, 256)]
        )
        # A gradient's row sees one channel, and each channel in the same way.
        pixels = size // channels
        one = torch.eye(pixels, dtype=errors.dtype, device=errors.device).reshape(pixels, 1, *self.input_shape[1:])
        patches = F.unfold(one, tuple(self.module.weight.shape[2:]), **self._geometry)
        rows = torch.einsum("npl,ol->opn", patches, errors.reshape(self.output_shape[0], -1)).reshape(-1, pixels)
        shared = rows.T @ rows
        s = weights.sum() / forward.diagonal().sum().clamp_min(1e-300)
        t = rows.shape[0] / shared.diagonal().sum().clamp_min(1e-300)
        normal = s * forward
        for channel in range(channels):
            part = slice(channel * pixels, (channel + 1) * pixels)
            normal[part, part] += t * shared
        return normal, float(s), float(t)

    def _linear(self, inputs: Tensor) -> Tensor:
        weight = self.module.weight.detach()
        if not self.is_convolution:
            return inputs @ weight.T
        return F.conv2d(inputs, weight, **self._geometry)

    def _transposed(self, errors: Tensor) -> Tensor:
        weight = self.module.weight.detach()
        if not self.is_convolution:
            return errors @ weight
        found: Tensor = grads.conv2d_input(  # type: ignore[no-untyped-call]
            (len(errors), *self.input_shape), weight, errors, **self._geometry
        )
        return found

    @property
    def _geometry(self) -> "_Geometry":
        assert isinstance(self.module, nn.Conv2d), "a linear layer has none"
        down, across = (int(side) for side in self.module.padding)
        return _Geometry(
            stride=(self.module.stride[0], self.module.stride[1]),
            padding=(down, across),
            dilation=(self.module.dilation[0], self.module.dilation[1]),
        )

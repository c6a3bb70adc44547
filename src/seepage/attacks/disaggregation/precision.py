"""What rounding of the gradient makes of inputs and errors, and whether the bias gradient is off by no more.

The notation is that of :mod:`seepage.attacks.disaggregation.mixture`.
"""

import torch
from torch import Tensor

from seepage.attacks.disaggregation.mixture import Mixture

__all__ = ["error_of_errors", "error_of_inputs", "explains_bias"]

_MOST_UNEXPLAINED = 30.0  # times the rounding expected; true gradients were seen to reach 10, sparsified ones 1e3
_REPLAY_ERROR = 1e-6  # relative, of a direction that is the network's own error: float32 of client and spans


def error_of_inputs(mixture: Mixture, mixing: Tensor, inputs: Tensor, *, replayed: Tensor) -> Tensor:
    """What rounding of the gradient makes of each input, ``[b]``, as a share of its root mean square.

    ``X = Q^-1 R`` and ``R`` is off by what the singular values that were cut off have in an entry; a column of ``Q``
    that no zeros determine, by what rounding of the network's own pass leaves open: ``dX = -Q^-1 dQ X``.

    Args:
        mixture: of the attacked layer.
        mixing: ``Q [b, b]``, scales included.
        inputs: ``X [b, n]``.
        replayed: ``[b]`` bool, the columns of ``Q`` that no zeros determine.
    """
    size = inputs.square().mean(dim=1).sqrt()
    columns = torch.where(replayed, _REPLAY_ERROR * mixing.norm(dim=0) * size, 0.0).norm()
    error: Tensor = torch.linalg.inv(mixing).norm(dim=1) * (_entry_error(mixture) + columns)
    return error / size.clamp_min(1e-300)


def error_of_errors(mixture: Mixture, inputs: Tensor, errors: Tensor) -> Tensor:
    """What rounding of the gradient makes of each error ``[b]``, as a share of its length: ``dZ^T = gW X^+``.

    Args:
        mixture: of the attacked layer.
        inputs: ``X [b, n]``.
        errors: ``dZ [b, m]``.
    """
    moved: Tensor = torch.linalg.pinv(inputs).norm(dim=0) * (_entry_error(mixture) * errors.shape[1] ** 0.5)
    share: Tensor = moved / errors.norm(dim=1).clamp_min(1e-300)
    return share


def explains_bias(mixture: Mixture, errors: Tensor) -> bool:
    """Whether the bias gradient is the sum of the errors ``[b, m]``, up to rounding.

    ``gb = dZ^T 1`` lies in the span of ``L`` whatever the directions are, and sets every scale. It leaves the span
    where entries of it were dropped or changed, and where inputs depend on one another; all that come out are then
    wrong, of a changed bias in size alone.
    """
    layer = mixture.layer
    rows, columns = layer.weight.shape
    gradient, bias = layer.bias_gradient, layer.bias.double()
    own = torch.finfo(gradient.dtype).eps * float(errors.norm()) / rows**0.5
    weight_size = float(layer.weight.norm()) / (rows * columns) ** 0.5
    stored = layer.rounding * float(bias.norm()) / rows**0.5 / max(weight_size, 1e-300)
    residual = float((gradient.double() - errors.sum(dim=0)).norm()) / rows**0.5
    return bool(residual <= _MOST_UNEXPLAINED * (_entry_error(mixture) + own + stored))


def _entry_error(mixture: Mixture) -> float:
    """Root mean square error of the weight gradient's entries, by the singular values that were cut off."""
    rows, columns = mixture.layer.weight.shape
    return mixture.factors.noise * float(mixture.factors.singular[0]) / float(rows**0.5 + columns**0.5)

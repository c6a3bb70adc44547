"""What the last layer was given, example by example, and the linear map from there to the inputs."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.inverters.gradientfeatures import Hash
from seepage.attacks.inverters.pairs import Pair
from seepage.networks.layers import Activation

__all__ = ["EmbeddingMap", "read_embeddings", "read_labels"]

_MOST = 1536  # numbers of an embedding; more are hashed: a matrix of so many rows is decomposed
_DAMPINGS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LARGEST = 20.0  # standard deviations


class EmbeddingMap(nn.Module):
    """GIT's first step in closed form, for batches too, and a ridge regression from it to the inputs.

    At a last linear layer ``gW = D^T X`` with ``D [b, C]`` the rows ``(p - y) / b``. The labels are read from ``gb``
    and the public data's mean prediction, each example's ``p`` is taken to be the batch's mean, which ``gb`` and the
    labels give, and ``X`` follows by least squares: exactly for one example; examples of one class share a mean. Then
    the activation before it is undone, and the rest of the way is a linear map, fitted by :meth:`fit` and not trained.
    """

    probabilities: Tensor
    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        last, before = blueprint.layers[-1], blueprint.layers[-2:-1]
        self.examples, self.shape = blueprint.examples, blueprint.input_shape
        self.weight_name, self.bias_name = last.weight, str(last.bias)
        self.activation = Activation(before[0].activation) if before else Activation.NONE
        self.hash = Hash(last.shape[1], _MOST, blueprint.hash_seed + 1_000_001)
        self.outputs, pixels = self.hash.outputs, math.prod(self.shape)
        self.register_buffer("probabilities", torch.full((last.shape[0],), 1 / last.shape[0]))
        self.register_buffer("mean", torch.zeros(self.outputs))
        self.register_buffer("deviation", torch.ones(self.outputs))
        self.register_buffer("weight", torch.zeros(pixels, self.outputs))
        self.register_buffer("bias", torch.zeros(pixels))

    @staticmethod
    def fits(blueprint: Blueprint) -> bool:
        """The last layer has to be linear, on one row an example, with bias."""
        return blueprint.layers[-1].linear and blueprint.layers[-1].bias is not None

    def forward(self, gradients: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs ``[k, b, *shape]``, ordered by label, and what they were mapped from ``[k, b, outputs]``."""
        rows = self._scaled(self._embeddings(gradients, self.labels(gradients)))
        found = rows @ self.weight.T + self.bias
        return found.reshape(-1, self.examples, *self.shape), rows

    def labels(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, b]``, ascending: whole numbers nearest to ``b (p - gb)`` with the sum ``b``."""
        return read_labels(gradients[self.bias_name], self.probabilities, self.examples)

    def fit(self, training: Iterable[Pair], held_out: Iterable[Pair], predictions: Tensor) -> None:
        """Scales and the map, the ridge's weight by the error on held-out pairs; no gradient is kept.

        Args:
            training: groups of pairs; inputs and what the last layer was given are kept.
            held_out: the same.
            predictions: ``[C]``, the network's mean prediction.
        """
        self.probabilities.copy_(predictions)
        rows, truth = self._rows(training)  # [N, outputs], [N, pixels]
        if len(rows) < 2:
            return
        self.mean.copy_(rows.mean(dim=0))
        spread = rows.std(dim=0)
        noise = 1e-6 * (1 + self.mean.abs())  # a unit that does not vary says nothing
        self.deviation.copy_(torch.where(spread < noise, torch.full_like(spread, 1e6), spread))
        self.bias.copy_(truth.mean(dim=0))
        apart = self._scaled(rows).double()
        values, vectors = torch.linalg.eigh(apart.T @ apart)
        projected = vectors.T @ (apart.T @ (truth - self.bias).double())  # [outputs, pixels]
        seen, wanted = self._rows(held_out)
        seen = self._scaled(seen)
        least = math.inf
        for damping in _DAMPINGS:
            strength = values.clamp_min(0) + damping * values.mean().clamp_min(1e-30)
            weight = (vectors @ (projected / strength[:, None])).T.float()
            error = float((seen @ weight.T + self.bias - wanted).square().mean()) if len(seen) else damping
            if error < least:
                least = error
                self.weight.copy_(weight)

    def _scaled(self, rows: Tensor) -> Tensor:
        return ((rows - self.mean) / self.deviation).clamp(-_LARGEST, _LARGEST)

    def _rows(self, pairs: Iterable[Pair]) -> tuple[Tensor, Tensor]:
        """Embeddings and inputs in the same order, of the batches whose labels were read rightly."""
        rows, truth = [], []
        for gradients, inputs, labels in pairs:
            read = self.labels(gradients)
            right = (read == labels.sort(dim=1).values).all(dim=1)
            order = labels.argsort(dim=1, stable=True)
            sorted_ = torch.stack([one[places] for one, places in zip(inputs, order, strict=True)])
            rows.append(self._embeddings(gradients, read)[right].flatten(0, 1))
            truth.append(sorted_[right].flatten(0, 1).flatten(1))
        return torch.cat(rows), torch.cat(truth)

    def _embeddings(self, gradients: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """``[k, b, outputs]``, before scaling."""
        found = read_embeddings(gradients[self.weight_name], gradients[self.bias_name], labels, self.activation)
        k, b, n = found.shape
        hashed: Tensor = self.hash(found.float().reshape(k * b, n))
        return hashed.reshape(k, b, -1)


def read_labels(errors: Tensor, probabilities: Tensor, examples: int) -> Tensor:
    """``[k, b]``, ascending: whole numbers nearest to ``b (p - gb)`` with the sum ``b``.

    Args:
        errors: ``gb [k, C]`` of the last layer.
        probabilities: ``p [C]``, the network's mean prediction.
        examples: ``b``.
    """
    left = examples * (probabilities - errors)
    found = []
    for _ in range(examples):
        found.append(left.argmax(dim=1))
        left = left.scatter_add(1, found[-1][:, None], -torch.ones_like(left[:, :1]))
    return torch.stack(found, dim=1).sort(dim=1).values


def read_embeddings(weight: Tensor, bias: Tensor, labels: Tensor, activation: Activation) -> Tensor:
    """``[k, b, n]`` in float64: what the last layer was given, example by example, its activation undone.

    Args:
        weight: its gradients ``[k, C, n]``.
        bias: the same ``[k, C]``.
        labels: ``[k, b]``.
        activation: what the layer before ends with; sigmoid and tanh are undone.
    """
    weight, bias = weight.double(), bias.double()
    chosen = nn.functional.one_hot(labels, bias.shape[1]).double()  # [k, b, C]
    mean = bias + chosen.mean(dim=1)  # [k, C]
    errors = (mean[:, None] - chosen) / labels.shape[1]  # [k, b, C]
    found: Tensor = torch.linalg.pinv(errors.transpose(1, 2), rtol=1e-4) @ weight
    if activation is Activation.SIGMOID:
        return found.clamp(1e-4, 1 - 1e-4).logit()
    return found.clamp(1e-4 - 1, 1 - 1e-4).atanh() if activation is Activation.TANH else found

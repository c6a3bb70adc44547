"""PooledEmbedding: labels of an untrained network from one embedding for all classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels import LastLayer, batch_size, estimate, label_obstacles, silent, usable
from seepage.types import Observation, Obstacle, Progress, Reconstruction, go_on

__all__ = ["PooledEmbedding", "pooled_probabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledEmbedding:
    """``n = K (p - gb)`` with ``p`` the softmax at the least-squares embedding ``gW^T gb / |gb|^2``.

    Never divides by a single class's ``gb``, which vanishes where a class's share meets its probability: there iLRG
    amplifies noise. For networks near their initial state, where all examples have nearly the same probabilities; on
    trained networks it is poor. The result is approximate; ``stats`` say how sure.
    """

    @property
    def name(self) -> str:
        """``pooled``."""
        return "pooled"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs the bias of the last layer and the batch size."""
        return label_obstacles(observation)

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002 - draws nothing
        progress: Progress = go_on,  # noqa: ARG002 - quick
    ) -> Reconstruction:
        """See the class."""
        layer = usable(observation)
        failed = silent(layer, self.name)
        if failed is not None:
            return failed
        counts = batch_size(layer) * (pooled_probabilities(layer) - layer.gb)
        return estimate(counts, batch_size(layer), method=self.name)


def pooled_probabilities(layer: LastLayer) -> Tensor:
    """``[C]``: the softmax at the embedding that explains ``gW`` best if all examples had the same."""
    return layer.probabilities(layer.gW.T @ layer.gb / layer.gb.square().sum())

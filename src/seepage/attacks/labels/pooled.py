"""PooledEmbedding: labels of an untrained network from one embedding for all classes."""

from dataclasses import dataclass

from torch import Tensor

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.lastlayer import LastLayer

__all__ = ["PooledEmbedding", "pooled_probabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledEmbedding(LabelAttack):
    """``n = K (p - gb)`` with ``p`` the softmax at the least-squares embedding ``gW^T gb / |gb|^2``.

    Never divides by a single class's ``gb``, which vanishes where a class's share meets its probability: there iLRG
    amplifies noise. For networks near their initial state, where all examples have nearly the same probabilities; on
    trained networks it is poor. The result is approximate; ``stats`` say how sure.
    """

    @property
    def name(self) -> str:
        """``pooled``."""
        return "pooled"

    def counts(self, question: Question) -> Tensor:
        """``[C]``."""
        return question.examples * (pooled_probabilities(question.layer) - question.layer.gb)


def pooled_probabilities(layer: LastLayer) -> Tensor:
    """``[C]``: the softmax at the embedding that explains ``gW`` best if all examples had the same."""
    return layer.probabilities(layer.gW.T @ layer.gb / layer.gb.square().sum())

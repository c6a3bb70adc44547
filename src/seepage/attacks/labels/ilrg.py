"""ILRG: instance-wise label restoration from the gradients of the last layer (Ma et al., ICLR 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelcounts import to_labels
from seepage.types import Reconstruction

__all__ = ["ILRG"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ILRG(LabelAttack):
    """Class-wise embeddings, their probabilities, and a linear system for the counts, solved by Moore-Penrose.

    Approximate, with any activation. Where a class's share of the batch meets its probability its ``gb`` vanishes and
    the embedding with it: balanced batches with K far above C come out wrong (see :class:`PooledEmbedding`).

    Args:
        alpha: inverse temperature of the softmax (the paper: 1).
        published_rounding: round each count alone and set those above K to zero, as the reference does, so that the sum
            may differ from K; else simplex projection and largest remainders.

    Reference:
        Ma, Sun, Cui, Li, Guo, Liu: Instance-wise Batch Label Restoration via Gradients in Federated Learning.
    """

    alpha: float = 1.0
    published_rounding: bool = False

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"`alpha` should be positive; found {self.alpha}.")

    @property
    def name(self) -> str:
        """``ilrg``."""
        return "ilrg"

    def restored(self, question: Question) -> Reconstruction:
        """As the frame rounds, or as the paper does."""
        if not self.published_rounding:
            return LabelAttack.restored(self, question)
        rounded = self.counts(question).nan_to_num(0.0).clamp_min(0.0).round()
        rounded = torch.where(rounded > question.examples, 0.0, rounded)
        return to_labels(rounded, method=self.name, confidence="estimated")

    def counts(self, question: Question) -> Tensor:
        """``[C]``: the solution of the system."""
        layer, examples = question.layer, question.examples
        gb, classes = layer.gb[:, None], layer.classes
        embeddings = layer.gW / torch.where(gb == 0, 1e-10, gb)  # [C, m]
        embeddings = embeddings.clamp(-1e10, 1e10)  # the reference's exponents end at 10, too
        P = layer.probabilities(embeddings, sharpness=self.alpha)  # [C, C]
        A = torch.cat([P.new_ones(1, classes), P.T - torch.eye(classes, dtype=P.dtype, device=P.device)])
        v = torch.cat([layer.gb.new_tensor([examples]), examples * layer.gb])
        return _least_norm(A.cpu(), v.cpu()).to(v.device)


def _least_norm(A: Tensor, v: Tensor) -> Tensor:
    """The least-squares solution of least norm."""
    try:
        solution: Tensor = torch.linalg.lstsq(A, v[:, None], driver="gelsd").solution
    except RuntimeError:  # divide and conquer may not end where the singular values are nearly equal
        solution = torch.linalg.lstsq(A, v[:, None], driver="gelsy").solution
    return solution[:, 0]

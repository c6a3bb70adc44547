"""RLG: which classes are in a batch, by linear programming on the column space of the last layer's gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelcounts import to_labels
from seepage.attacks.labels.lastlayer import label_obstacles
from seepage.types import Observation, Obstacle, Reconstruction

__all__ = ["RLG"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RLG(LabelAttack):
    """Class c is present iff the column space holds a vector that is negative at c and nowhere else.

    The columns of ``gW = (1/K) sum_k d_k e_k^T`` span the loss gradients ``d_k``, each negative at its own class alone.
    Says which classes, not how often: one of each. From K = C - 1 examples on the space holds everything, and every
    class is called present. Needs neither bias nor batch size; called a guess, as every baseline.

    Args:
        rank_tol: singular values below so many rounding units of the largest one are noise.

    Reference:
        Dang, Thakkar, Ramaswamy, Mathews, Chin, Beaufays: Revealing and Protecting Labels in Distributed Training,
        NeurIPS 2021. Its perceptron, which only saves time, is left out.
    """

    rank_tol: float = 100.0

    def __post_init__(self) -> None:
        if not self.rank_tol > 0:
            raise ValueError(f"`rank_tol` should be positive; found {self.rank_tol}.")

    @property
    def name(self) -> str:
        """``rlg``."""
        return "rlg"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """A last layer, with or without bias."""
        return label_obstacles(observation, bias=False, examples=False)

    @property
    def divides_by_bias(self) -> bool:
        """It reads the weights alone."""
        return False

    def restored(self, question: Question) -> Reconstruction:
        """One of each class that is separable."""
        return to_labels(self.counts(question), method=self.name, confidence="guess")

    def counts(self, question: Question) -> Tensor:
        """``[C]`` 0 or 1 each."""
        layer = question.layer
        U, S, _ = torch.linalg.svd(layer.gW.cpu(), full_matrices=False)
        Q = U[:, self.rank_tol * layer.eps * S[0] < S]  # [C, r]
        return torch.tensor([_separable(Q, c) for c in range(layer.classes)], dtype=torch.int64)


def _separable(Q: Tensor, c: int) -> bool:
    """Whether some ``z`` has ``Q[c] z <= -1`` and ``Q[j] z >= 0`` for all other j."""
    from scipy.optimize import linprog

    rows, bound = -Q.clone(), torch.zeros(len(Q), dtype=Q.dtype)
    rows[c], bound[c] = Q[c], -1.0
    found = linprog(
        torch.zeros(Q.shape[1]).numpy(), A_ub=rows.numpy(), b_ub=bound.numpy(), bounds=(None, None), method="highs"
    )
    return bool(found.status == 0)

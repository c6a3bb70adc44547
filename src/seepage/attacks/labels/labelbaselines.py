"""What any label attack should be compared with: answers that cost nothing, and the rules that came before."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelcounts import among_present, round_counts, to_labels
from seepage.types import Reconstruction

__all__ = ["IDLG", "AllZeros", "EvenCounts", "PresentClasses", "SignRule", "UniformProbabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Baseline(LabelAttack):
    """One rule from the last layer to integer counts. Every result is called a guess."""

    def restored(self, question: Question) -> Reconstruction:
        """As they are, without a word on the error."""
        return to_labels(self.counts(question), method=self.name, confidence="guess")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllZeros(_Baseline):
    """No label at all: what LeAcc and LnAcc reward when most classes are absent."""

    @property
    def name(self) -> str:
        """``zeros``."""
        return "zeros"

    def counts(self, question: Question) -> Tensor:
        """Zeros."""
        return torch.zeros(question.layer.classes, dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenCounts(_Baseline):
    """K/C of each class, without a look at the update."""

    @property
    def name(self) -> str:
        """``even``."""
        return "even"

    def counts(self, question: Question) -> Tensor:
        """As even as integers allow."""
        examples, C = question.examples, question.layer.classes
        return round_counts(question.layer.gb.new_full((C,), examples / C), examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformProbabilities(_Baseline):
    """``n = K (1/C - gb)``: as if the network gave every class the same probability."""

    @property
    def name(self) -> str:
        """``uniform``."""
        return "uniform"

    def counts(self, question: Question) -> Tensor:
        """On the simplex, largest remainders."""
        examples, layer = question.examples, question.layer
        return round_counts(examples * (1 / layer.classes - layer.gb), examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentClasses(_Baseline):
    """:class:`UniformProbabilities`, on the classes alone whose row of ``gW`` has a negative entry, at least one each.

    Where embeddings come out of a ReLU such an entry proves the class; elsewhere it is uniform again.
    """

    @property
    def name(self) -> str:
        """``present-classes``."""
        return "present-classes"

    def counts(self, question: Question) -> Tensor:
        """On the simplex of those classes, largest remainders."""
        examples, layer = question.examples, question.layer
        uniform = examples * (1 / layer.classes - layer.gb)
        return round_counts(among_present(uniform, layer.present, examples), examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class IDLG(_Baseline):
    """One of each class whose row of ``gW`` has a negative sum (Zhao, Mopuri, Bilen 2020, extended to batches)."""

    @property
    def name(self) -> str:
        """``idlg-labels``: ``idlg`` is the gradient matching that starts from them."""
        return "idlg-labels"

    @property
    def divides_by_bias(self) -> bool:
        """It reads the weights alone."""
        return False

    def counts(self, question: Question) -> Tensor:
        """0 or 1 each."""
        return (question.layer.gW.sum(1) < 0).to(torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignRule(_Baseline):
    """One of each class whose row of ``gW`` has a negative entry, the K most negative at most (Yin et al. 2021)."""

    @property
    def name(self) -> str:
        """``sign-rule``."""
        return "sign-rule"

    @property
    def divides_by_bias(self) -> bool:
        """It reads the weights alone."""
        return False

    def counts(self, question: Question) -> Tensor:
        """0 or 1 each; right for embeddings that are never negative and batches without repeats."""
        lowest = question.layer.gW.amin(1)
        counts = torch.zeros(len(lowest), dtype=torch.int64, device=lowest.device)
        chosen = lowest.argsort(stable=True)[: question.examples]
        counts[chosen[lowest[chosen] < 0]] = 1
        return counts

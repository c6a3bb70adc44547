"""What any label attack should be compared with: answers that cost nothing, and the rules that came before."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labelcounts import on_simplex, round_counts
from seepage.attacks.labels import (
    LastLayer,
    batch_size,
    label_obstacles,
    silent,
    to_labels,
    usable,
)
from seepage.types import Observation, Obstacle, Progress, Reconstruction, go_on

__all__ = ["IDLG", "AllZeros", "EvenCounts", "SignRule", "UniformProbabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Baseline:
    """One rule from the last layer to counts. Every result is called a guess."""

    @property
    def name(self) -> str:
        raise NotImplementedError

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a last layer with a bias, and the batch size."""
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
        return failed or to_labels(self.counts(layer, batch_size(layer)), method=self.name, confidence="guess")

    def counts(self, layer: LastLayer, examples: int) -> Tensor:
        """``[C]`` int64."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class AllZeros(_Baseline):
    """No label at all: what LeAcc and LnAcc reward when most classes are absent."""

    @property
    def name(self) -> str:
        """``zeros``."""
        return "zeros"

    def counts(self, layer: LastLayer, examples: int) -> Tensor:  # noqa: ARG002
        """Zeros."""
        return torch.zeros(layer.classes, dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenCounts(_Baseline):
    """K/C of each class, without a look at the update."""

    @property
    def name(self) -> str:
        """``even``."""
        return "even"

    def counts(self, layer: LastLayer, examples: int) -> Tensor:
        """As even as integers allow."""
        return round_counts(layer.gb.new_full((layer.classes,), examples / layer.classes), examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformProbabilities(_Baseline):
    """``n = K (1/C - gb)``: as if the network gave every class the same probability."""

    @property
    def name(self) -> str:
        """``uniform``."""
        return "uniform"

    def counts(self, layer: LastLayer, examples: int) -> Tensor:
        """On the simplex, largest remainders."""
        return round_counts(on_simplex(examples * (1 / layer.classes - layer.gb), examples), examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class IDLG(_Baseline):
    """One of each class whose row of ``gW`` has a negative sum (Zhao, Mopuri, Bilen 2020, extended to batches)."""

    @property
    def name(self) -> str:
        """``idlg``."""
        return "idlg"

    def counts(self, layer: LastLayer, examples: int) -> Tensor:  # noqa: ARG002
        """0 or 1 each."""
        return (layer.gW.sum(1) < 0).to(torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignRule(_Baseline):
    """One of each class whose row of ``gW`` has a negative entry, the K most negative at most (Yin et al. 2021)."""

    @property
    def name(self) -> str:
        """``sign-rule``."""
        return "sign-rule"

    def counts(self, layer: LastLayer, examples: int) -> Tensor:
        """0 or 1 each; right for embeddings that are never negative and batches without repeats."""
        lowest = layer.gW.amin(1)
        counts = torch.zeros(layer.classes, dtype=torch.int64, device=lowest.device)
        chosen = lowest.argsort(stable=True)[:examples]
        counts[chosen[lowest[chosen] < 0]] = 1
        return counts

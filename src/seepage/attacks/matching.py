"""The published kinds of gradient matching: DLG, iDLG and Inverting Gradients are settings of one walk."""

from seepage.attacks.budget import Budget
from seepage.attacks.gradientmatching import GradientMatching
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.walk.descents import LBFGS, Adam
from seepage.attacks.walk.distances import Cosine
from seepage.attacks.walk.priors import TotalVariation
from seepage.types import Attack

__all__ = ["dlg", "idlg", "ig", "refined"]

_LAST = 1000  # iterations of signed Adam where L-BFGS did not match


def dlg(
    *, budget: Budget | None = None, starts: int = 8, start: Attack | None = None, name: str = "dlg"
) -> GradientMatching:
    """Deep Leakage from Gradients (Zhu et al., NeurIPS 2019): squared distance, L-BFGS, labels walked along.

    Where no start matches, one is walked again by signed Adam, which kinks of ReLU stop less.
    """
    return GradientMatching(
        name=name, double=True, starts=starts, start=start, last=Adam(iterations=_LAST), budget=budget or Budget()
    )


def idlg(
    *,
    labels: Attack | None = None,
    budget: Budget | None = None,
    starts: int = 8,
    start: Attack | None = None,
    name: str = "idlg",
) -> GradientMatching:
    """Improved DLG (Zhao et al. 2020): DLG with labels restored first, of batches too."""
    return GradientMatching(
        name=name,
        double=True,
        labels=labels or RestoreLabels(),
        starts=starts,
        start=start,
        last=Adam(iterations=_LAST),
        budget=budget or Budget(),
    )


def ig(
    *,
    labels: Attack | None = None,
    iterations: int = 2000,
    step: float = 0.1,
    total_variation: float = 1e-4,
    starts: int = 1,
    start: Attack | None = None,
    budget: Budget | None = None,
    name: str = "ig",
) -> GradientMatching:
    """Inverting Gradients (Geiping et al., NeurIPS 2020): cosine, signed Adam with a decaying step, total variation.

    Args:
        labels: restores them; :class:`RestoreLabels` if ``None``.
        iterations: of each start.
        step: the first; smaller where a start is near the inputs already.
        total_variation: weight of that prior at the first step.
        starts: walked at once.
        start: another attack whose reconstruction is the first start; :func:`refined` suits such starts better.
        budget: when to stop earlier.
        name: as findings should call it.
    """
    return GradientMatching(
        name=name,
        distance=Cosine(),
        optimizer=Adam(iterations=iterations, step=step),
        priors=(TotalVariation(weight=total_variation),),
        labels=labels or RestoreLabels(),
        starts=starts,
        start=start,
        budget=budget or Budget(),
    )


def refined(
    start: Attack,
    *,
    labels: Attack | None = None,
    iterations: int = 300,
    budget: Budget | None = None,
    name: str = "",
) -> GradientMatching:
    """Inverting Gradients' distance, walked by L-BFGS from the reconstruction of another attack.

    What no gradient tells stays as the start has it: signed Adam moves every pixel by the same step, and spoils there.

    Args:
        start: the other attack.
        labels: restores them; :class:`RestoreLabels` if ``None``.
        iterations: directions, of some two gradients each.
        budget: when to stop earlier.
        name: as findings should call it; ``START+ig`` if empty.
    """
    return GradientMatching(
        name=name or f"{start.name}+ig",
        distance=Cosine(),
        optimizer=LBFGS(iterations=iterations),
        labels=labels or RestoreLabels(),
        start=start,
        double=True,
        budget=budget or Budget(),
    )

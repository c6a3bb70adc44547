"""A whole batch made of directions, with what is known of each example."""

from dataclasses import dataclass

from torch import Tensor

from seepage.attacks.disaggregation.replay import Replay

__all__ = ["Solution", "better"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A full set of directions, closed.

    Args:
        inputs: ``[b, n]`` float64.
        errors: ``[b, m]`` float64, the disaggregated ``dZ``.
        score: ``[b]`` share of units where zeros and switched-off units agree.
        evident: ``[b]`` bool: a true example, however rough, or the mean of examples with parallel errors.
        firm: ``[b]`` bool: evident though directions that are not *pinned* may be wrong.
        lone: ``[b]`` bool: one example, as far as its share of the loss tells; others may be the mean of near-copies.
        input_error: ``[b]`` how uncertain rounding or noise of the update leaves the input, as a share of its root mean
            square.
        tolerance: the error above which an input is too rough to be called exact.
        error_tol: ``[b]`` up to which share of their root mean square rounding leaves the entries of each error open.
        replayed: fact 4, or why it was not asked.
    """

    inputs: Tensor
    errors: Tensor
    score: Tensor
    evident: Tensor
    firm: Tensor
    lone: Tensor
    input_error: Tensor
    tolerance: float
    error_tol: Tensor
    replayed: Replay | str

    @property
    def rough(self) -> Tensor:
        """``[b]`` bool: too uncertain to be called exact."""
        return ~(self.input_error <= self.tolerance)  # what is not a number is rough

    @property
    def certified(self) -> Tensor:
        """``[b]`` bool: true, precise, and no mean of several."""
        return self.evident & ~self.rough & self.lone


def better(before: Solution | None, after: Solution | None) -> Solution | None:
    """The one that proves more examples, the later one of equals.

    More directions need not choose better: among those left for the last faint examples may be combinations, and with
    a wrong one among them no example of the batch comes out right.
    """
    if before is None or after is None:
        return before or after
    proved = [(int(one.certified.sum()), int(one.evident.sum()), float(one.score.sum())) for one in (before, after)]
    return before if proved[0] > proved[1] else after

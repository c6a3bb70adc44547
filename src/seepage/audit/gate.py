"""Audit before sending: what leaks above a threshold is held back, and so is what nobody could judge."""

from dataclasses import dataclass

from seepage.audit.captured import CapturedAudit
from seepage.audit.record import Verdict
from seepage.errors import InputError
from seepage.federated.sinks import Decision
from seepage.federated.storage import Capture

__all__ = ["LeakGate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakGate:
    """A sink that attacks each capture and decides.

    Only an attack that came to its end with no more examples than allowed, certified or in doubt, releases an update.
    That an attack finds nothing is no proof that nothing leaks: a gate keeps in what one attack gets out, no more.

    Args:
        audit: network, attack and seed.
        threshold: share of a batch's examples that may be reconstructed, in [0, 1).
        release_unattackable: let go what the attack cannot run on, for example for want of a fitting layer.
    """

    audit: CapturedAudit
    threshold: float = 0.0
    release_unattackable: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"`threshold` should lie in [0, 1); found {self.threshold}.")

    def __call__(self, capture: Capture) -> Decision:
        """Attack it.

        Raises:
            InputError: the capture does not fit the network or lacks the state that was sent out, without which an
                attack would fail for the wrong reason; hooks hold the update back then.
        """
        if not capture.before:
            raise InputError("A capture should hold the state that was sent out to be judged; found none.")
        attacked = self.audit(capture)
        if attacked.obstacles:
            return Decision(release=self.release_unattackable, reason=attacked.describe())
        released = attacked.verdict(self.threshold) is Verdict.NOTHING_LEAKED
        return Decision(release=released, reason=attacked.describe())

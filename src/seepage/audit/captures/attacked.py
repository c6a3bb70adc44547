"""How the attack on a captured update ended, where the truth is not at hand: what is certain, in doubt, or silence."""

from dataclasses import dataclass

from seepage.audit.findings import ControlCase
from seepage.audit.record import Verdict
from seepage.audit.unread import unread_words
from seepage.types import INTERRUPTED, Reconstruction

__all__ = ["Attacked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """How the attack ended: with ``obstacles`` it could not run, with ``error`` it broke.

    Args:
        obstacles: why it could not run.
        error: what it broke with.
        reconstruction: what it returned.
        seconds: how long it took.
        batch_size: as the capture says.
        control: what the same attack did on random inputs, if it found nothing here.
        claim: the client's rule, by the capture's or its user's word, if certificates rest on it and on no replay.
        stated: whether anybody says what the client did. Else a difference of weights that gives nothing back may have
            been read wrongly: weight decay that nobody takes out hides everything.
        unread: matrices of the update whose part in the network was not understood.
    """

    obstacles: tuple[str, ...] = ()
    error: str | None = None
    reconstruction: Reconstruction | None = None
    seconds: float = 0.0
    batch_size: int | None = None
    control: ControlCase | None = None
    claim: str = ""
    stated: bool = True
    unread: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the attack came to an end of its own."""
        found = self.reconstruction
        return found is not None and found.stats.get("stopped") != INTERRUPTED

    @property
    def examples(self) -> int:
        """How many examples the client's batch had: as announced or as many as left a trace."""
        found = self.reconstruction
        traces = 0 if found is None else max(len(found.certified), int(found.stats.get("batch_size", 0)))
        return max(traces, self.batch_size or 0)

    @property
    def certified(self) -> int:
        """How many examples came out exactly, by a certificate that needs no truth."""
        return 0 if self.reconstruction is None else int(self.reconstruction.certified.sum())

    @property
    def uncertified(self) -> int:
        """How many reconstructed examples, or labels, may be right or wrong: only the truth can tell."""
        found = self.reconstruction
        given = found is not None and (found.inputs is not None or found.labels is not None)
        return len(found.certified) - self.certified if found is not None and given else 0

    @property
    def silent(self) -> bool:
        """Whether the attack came to its end and gave back nothing at all."""
        return self.ended and self.certified + self.uncertified == 0

    def verdict(self, threshold: float) -> Verdict:
        """LEAKED is certain; NOTHING_LEAKED is said only of an attack that ended with nothing in doubt.

        Silence counts only beside a control that the attack passed, of a client whose rule is stated and of a network
        that was understood; else it is INCONCLUSIVE.

        Args:
            threshold: share of the batch's examples that may be reconstructed exactly.
        """
        allowed = threshold * self.examples
        if self.certified > allowed:
            return Verdict.LEAKED
        if not self.ended or self.certified + self.uncertified > allowed:
            return Verdict.NOT_AUDITED
        sure = self.stated and not self.unread and self.control is not None and self.control.passed
        if self.silent and not sure:
            return Verdict.INCONCLUSIVE
        return Verdict.NOTHING_LEAKED

    def describe(self) -> str:
        """One sentence or two for people."""
        if self.obstacles:
            return "could not be attacked. " + " ".join(self.obstacles)
        if self.error is not None or self.reconstruction is None:
            return f"the attack broke: {self.error}"
        found = self.reconstruction
        beside = ""
        if self.silent and self.control is not None:
            case = self.control
            how = "passed." if case.passed else f"failed, so that this silence is inconclusive. {case.reason}"
            on = "1 random input" if case.batch_size == 1 else f"{case.batch_size} random inputs"
            beside = f" Positive control on {on}: {how}"
        if self.silent and not self.stated:
            beside += " Nobody stated what the client did (`--rule`): this silence is inconclusive."
        if self.silent and self.unread:
            beside += f" Inconclusive: {unread_words(self.unread)}."
        if self.claim:
            beside = f" Certified if the client's rule is {self.claim}, as is claimed: no replay can test that."
        doubt = f", {self.uncertified} uncertified (right or wrong: only the truth tells)" if self.uncertified else ""
        return (
            f"{found.outcome}, {self.certified} examples certified{doubt}, {self.seconds:.1f} s. {found.reason}{beside}"
        )

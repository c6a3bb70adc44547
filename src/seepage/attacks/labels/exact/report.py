"""Restored examples as a reconstruction: how many labels are certified, estimated or guessed, and a sentence on it."""

import torch

from seepage.attacks.labels.exact.balancedlabels import RestoredExamples
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.types import Outcome, Reconstruction

__all__ = ["reported"]


def reported(layer: LastLayer, found: RestoredExamples | str, method: str) -> Reconstruction:
    """EXACT if every example is there, certified, and their number known; a guess where nothing is certified.

    A batch size that the gradient tells is told up to a multiple: copies of the whole batch have the same mean. All
    labels are certified then, and the outcome is not EXACT (docs/decisions/0013).

    Args:
        layer: what was read.
        found: the examples, or a sentence on why there are none.
        method: the attack's name.
    """
    if isinstance(found, str):
        return Reconstruction(outcome=Outcome.FAILED, reason=found, stats={"method": method})
    if found.examples == 0 or len(found.labels) == 0:
        return Reconstruction(
            outcome=Outcome.FAILED,
            reason=f"No example was found at rank {found.rank}: soft labels, noise, several steps, or too many.",
            stats={"method": method, "rank": found.rank},
        )
    guessed = torch.repeat_interleave(torch.arange(layer.classes), found.rest)
    labels = torch.cat([found.labels, guessed])
    order = labels.argsort(stable=True)
    certified = torch.cat([found.certified, torch.zeros(len(guessed), dtype=torch.bool)])[order]
    whole, sure = found.sized and bool(certified.all()), int(certified.sum())
    known = max(sure, found.fitting)
    error = len(guessed) / len(labels) if layer.deviation else 1 - known / len(labels)
    confidence = "certified" if whole else "estimated" if known or layer.deviation else "guess"
    return Reconstruction(
        outcome=Outcome.EXACT if whole and layer.examples is not None else Outcome.APPROXIMATE,
        labels=labels[order],
        certified=certified,
        reason=_how_sure(layer, found, sure, len(labels)),
        stats={
            "method": method,
            "confidence": confidence,
            "examples": found.examples,
            **({} if confidence == "guess" else {"expected_error": error}),
            "found": len(found.labels),
            "rank": found.rank,
            "residual": found.residual,
            **({"smoothing": found.smoothing} if found.smoothing else {}),
            **({"fitting": found.fitting} if found.fitting else {}),
        },
    )


def _how_sure(layer: LastLayer, found: RestoredExamples, sure: int, labels: int) -> str:
    if layer.deviation:
        return f"{len(found.labels)} of {labels} examples found under the noise, which leaves nothing to certify."
    if found.fitting:
        return (
            f"Each of {labels} examples has entries of its own in the layer before the last; {found.fitting} of them "
            f"have errors that go with their inputs there. {sure} labels are certified."
        )
    if not sure:
        return f"{len(found.labels)} of {labels} examples found, none certified: they do not reproduce the gradient."
    under = f" under label smoothing of {found.smoothing:.3g}" if found.smoothing else ""
    said = f"{sure} of {labels} labels are certified: their examples reproduce the gradient{under}."
    if layer.examples is not None:
        return said
    if not found.sized:
        return f"{said} There may be more: clipping hides how many copies of an example there were."
    return f"{said} The batch is these, or several copies of them all, which no gradient tells apart (grant its size)."

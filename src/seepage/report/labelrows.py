"""A finding on labels alone -> what the page shows of it: how many of each class were there, and were restored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from seepage.audit.findings import Finding

__all__ = [
    "LabelCounts",
    "LabelRow",
    "count_labels",
    "label_rows",
    "label_sentences",
    "label_status",
    "nothing_certain",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One class of one batch."""

    name: str
    true: int
    restored: int
    certified: int

    @property
    def right(self) -> bool:
        return self.true == self.restored


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Labels of a run, over the batches that an attack on labels alone came to an answer on.

    Args:
        batches: of such.
        settled: with every class's number right.
        labels: true ones in them.
        right: restored, each as often as it was there.
        certified: with a certificate, wrong ones included.
        wrong: certified labels that the batch did not hold.
        leaked: given away: all of a batch whose every class is right, else those certified and right.
    """

    batches: int = 0
    settled: int = 0
    labels: int = 0
    right: int = 0
    certified: int = 0
    wrong: int = 0
    leaked: int = 0


def count_labels(batches: Sequence[Sequence[Finding]]) -> LabelCounts:
    """Of several attacks on one batch the best counts; a wrong certificate of any counts.

    Args:
        batches: the findings of each batch.
    """
    rows = [[one for one in findings if one.restores_labels] for findings in batches]
    rows = [findings for findings in rows if findings]
    wrong = [max(one.wrong_certified for one in findings) for findings in rows]
    return LabelCounts(
        batches=len(rows),
        settled=sum(any(one.scores["exact_vector"] == 1.0 for one in findings) for findings in rows),
        labels=sum(findings[0].batch_size for findings in rows),
        right=sum(max(one.right_labels for one in findings) for findings in rows),
        certified=sum(max(sum(one.certified) for one in findings) for findings in rows) + sum(wrong),
        wrong=sum(wrong),
        leaked=sum(max(one.leaked_labels for one in findings) for findings in rows),
    )


def label_rows(finding: Finding, class_names: Sequence[str]) -> tuple[LabelRow, ...]:
    """Every class that was there or was restored, in the order of the classes."""
    true, restored = Counter(finding.true_labels), Counter(finding.labels)
    pairs = zip(finding.true_labels or [], finding.certified, strict=False)
    sure = Counter(label for label, certified in pairs if certified)
    return tuple(
        LabelRow(name=_named(label, class_names), true=true[label], restored=restored[label], certified=sure[label])
        for label in sorted({*true, *restored})
    )


def label_status(finding: Finding) -> str:
    """Beside the batch's number."""
    size, sure, wrong = finding.batch_size, sum(finding.certified), finding.wrong_certified
    sure_words = f"{sure + wrong} certified" + (f", {wrong} of them wrongly" if wrong else "")
    return f"{finding.right_labels} of {size} labels right, {sure_words}"


def label_sentences(counts: LabelCounts) -> tuple[str, str]:
    """What a run gave away of labels, in two plain sentences."""
    first = f"The labels of {counts.leaked} of {counts.labels} private examples were restored from what the client sent"
    first += f"; in {counts.settled} of {counts.batches} batches every class was counted right."
    if counts.wrong:
        return first, f"{counts.certified} carry a certificate, {counts.wrong} of them wrongly: rely on none of them."
    if not counts.certified:
        return first, "None carries a certificate: they are estimates that the originals show to be right."
    return first, (
        f"{counts.certified} carry a certificate: the server can tell, without ever seeing a label, that it is right."
    )


def nothing_certain(counts: LabelCounts) -> tuple[str, str]:
    """The same where no batch came out right in every class and nothing is certified."""
    return (
        f"In none of {counts.batches} attacked batches was every class counted right; {counts.right} of "
        f"{counts.labels} labels are right: judge below what that tells.",
        "None is certified, which is not proof that nothing leaks: a stronger attack or another batch may succeed.",
    )


def _named(label: int, class_names: Sequence[str]) -> str:
    if label < 0:
        return "unknown"
    return str(class_names[label]) if label < len(class_names) else f"class {label}"

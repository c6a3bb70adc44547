"""What the report says of labels alone: counts beside counts, and nothing of it on a redacted page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seepage.audit.findings import ControlCase, Finding
from seepage.report.html import write_report
from seepage.report.summary import Verdict, summarize

MakeFinding = Callable[..., Finding]
MakeRun = Callable[..., Path]
NUMBERS = {"leacc": 0.9, "lnacc": 0.8, "exact_vector": 0.0, "l1_half": 0.25, "wrong_certified": 0.0}
PLAIN: dict[str, Any] = {
    "attack": "labels",
    "outcome": "approximate",
    "batch_size": 4,
    "labels": [0, 1, 1, 2],
    "true_labels": [2, 0, 2, 1],
    "certified": [False, True, False, True],
    "scores": NUMBERS,
}
RIGHT = {**PLAIN, "labels": [0, 1, 2, 2], "certified": [False] * 4, "scores": {**NUMBERS, "exact_vector": 1.0}}


def test_counts_stand_beside_the_true_ones(make_run: MakeRun, finding: MakeFinding) -> None:
    page = write_report(make_run(finding(**PLAIN), class_names=["ant", "bee", "cat"])).read_text()
    assert '<th scope="row">ant</th><td>1</td><td>1</td><td>1</td>' in page
    assert '<th scope="row">cat</th><td>2</td><td class="off"><span class="hide">wrong: </span>1</td><td>0</td>' in page
    assert "3 of 4 labels right, 2 certified" in page
    assert 'class="tiles' not in page
    assert "examples exact, by the originals" not in page
    assert "labels certified, without them" in page


def test_a_redacted_page_names_no_class(make_run: MakeRun, finding: MakeFinding) -> None:
    run = make_run(finding(**PLAIN), class_names=["ant", "bee", "cat"])
    page = write_report(run, redact=True).read_text()
    assert not any(word in page for word in (">ant<", ">bee<", ">cat<"))
    assert "3 of 4 labels right" in page


def test_what_leaks_is_what_is_certified_or_right_in_every_class(finding: MakeFinding) -> None:
    some = summarize([finding(**PLAIN)])
    assert some.verdict is Verdict.LEAKED
    assert some.counts.labels.leaked == 2
    assert (some.counts.exact, some.counts.certified, some.counts.examples) == (0, 0, 0)
    every = summarize([finding(**RIGHT)])
    assert every.verdict is Verdict.LEAKED
    assert every.counts.labels.settled == 1
    assert "None carries a certificate" in every.sentences[1]
    passed = ControlCase(batch_size=1, rule="fedsgd", outcome="exact", exact=1, recovered=1, passed=True, seconds=0.1)
    nearly = summarize([finding(**{**PLAIN, "certified": [False] * 4, "control": passed})])
    assert nearly.verdict is Verdict.NOTHING_FOUND
    assert "3 of 4 labels are right" in nearly.sentences[0]


def test_a_wrong_certificate_is_said_aloud(make_run: MakeRun, finding: MakeFinding) -> None:
    wrong = finding(**{**PLAIN, "scores": {**NUMBERS, "wrong_certified": 1.0}})
    assert "1 certified label is" in write_report(make_run(wrong)).read_text()
    assert "rely on none of them" in summarize([wrong]).sentences[1]


def test_labels_do_not_dilute_the_examples_of_other_attacks(finding: MakeFinding) -> None:
    two = {"batch_size": 2, "certified": [True, True], "labels": [0, 1], "true_labels": [0, 1]}
    both = summarize([finding(), finding(**{**RIGHT, **two})])
    assert (both.counts.exact, both.counts.examples) == (2, 2)
    assert both.counts.labels.labels == 2
    assert both.counts.batches == 1

"""The verdict says what the counts say, never less and never "safe"."""

from collections.abc import Callable
from typing import Any

import pytest

from seepage.audit.findings import ControlCase, Finding
from seepage.report.summary import Verdict, summarize
from seepage.types import INTERRUPTED

Make = Callable[..., Finding]

NOTHING: dict[str, Any] = {"outcome": "failed", "certified": [], "scores": {}, "reason": "none found."}
CONTROL: dict[str, Any] = {
    "batch_size": 4,
    "rule": "fedsgd",
    "outcome": "exact",
    "exact": 4,
    "recovered": 4,
    "passed": True,
    "seconds": 1.0,
}
MISSED: dict[str, Any] = {**CONTROL, "outcome": "failed", "exact": 0, "recovered": 0, "passed": False}
REFUSED: dict[str, Any] = {"outcome": None, "certified": [], "scores": {}, "obstacles": ["layer 0: is GELU."]}
BROKEN: dict[str, Any] = {"outcome": None, "certified": [], "scores": {}, "error": "RuntimeError: no"}
STOPPED: dict[str, Any] = {**NOTHING, "stats": {"stopped": INTERRUPTED}}


def test_a_leak_gives_exact_counts_in_two_sentences(finding: Make) -> None:
    partly = finding(
        batch=1, outcome="approximate", certified=[True, False], scores={"psnr": [99.0, 9.0], "exact": [True, False]}
    )
    summary = summarize([finding(), partly])
    assert summary.verdict is Verdict.LEAKED
    assert summary.sentences[0].startswith("3 of 4 private examples were reconstructed exactly")
    assert summary.sentences[1].startswith("3 carry a certificate")
    assert (summary.counts.batches, summary.counts.settled) == (2, 1)


def test_nothing_found_is_said_not_to_be_proof(finding: Make) -> None:
    summary = summarize([finding(**NOTHING, control=CONTROL)])
    assert summary.verdict is Verdict.NOTHING_FOUND
    assert "This attack found nothing, which is not proof that nothing leaks" in summary.sentences[1]


@pytest.mark.parametrize(("control", "words"), [(None, "was not tried"), (MISSED, "failed its positive control")])
def test_silence_without_a_passed_control_is_inconclusive(
    finding: Make, control: dict[str, Any] | None, words: str
) -> None:
    summary = summarize([finding(**NOTHING, control=control), finding(**NOTHING, batch=1, control=CONTROL)])
    assert summary.verdict is Verdict.INCONCLUSIVE
    assert summary.counts.inconclusive == 1
    assert words in summary.sentences[0]


def test_approximations_are_not_called_nothing(finding: Make) -> None:
    near = finding(
        outcome="approximate", certified=[False, False], scores={"psnr": [24.0, 26.0], "exact": [False, False]}
    )
    summary = summarize([near.model_copy(update={"control": ControlCase(**CONTROL)})])
    assert summary.verdict is Verdict.NOTHING_FOUND
    assert "judge them below" in summary.sentences[0]
    assert "not proof" in summary.sentences[1]


def test_what_is_recognisable_is_a_leak_that_is_not_called_exact(finding: Make) -> None:
    shown = {"psnr": [24.0, 19.0], "exact": [False, False], "recognisable": [True, False]}
    summary = summarize([finding(outcome="approximate", certified=[False, False], scores=shown)])
    assert summary.verdict is Verdict.LEAKED
    assert summary.sentences[0].startswith("1 of 2 private examples came out recognisably")
    assert "none of them exactly" in summary.sentences[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [(REFUSED, "1 could not be attacked"), (BROKEN, "1 ended in an error"), (STOPPED, "1 was interrupted")],
)
def test_what_did_not_come_to_an_end_could_not_be_audited(finding: Make, changes: dict[str, Any], words: str) -> None:
    summary = summarize([finding(**changes)])
    assert summary.verdict is Verdict.NOT_AUDITED
    assert words in summary.sentences[0]


@pytest.mark.parametrize("changes", [REFUSED, BROKEN, STOPPED])
def test_silence_in_one_batch_does_not_speak_for_another(finding: Make, changes: dict[str, Any]) -> None:
    summary = summarize([finding(**NOTHING), finding(batch=1, **changes)])
    assert summary.verdict is Verdict.NOT_AUDITED
    assert "audited only in part" in summary.sentences[0]


def test_an_attack_that_was_stopped_is_not_said_to_have_come_to_an_end(finding: Make) -> None:
    summary = summarize([finding(**STOPPED)], missing=5)
    assert summary.sentences[0].endswith("of 6 batches, 1 was interrupted, 5 were not reached.")
    assert summary.sentences[1].startswith("No attack came to its end")


def test_batches_that_were_not_reached_are_not_audited(finding: Make) -> None:
    summary = summarize([finding(**NOTHING)], missing=2)
    assert summary.verdict is Verdict.NOT_AUDITED
    assert "2 were not reached" in summary.sentences[0]


def test_a_leak_outweighs_a_batch_that_could_not_be_attacked(finding: Make) -> None:
    summary = summarize([finding(), finding(batch=1, **REFUSED)])
    assert summary.verdict is Verdict.LEAKED
    assert "2 of 2 private examples in the 1 of 2 batches" in summary.sentences[0]


def test_certified_but_wrong_is_counted_and_takes_the_certificate_back(finding: Make) -> None:
    summary = summarize([finding(scores={"psnr": [120.0, 9.0], "exact": [True, False]})])
    assert summary.counts.wrong == 1
    assert "rely on none of them" in summary.sentences[1]


def test_an_example_that_two_attacks_reconstruct_counts_once(finding: Make) -> None:
    summary = summarize([finding(), finding(attack="other")])
    assert (summary.counts.batches, summary.counts.examples, summary.counts.exact) == (1, 2, 2)
    assert [row.attack for row in summary.attacks] == ["spear", "other"]


def test_inputs_of_an_inner_layer_are_not_called_the_examples(finding: Make) -> None:
    summary = summarize([finding(layer="fc2")])
    assert "inputs of an inner layer (fc2)" in summary.sentences[0]
    assert "the examples themselves were not" in summary.sentences[0]


def test_no_findings_could_not_be_audited() -> None:
    assert summarize([]).verdict is Verdict.NOT_AUDITED


def test_no_sentence_of_any_verdict_says_that_nothing_leaks_without_its_not(finding: Make) -> None:
    controls = ({**NOTHING, "control": CONTROL}, {**NOTHING, "control": MISSED})
    for changes in (NOTHING, *controls, REFUSED, BROKEN, STOPPED):
        text = " ".join(summarize([finding(**changes)]).sentences).lower()
        assert "no leak" not in text
        assert "safe" not in text

"""The worst record stands on the page: the column, the class and the examples that are given away first."""

from collections.abc import Callable
from pathlib import Path

from seepage.audit.findings import Finding
from seepage.report.exposure import exposure
from seepage.report.html import write_report

Make = Callable[..., Finding]
MakeRun = Callable[..., Path]


def partly(finding: Make, **changes: object) -> Finding:
    """Four examples of two classes, the first two of them exact."""
    scores = {"psnr": [90.0, 90.0, 5.0, None], "exact": [True, True, False, False], "units_alone": [3, 0, 1, 0]}
    plain = {"batch_size": 4, "certified": [False] * 4, "scores": scores, "true_labels": [1, 1, 1, 0]}
    return finding(**{**plain, "outcome": "approximate", **changes})


def test_the_most_exposed_class_comes_first(finding: Make) -> None:
    found = exposure([partly(finding)], class_names=["cat", "dog"], redact=False)
    assert [(one.name, str(one)) for one in found.classes] == [("dog", "2 of 3"), ("cat", "0 of 1")]
    assert "The most exposed class is dog, exact for 2 of 3 examples; the least is cat, with 0 of 1." in found.sentences


def test_a_column_is_exact_for_so_many_rows_of_all_batches(finding: Make) -> None:
    scores = {"exact": [False, False], "error:age": [0.0, 0.0], "right:work": [True, False], "error:hours": [None, 2.0]}
    rows = [finding(batch=batch, scores=scores, true_labels=[0, 0]) for batch in (0, 1)]
    found = exposure(rows, class_names=[], redact=True)
    assert [(one.name, str(one)) for one in found.columns] == [
        ("age", "4 of 4"),
        ("work", "2 of 4"),
        ("hours", "0 of 4"),
    ]
    assert found.sentences == ("The most exposed column is age, exact for 4 of 4 rows.",)


def test_an_example_that_two_attacks_find_counts_once(finding: Make) -> None:
    other = {"psnr": [90.0, 5.0, 90.0, None], "exact": [True, False, True, False]}
    found = exposure([partly(finding), partly(finding, attack="b", scores=other)], class_names=[], redact=False)
    assert [(one.name, str(one)) for one in found.classes] == [("class 1", "3 of 3"), ("class 0", "0 of 1")]


def test_why_is_said_of_examples_that_one_unit_gives_away(finding: Make) -> None:
    text = " ".join(exposure([partly(finding)], class_names=[], redact=True).sentences)
    assert "2 of 4 examples switch on a unit of the attacked layer that no other example" in text
    assert (
        "Of such examples, 1 came out exactly or recognisably. Example 1 of batch 0 has the most such units, 3." in text
    )
    assert "misses such examples" in text


def test_what_did_not_come_to_a_result_counts_for_nothing(finding: Make) -> None:
    refused = finding(outcome=None, obstacles=["none fits"], certified=[], scores={})
    assert exposure([refused], class_names=[], redact=False).sentences == ()


def test_where_all_is_lost_no_class_is_spared(finding: Make) -> None:
    found = exposure([finding(true_labels=[0, 1])], class_names=["cat", "dog"], redact=False)
    assert found.sentences == ("No class is spared: all examples of each came out exactly.",)


def test_a_redacted_page_names_no_class_and_counts_none(finding: Make, make_run: MakeRun) -> None:
    run = make_run(partly(finding), class_names=["class-alpha", "class-beta"])
    page = write_report(run).read_text(encoding="utf8")
    assert "The most exposed class is class-beta" in page
    redacted = write_report(run, redact=True).read_text(encoding="utf8")
    assert "Who is most exposed" in redacted
    assert "exposed class" not in redacted
    assert "class-alpha" not in redacted


def test_what_came_out_recognisably_was_not_missed(finding: Make) -> None:
    scores = {"exact": [False] * 4, "recognisable": [True] * 4, "psnr": [40.0] * 4, "units_alone": [3, 0, 1, 0]}
    text = " ".join(exposure([partly(finding, scores=scores)], class_names=[], redact=True).sentences)
    assert "Of such examples, 2 came out exactly or recognisably." in text
    assert "misses such examples" not in text

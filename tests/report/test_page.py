"""The page holds what it should, nothing it must not, and nothing from elsewhere."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from seepage.audit.findings import Finding
from seepage.errors import InputError
from seepage.report.html import write_report
from seepage.types import INTERRUPTED

Make = Callable[..., Finding]
MakeRun = Callable[..., Path]
Pictures = Callable[..., str]

TABLE: dict[str, Any] = {
    "columns": {
        "age": ["3939", None],
        "age (original)": ["3939", "5050"],
        "work": ["State-gov-found", None],
        "work (original)": ["Never-worked", "Private-original"],
    },
    "scores": {
        "psnr": [120.0, None],
        "exact": [False, False],
        "error:age": [0.0, None],
        "right:work": [False, False],
    },
    "certified": [False, False],
    "outcome": "approximate",
}


class _Page(HTMLParser):
    """Collects tags, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page(run: Path, *, redact: bool = False) -> str:
    return write_report(run, redact=redact).read_text(encoding="utf8")


def test_nothing_on_the_page_comes_from_elsewhere(finding: Make, make_run: MakeRun, pictures: Pictures) -> None:
    text = page(make_run(finding(artifact=pictures())))
    parsed = _Page(text)
    references = [a[key] or "" for _, a in parsed.tags for key in ("src", "href", "xlink:href", "action") if key in a]
    assert len(parsed.of("img")) == 2 * 4  # under the headline, and with their figures
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in references)
    assert not parsed.of("script")
    assert not parsed.of("link")
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert not re.search(r"url\((?!#)", text)


def test_every_picture_has_an_alternative_text_and_every_header_a_scope(
    finding: Make, make_run: MakeRun, pictures: Pictures
) -> None:
    parsed = _Page(page(make_run(finding(artifact=pictures()), knowledge=[["the update", True, "sent"]])))
    assert all(picture.get("alt") for picture in parsed.of("img"))
    assert all(header.get("scope") in ("col", "row") for header in parsed.of("th"))
    assert all(plot.get("aria-label") for plot in parsed.of("svg"))
    assert len(parsed.of("h1")) == len(parsed.of("main")) == 1
    identities = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(identities) == len(set(identities))


def test_strings_from_files_are_escaped_wherever_they_stand(
    finding: Make, make_run: MakeRun, pictures: Pictures
) -> None:
    evil = "<script>alert(1)</script>\"'$x$"
    shown = finding(attack=evil, network=evil, device=evil, layer=evil, reason=evil, stats={evil: evil}, labels=[0, 1])
    table = finding(batch=1, attack="b", columns={evil: [evil, evil], f"{evil} (original)": [evil, "x"]})
    refused = finding(batch=2, attack="c", outcome=None, obstacles=[evil])
    broken = finding(batch=3, attack="d", outcome=None, error=evil)
    missing = finding(batch=4, attack="e", artifact=f"{evil}.safetensors".replace("/", ""))
    run = make_run(
        *(shown, table, refused, broken, missing),
        **{"class_names": [evil, evil], "command": evil, "data": evil, "normalize": evil},
        knowledge=[[evil, True, evil]],
        versions={evil: evil},
    )
    for redact in (False, True):
        text = page(run, redact=redact)
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_a_redacted_page_holds_no_picture_cell_label_or_text_of_an_error(
    finding: Make, make_run: MakeRun, pictures: Pictures
) -> None:
    run = make_run(
        finding(artifact=pictures(), labels=[0, 1], stats={"rank": 2, "note": "quotes-4711"}),
        finding(batch=1, **TABLE, labels=[0, 1]),
        finding(batch=2, outcome=None, error="ValueError: saw quotes-4711"),
        class_names=["class-alpha", "class-beta"],
    )
    private = ["data:image/png", "3939", "5050", "State-gov-found", "Never-worked", "Private-original"]
    private += ["class-alpha", "class-beta", "quotes-4711"]
    open_page, redacted = page(run), page(run, redact=True)
    assert all(word in open_page for word in private)
    assert not any(word in redacted for word in private)
    assert not _Page(redacted).of("img")
    assert "ValueError" in redacted
    assert "120.0 dB" in redacted


def test_cells_stand_beside_their_originals_and_wrong_ones_are_marked_by_more_than_colour(
    finding: Make, make_run: MakeRun
) -> None:
    text = page(make_run(finding(**TABLE), kind="table"))
    assert "<td>3939</td><td>3939</td>" in text
    assert '<td>Never-worked</td><td class="off"><span class="hide">wrong: </span>State-gov-found</td>' in text
    assert '<td>5050</td><td class="absent">not found</td>' in text
    assert 'td.off::before { content: "≠ "; }' in text
    assert "0 of 2 right" in text
    assert "1 of 2 right, off by at most 0" in text


def test_certified_but_wrong_is_shouted(finding: Make, make_run: MakeRun, pictures: Pictures) -> None:
    wrong = finding(scores={"psnr": [120.0, 9.0], "exact": [True, False]}, artifact=pictures())
    text = page(make_run(wrong))
    assert 'role="alert"' in text
    assert "1 certified example is wrong." in text
    assert "certified but wrong</strong>" in text
    assert 'role="alert"' not in page(make_run(finding()))


def test_each_ending_is_called_by_its_name(finding: Make, make_run: MakeRun) -> None:
    bare: dict[str, Any] = {"certified": [], "scores": {}}
    text = page(
        make_run(
            finding(outcome="failed", reason="Nothing survived.", **bare),
            finding(batch=1, outcome=None, obstacles=["layer 0: is followed by GELU."], **bare),
            finding(batch=2, outcome=None, error="RuntimeError: burst", **bare),
        )
    )
    assert "This attack found nothing, which is not proof that nothing leaks." in text
    assert "layer 0: is followed by GELU." in text
    assert "The attack was not run, which says nothing about what this batch gives away." in text
    assert "RuntimeError: burst" in text
    assert "Audited only in part" in text


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/secret.safetensors", "artifacts/../../secret.safetensors"]
)
def test_a_path_out_of_the_run_is_not_opened(
    finding: Make, make_run: MakeRun, pictures: Pictures, tmp_path: Path, name: str
) -> None:
    source = tmp_path / pictures()
    outside = tmp_path.parent / "secret.safetensors"
    outside.write_bytes(source.read_bytes())
    text = page(make_run(finding(artifact=name)))
    assert "were not opened" in text
    assert "data:image" not in text


def test_a_link_out_of_the_run_is_not_followed(
    finding: Make, make_run: MakeRun, pictures: Pictures, tmp_path: Path
) -> None:
    source = tmp_path / pictures()
    outside = tmp_path.parent / "linked.safetensors"
    outside.write_bytes(source.read_bytes())
    (tmp_path / "artifacts" / "link.safetensors").symlink_to(outside)
    assert "were not opened" in page(make_run(finding(artifact="artifacts/link.safetensors")))


@pytest.mark.parametrize("content", [None, b"", b"no tensors", b"\x08" + bytes(7) + b"{broken}"])
def test_pictures_that_are_missing_or_broken_are_said_to_be(
    finding: Make, make_run: MakeRun, tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "artifacts").mkdir()
    if content is not None:
        (tmp_path / "artifacts" / "x.safetensors").write_bytes(content)
    text = page(make_run(finding(artifact="artifacts/x.safetensors")))
    assert ("The pictures are missing" if content is None else "could not be read") in text
    assert "120.0 dB" in text


def test_tensors_that_are_no_pictures_are_not_drawn(finding: Make, make_run: MakeRun, pictures: Pictures) -> None:
    features = torch.rand(2, 5)
    text = page(make_run(finding(artifact=pictures(originals=features, reconstructions=features.clone()))))
    assert "which is no picture" in text


def test_a_large_batch_shows_64_and_says_so(finding: Make, make_run: MakeRun, pictures: Pictures) -> None:
    many = finding(
        batch_size=210,
        certified=[True] * 210,
        scores={"psnr": [120.0] * 210, "exact": [True] * 210},
        artifact=pictures(210),
    )
    text = page(make_run(many))
    assert text.count("<img ") == 128 + 2 * 7  # the first seven stand under the headline too
    assert "The first 7 examples of batch 0" in text
    assert "The first 64 of 210 examples are shown" in text


def test_what_was_not_matched_and_what_its_label_is_stands_beside_the_original(
    finding: Make, make_run: MakeRun, pictures: Pictures
) -> None:
    name = pictures(matched=False, labels=torch.tensor([1, 0]))
    text = page(make_run(finding(artifact=name), class_names=["cat", "dog"]))
    assert text.count("<img ") == 2 * 2  # under the headline, and with their figures
    assert text.count('class="none">not found') == 2 * 2
    assert "1: dog" in text


def test_what_the_record_does_not_say_is_not_recorded(finding: Make, make_run: MakeRun) -> None:
    run = make_run(finding(peak_memory_mib=None))
    (run / "run.json").unlink()
    assert page(run).count("not recorded") > 10


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_malformed_record_is_refused(finding: Make, make_run: MakeRun, content: str) -> None:
    run = make_run(finding())
    (run / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_run_without_findings_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"findings\.jsonl"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="at least one finding"):
        write_report(make_run())


def test_the_same_run_gives_the_same_page(finding: Make, make_run: MakeRun, pictures: Pictures) -> None:
    run = make_run(finding(artifact=pictures()))
    assert page(run) == page(run)
    assert not list(run.glob("*.partial"))


def test_an_unfinished_run_says_so(finding: Make, make_run: MakeRun) -> None:
    assert "This run was not finished" in page(make_run(finding(), complete=False, batches=2))


SILENT: dict[str, Any] = {
    "outcome": "failed",
    "certified": [],
    "scores": {},
    "control": {
        "batch_size": 1,
        "rule": "fedsgd",
        "outcome": "exact",
        "exact": 1,
        "recovered": 1,
        "passed": True,
        "reason": "",
        "seconds": 0.1,
    },
}


def test_a_sweep_says_beside_each_batch_which_setting_it_is_of(finding: Make, make_run: MakeRun) -> None:
    rows = [finding(network=network, seed=seed, batch=0) for network in ("mlp:8", "mlp:9") for seed in (0, 1)]
    text = page(make_run(*rows, plan="[plan]", findings=4, cells=4))
    assert "spear against mlp:8, mlp:9" in text
    assert "Setting by setting" in text
    assert "Batch 0, mlp:9, seed 1:" in text
    assert "No pictures were recorded" not in text
    assert "<code>[plan]</code>" in text
    assert not re.search(r'<th scope="row">batch size</th>', text)


def test_one_setting_has_no_table_of_settings(finding: Make, make_run: MakeRun) -> None:
    text = page(make_run(finding(), finding(batch=1), finding(batch=1, attack="other")))
    assert "Setting by setting" not in text
    assert "Batch 1, other:" in text


@pytest.mark.parametrize("record", [{"findings": 3, "plan": "", "cells": 3}, {"batches": 3}])
def test_a_run_cut_short_in_silence_was_not_audited(record: dict[str, Any], finding: Make, make_run: MakeRun) -> None:
    """A sweep's rows are counted one by one: its batches have the same number in every setting."""
    rows = [finding(**SILENT), finding(**SILENT, **({"network": "mlp:9"} if "plan" in record else {"batch": 1}))]
    text = page(make_run(*rows, complete=False, **record))
    assert "Audited only in part" in text
    assert "1 was not reached" in text


def test_an_interrupted_batch_is_not_said_to_have_found_nothing(finding: Make, make_run: MakeRun) -> None:
    stopped = {"outcome": "failed", "stats": {"stopped": INTERRUPTED}, "certified": [], "scores": {}}
    text = page(make_run(finding(**stopped), complete=False, batches=6))
    assert "Batch 0:" in text
    assert "interrupted, 0 of 2 exact" in text
    assert "This attack found nothing" not in text


def test_where_no_batch_could_be_attacked_the_headline_says_so(finding: Make, make_run: MakeRun) -> None:
    assert '<h1 class="doubt">Could not be audited</h1>' in page(
        make_run(finding(outcome=None, obstacles=["no layer"], certified=[], scores={}))
    )


def test_the_first_line_says_what_the_client_did(finding: Make, make_run: MakeRun) -> None:
    one = page(make_run(finding(rule="fedavg:epochs=2", defenses=["noise:sigma=1.0"])))
    assert "spear against mlp:8. Client: b = 2, fedavg:epochs=2, noise:sigma=1.0</p>" in one
    several = page(make_run(finding(), finding(rule="fedavg")))
    assert "spear against mlp:8. Client: b = 2, no defense</p>" in several


def test_where_nothing_was_attacked_no_example_is_counted_as_kept(finding: Make, make_run: MakeRun) -> None:
    text = page(make_run(finding(outcome=None, obstacles=["no layer"], certified=[], scores={})))
    assert "0 of 0" not in re.sub("<[^>]*>", "", text)

"""What `inspect` expects of an attack rests on the benchmarks as they stand, and on nothing between them."""

import csv
import re
import statistics
from pathlib import Path

import pytest

from seepage.audit.reach import REACHES
from seepage.cli import main

ROOT = Path(__file__).parents[2]
SPEAR, SPEARPP, PRISM, DEEPER = REACHES


@pytest.mark.parametrize("reach", REACHES[:-1], ids=lambda reach: reach.attack)
def test_every_measurement_stands_in_its_benchmark(reach: object) -> None:
    assert isinstance(reach, type(SPEAR))
    measured = set()
    for line in (ROOT / reach.source).read_text(encoding="utf8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        network = re.search(r"mlp:(\d+)", line)
        size = re.search(r"CIFAR-10 b=(\d+)", cells[0]) or (re.fullmatch(r"\d+", cells[2]) if len(cells) > 6 else None)
        if network is None or size is None:
            continue
        at = cells[2:4] if size.re.pattern.startswith("CIFAR") else cells[5:7]
        if reach.attack in (cells[0], "spear"):
            measured.add((int(network[1]), int(size[size.re.groups]), int(at[1]), int(at[0])))
    for one in reach.points:
        assert (one.units, one.batch_size, one.whole, one.batches) in measured


def test_what_is_said_of_deeper_networks_stands_line_by_line() -> None:
    with (ROOT / DEEPER.source).open(encoding="utf8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["data"], row["attack"]) == ("cifar10", "PRISM")]
    for one in DEEPER.points:
        at = [row for row in rows if (int(row["m"]), int(row["b"])) == (one.units, one.batch_size)]
        assert len(at) == one.batches
        assert sum(row["b"] == row["exact"] == row["certified"] for row in at) == one.whole
        assert statistics.median(float(row["seconds"]) for row in at) == pytest.approx(one.seconds, abs=0.06)


def test_a_harder_case_that_came_out_speaks_for_an_easier_one() -> None:
    found = PRISM.expect(700, 60)
    assert found.exact is True
    assert found.words == "exact (10 of 10 batches at b = 100, m = 500)"
    assert found.seconds == 5.0
    assert PRISM.measured_up_to(700) == 100


def test_an_easier_case_that_failed_speaks_for_a_harder_one() -> None:
    found = SPEARPP.expect(900, 220)
    assert found.exact is False
    assert found.words.startswith("not whole (0 of 2 batches")


def test_between_and_beyond_nothing_is_claimed() -> None:
    assert SPEAR.expect(400, 24).exact is None
    assert SPEAR.measured_up_to(100) == 0
    assert SPEAR.expect(100, 4).words == "not measured; likely"
    assert SPEAR.about(400) == 20


def test_what_an_attack_needs_is_said_instead_of_a_figure() -> None:
    assert SPEARPP.misfit(layers=2) == "needs 2 hidden layers"
    assert SPEARPP.misfit(layers=3) == ""
    assert PRISM.misfit(layers=2) == ""


def test_inspect_says_how_far_each_attack_reaches_and_what_the_rule_takes(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*more: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["inspect", "--network", "mlp:500,400", "--input-shape", "3x32x32", "--classes", "10", *more])
        assert stopped.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    plain = said("--batch-size", "80")
    assert "exact (10 of 10" in plain
    assert "benchmarks/results/prism.md" in plain
    assert "a plain gradient, as all figures are measured on" in plain
    assert "nothing can be certified" in said("--rule", "dpsgd:clip=1,noise=1")
    assert "all 4 clients together" in said("--rule", "sum:clients=4")

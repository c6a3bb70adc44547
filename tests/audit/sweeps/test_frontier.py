"""A frontier is where recovery falls below the share; an interval that claims no more than its seeds give."""

import json
import math
from pathlib import Path

import pytest

from seepage.audit.sweeps.frontier import Axis, Bisection, Point, at, grouped, median_interval, read_axis
from seepage.audit.sweeps.plan import read_plan
from seepage.cli import main
from seepage.errors import InputError

PLAN = """[plan]
data = "digits"
budget_samples = 20000
[grid]
network = "mlp:{width}"
batch_size = 4
seed = [0, 1]
[frontier]
axis = "width"
low = 10
high = 40
step = 10
protects = "less"
"""


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "plan.toml").write_text(text)
    return tmp_path / "plan.toml"


@pytest.mark.parametrize("places", [1, 2, 3, 10, 17])
def test_the_search_finds_every_edge_in_few_steps(places: int) -> None:
    for edge in range(places + 1):  # the first place that protects
        search, steps = Bisection(places=places), 0
        while (place := search.next) is not None:
            recovered = 1.0 if place < edge else 0.0
            search.take(Point(seed=0, place=place, recovered=recovered, examples=4), share=0.5)
            steps += 1
        assert search.high == edge
        assert steps <= 2 + math.ceil(math.log2(places + 1))


def test_a_place_that_cannot_be_told_ends_the_search_without_an_answer() -> None:
    search = Bisection(places=9)
    search.take(Point(seed=0, place=8, recovered=None, examples=4, why="inconclusive"), share=0.5)
    assert search.next is None
    assert search.stuck is not None


@pytest.mark.parametrize(
    ("places", "low", "high", "coverage"),
    [
        ([5], 5, 5, 0.0),
        ([3, 5], 3, 5, 0.5),
        ([1, 2, 3, 4, 5, 6], 1, 6, 1 - 2 / 64),
        (list(range(9)), 1, 7, 1 - 20 / 512),
    ],
)
def test_the_interval_says_its_own_coverage(places: list[int], low: int, high: int, coverage: float) -> None:
    found = median_interval(places)
    assert (found.low, found.high) == (low, high)
    assert found.coverage == pytest.approx(coverage)


def test_the_axis_fills_its_place_and_runs_towards_protection(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, PLAN))
    axis = read_axis(plan)
    assert axis.settings == (40.0, 30.0, 20.0, 10.0)
    assert at(plan.cells[0], axis, 3).network == "mlp:10"
    assert [len(cells) for cells in grouped(plan.cells, axis).values()] == [2]
    sized = Axis(name="batch_size", settings=(2.0, 9.0), share=0.5)
    assert at(plan.cells[0], sized, 1).batch_size == 9


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('axis = "width"', 'axis = "noise"', r"line 9: `frontier\.axis` should be batch_size, or the name of a place"),
        ("high = 40", "high = 10", r"line 11: `frontier\.high` should be a whole number, at least 11"),
        ("step = 10", "points = 1", r"line 12: `frontier\.points` should be a whole number, at least 2"),
        ('"less"', '"never"', r"line 13: `frontier\.protects` should be `more` or `less`"),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, before: str, after: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_axis(read_plan(written(tmp_path, PLAN.replace(before, after))))


def test_a_plan_without_the_table_is_sent_to_the_other_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = PLAN[: PLAN.index("[frontier]")].replace("{width}", "20")
    with pytest.raises(SystemExit) as stopped:
        main(["frontier", str(written(tmp_path, plain)), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "should have a table [frontier]; found none, and a plan without one is for `seepage sweep`" in said
    assert not (tmp_path / "out").exists()


def test_decades_are_cut_evenly(tmp_path: Path) -> None:
    text = PLAN.replace("low = 10", "low = 0.001").replace("step = 10", "points = 4").replace("high = 40", "high = 1")
    axis = read_axis(read_plan(written(tmp_path, text)))
    assert axis.settings == (1.0, 0.1, 0.01, 0.001)


def test_the_command_finds_a_width_that_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = str(
        written(
            tmp_path,
            PLAN.replace("low = 10", "low = 2").replace("high = 40", "high = 102").replace("step = 10", "step = 50"),
        )
    )
    for _ in range(2):  # the second time everything is there already
        with pytest.raises(SystemExit) as stopped:
            main(["frontier", plan, "--out", str(tmp_path / "out"), "--workers", "1"])
        assert stopped.value.code == 0
    assert "recovery falls below 0.5 of the examples at width" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert {point["setting"] for point in found["points"]} >= {102.0, 2.0}
    by_setting = {point["setting"]: point["recovered"] for point in found["points"]}
    assert by_setting[102.0] >= 0.5 > by_setting[2.0]
    assert (tmp_path / "out" / found["figure"]).read_text().startswith("<?xml")

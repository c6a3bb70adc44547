"""A plan becomes typed cells, or an error that names the line."""

from pathlib import Path

import pytest

from seepage.audit.sweeps.cell import Cell, build_audit, shards_of
from seepage.audit.sweeps.frontier import read_axis
from seepage.audit.sweeps.plan import read_plan
from seepage.errors import InputError
from seepage.types import ThreatModel

ROOT = Path(__file__).parents[3]
PLAN = """[plan]
data = "digits"
batches = 3
budget_samples = 1000
[grid]
network = ["mlp:20", "mlp:30"]
batch_size = [2, 4]
threat_model = ["rule, bounds", "none", "batch_size,labels"]
seed = [0, 7]
"""


def plan(tmp_path: Path, text: str) -> Path:
    (tmp_path / "plan.toml").write_text(text)
    return tmp_path / "plan.toml"


def test_the_grid_is_every_combination_once(tmp_path: Path) -> None:
    cells = read_plan(plan(tmp_path, PLAN)).cells
    assert len(cells) == len({cell.hash for cell in cells}) == 2 * 2 * 3 * 2
    assert {cell.samples for cell in cells} == {1000}
    assert cells[0].threat_model == ThreatModel()
    assert {cell.threat_model.name for cell in cells} == {
        "honest-but-curious: rule, bounds",
        "honest-but-curious: update only",
        "honest-but-curious: batch_size, labels",
    }


def test_a_cell_builds_the_audit_it_describes(tmp_path: Path) -> None:
    cell = read_plan(plan(tmp_path, PLAN)).cells[-1]
    audit = build_audit(cell)
    assert (audit.network_name, audit.batch_size, audit.batches, audit.seed) == ("mlp:30", 4, 3, 7)
    assert audit.threat_model == ThreatModel(batch_size=True, labels=True, rule=False, bounds=False)


def test_the_hash_is_of_the_setting_and_stands() -> None:
    cell = Cell(network="mlp:20", data="digits", batch_size=2)
    assert cell.hash == Cell(network="mlp:20", data="digits", batch_size=2, batches=9).hash
    assert cell.hash != Cell(network="mlp:20", data="digits", batch_size=3).hash
    assert len(cell.hash) == 16


def test_shards_part_the_batches() -> None:
    cell = Cell(network="mlp:20", data="digits", batch_size=2, batches=5)
    assert [shard.batches for shard in shards_of(cell, size=2)] == [(0, 1), (2, 3), (4,)]
    assert len({shard.key for shard in shards_of(cell, size=2)}) == 3


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("batches = 3", "batches = 0", r"line 3: `plan\.batches` should be a whole number, at least 1; found 0"),
        ("batches = 3", "batchs = 3", r"line 3: `plan\.batchs` is not known"),
        ('data = "digits"', 'data = "none.npz"', r"line 2: `plan\.data` should be a file or folder.*'none\.npz'"),
        ('data = "digits"\n', "", r"line 1: `plan\.data` should be a text; it is missing"),
        ("[2, 4]", "[2, 2]", r"line 7: `grid\.batch_size` should be a list of different whole numbers"),
        ("[2, 4]", "[0]", r"line 7: `grid\.batch_size` should hold whole numbers, each at least 1"),
        ('"none"', '"psychic"', r"line 8: `grid\.threat_model` should be made of batch_size, labels, rule, bounds"),
        (
            "[grid]",
            '[grid]\nattack = "magic"',
            r"line 6: `grid\.attack` should hold names that are known .*auto, spear",
        ),
        ("[grid]", '[grid]\nrule = "magic"', r"line 6: `grid\.rule` should hold names that are known \(`rule` should"),
        ("[grid]", '[grid]\ndefense = ["none", ["x:1"]]', r"line 6: `grid\.defense` should hold names that are known"),
        ("[grid]", "[grids]", r"line 5: `grids` is not known"),
        ("[plan]", 'dtype = "x"\n[plan]', r"line 1: `dtype` is not known"),
        ("batches = 3", 'dtype = "float16"', r"line 3: `plan\.dtype` should be one of float32, float64"),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in PLAN
    with pytest.raises(InputError, match=rf"plan\.toml, {words}"):
        read_plan(plan(tmp_path, PLAN.replace(before, after, 1)))


def test_the_example_plan_is_understood() -> None:
    assert len(read_plan(ROOT / "examples" / "sweep.toml").cells) == 24


def test_a_plan_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1,000,000 batches at most over all cells; found 2,399,999,999,976"):
        read_plan(plan(tmp_path, PLAN.replace("batches = 3", "batches = 99999999999")))
    endless = PLAN + '[frontier]\naxis = "batch_size"\nlow = 1\nhigh = 999999999999\n'
    with pytest.raises(InputError, match="100,000 steps above `low` at most"):
        read_axis(read_plan(plan(tmp_path, endless)))
    endless = (
        PLAN.replace("mlp:20", "mlp:{width}") + '[frontier]\naxis = "width"\nlow = 1\nhigh = 9\npoints = 999999999999\n'
    )
    with pytest.raises(InputError, match="100,000 at most"):
        read_axis(read_plan(plan(tmp_path, endless)))

"""Mutated bundles, a few hundred; ``benchmarks/fuzz_bundles.py`` reads ten thousand."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_bundles.py"


def test_no_mutant_crashes_hangs_or_is_taken_for_a_bundle(tmp_path: Path) -> None:
    counts = runpy.run_path(str(SCRIPT))["fuzz"](400, 1, tmp_path)
    assert counts["false_accepts"] == 0
    assert counts["refused"] > 300  # the mutants are mutants
    assert counts["slowest"] < 5

"""The table of a sweep fits a narrow screen."""

import io
from dataclasses import replace

from rich.console import Console

from seepage.cli.sweep import _table
from seepage.report.tallies import Tally

TALLY = Tally(
    network="mlp:400,400,400",
    rule="fedsgd",
    defenses=(),
    attack="auto",
    threat_model="honest-but-curious: rule, bounds",
    batch_size=32,
    batches=10,
    examples=320,
    exact=311,
    recognisable=311,
    certified=300,
    worst=32,
    inconclusive=2,
    broke=0,
    could_not_run=0,
    interrupted=0,
)


def printed(*rows: Tally) -> str:
    text = io.StringIO()
    shared, table = _table(rows)
    console = Console(width=80, file=text)
    console.print(shared)
    console.print(table)
    return text.getvalue()


def test_words_stay_whole_at_80_columns_and_shared_settings_stand_once() -> None:
    noised = ("noise:sigma=0.01,relative=true",)
    text = printed(TALLY, replace(TALLY, rule="fedavg:epochs=2,lr=0.01", defenses=noised))
    for word in (
        "certified",
        "batches",
        "311 of 320",
        "32 of 32",
        "fedsgd",
        "noise:sigma=0.01",
        "fedavg:epochs=2,lr=0.01",
        "2 inconclusive",
    ):
        assert word in text
    assert text.count("mlp:400,400,400") == 1


def test_what_only_differs_in_what_the_server_knows_is_told_apart() -> None:
    granted = replace(TALLY, threat_model="honest-but-curious: batch_size, rule, bounds")
    assert "batch_size" in printed(TALLY, granted)
    assert "32 of 32" in printed(TALLY)
    assert printed()

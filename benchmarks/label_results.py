"""Where the rows of the label tables are kept: benchmarks/results/labels.json, and labels.md made of it."""

import json
import platform
from pathlib import Path

import torch

COUNTED = {"exact", "certified_labels", "wrong_certified", "failed", "multiples"}  # of all runs; the rest are means
Row = dict[str, float | int | str]
_CLOCKS = {"cpu_ms": "CPU ms", "ms": "ms"}
_KNOWN = {
    "setting",
    "method",
    "section",
    "networks",
    "batches",
    "leacc",
    "lnacc",
    "exact_vector",
    "l1_half",
    "ms",
    "cpu_ms",
}


def store(rows: list[Row], out: Path, *, section: str) -> None:
    """Put the rows in the place of those of the same setting and method, or at the end; write both files anew."""
    if not rows:
        return
    stored = out.with_suffix(".json")
    every: list[Row] = json.loads(stored.read_text()) if stored.exists() else []
    places = {(row["setting"], row["method"]): place for place, row in enumerate(every)}
    for row in rows:
        place = places.get((row["setting"], row["method"]))
        marked: Row = {**row, "section": section}
        every = [*every, marked] if place is None else [*every[:place], marked, *every[place + 1 :]]
    out.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(every, indent=1) + "\n")
    out.with_suffix(".md").write_text(_markdown(every))


def _markdown(rows: list[Row]) -> str:
    sure, bad = (sum(float(row.get(key, 0)) for row in rows) for key in ("certified_labels", "wrong_certified"))
    exact = [row for row in rows if str(row["method"]).startswith("exact")]
    runs = sum(int(row["networks"]) * int(row["batches"]) for row in exact)
    lines = [
        "# Labels from one update",
        "",
        "Commands: `python benchmarks/labels.py --inits 5 --batches 20` (untrained, wide, large, trained) and",
        "`python benchmarks/labels_more.py`, `labels_times.py`, `labels_deep.py`, `labels_float32.py`,",
        "`labels_sound.py` and `labels_matching.py` (the others). Asked and measured: docs/attacks/labels.md.",
        f"Machine: {platform.machine()} CPU, 1 thread, torch {torch.__version__}, float32 gradients.",
        "Seeds: initialisations 0, 1, ...; batch j of network i has seed 1000 i + j. A failed run scores as no labels.",
        f"Certificates: {runs} runs of `exact`, {sure:.0f} labels certified in all rows, **{bad:.0f} of them wrong**.",
        "`whole`: runs that certified every label. `CPU ms`: of the one thread; `ms`, of older rows, by the clock.",
        "Other programs shared the machine: times are upper bounds, and compare within one table only. Rows of one",
        "table may have been measured apart (`--methods`), always on the same batches.",
        "",
    ]
    for title in dict.fromkeys(str(row["setting"]) for row in rows):
        lines += [f"## {title}", "", *_table([row for row in rows if row["setting"] == title]), ""]
    return "\n".join(lines)


def _table(part: list[Row]) -> list[str]:
    lines = [f"{part[0]['networks']} networks x {part[0]['batches']} batches.", ""]
    own = [key for key in part[0] if key not in _KNOWN | COUNTED]
    if own:  # a table that is not about labels restored: its own columns
        lines += ["| method | " + " | ".join(own) + " |", "|---" * (len(own) + 1) + "|"]
        return lines + [
            f"| {row['method']} | " + " | ".join(_shown(row.get(key)) for key in own) + " |" for row in part
        ]
    clock = "cpu_ms" if all("cpu_ms" in row for row in part) else "ms"
    lines += [
        f"| method | LeAcc | LnAcc | exact vector | L1/2K | whole | wrong certified | failed | {_CLOCKS[clock]} |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in part:
        means = " | ".join(f"{float(row[key]):.3f}" for key in ("leacc", "lnacc", "exact_vector", "l1_half"))
        counts = " | ".join(f"{float(row[key]):.0f}" for key in ("exact", "wrong_certified", "failed"))
        lines.append(f"| {row['method']} | {means} | {counts} | {float(row[clock]):.1f} |")
    return lines


def _shown(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"

"""How much is enough: batch size and noise on CIFAR-10 and Adult. Run: python benchmarks/frontier.py [--workers 1].

Writes results/frontier.md, and docs/figures/frontier.svg, the documentation's headline figure. ``--runs FOLDER`` keeps
the shards there, and takes them up.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "frontier.md"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "frontier.svg"
SOURCES = {"CIFAR-10": "cifar10/cifar10_test.npz", "Adult": "tabular/adult.test"}
LEAST = 20.0  # dB; a flat picture of the right colour reaches 19.5 dB in 5 % of cases
DELTA = 1e-5
SPANS = {  # where each attack's edge was seen to lie; half decades
    ("auto", False): (1e-7, 10.0, 17),
    ("ig", False): (1e-3, 10.0, 9),
    ("auto", True): (1e-9, 1.0, 19),
}
NOISE = 'defense = ["noise:{noise},relative=true"]'
DP = 'rule = ["dpsgd:clip=1,noise={noise}"]'
INK, SOFT, ALARM = "#1d1e20", "#6f4600", "#9c1f16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One frontier.

    Args:
        data: the data set's name.
        source: its file.
        panel: what is varied, in words.
        grid: what the plan's grid has besides network, attack and seeds.
        axis: the plan's ``[frontier]``.
        attack: ``ig`` is told batch size and labels. Under noise pictures of at least 20 dB count, else exact examples.
    """

    data: str
    source: str
    panel: str
    grid: str
    axis: str
    attack: str = "auto"

    @property
    def title(self) -> str:
        """Of its panel in the figure."""
        return f"{self.data}: {self.panel}"

    @property
    def counts(self) -> str:
        """What counts as recovered."""
        return f"{LEAST:.0f} dB" if "least_psnr" in self.axis else "exact"


def batch_size(data: str, axis: str) -> Question:
    grid = "batch_size = 1"
    return Question(data=data, source=SOURCES[data], panel="batch size", grid=grid, axis=f'axis = "batch_size"\n{axis}')


def noise(data: str, attack: str, *, dp: bool = False) -> Question:
    low, high, points = SPANS[attack, dp]
    span = f"low = {low}\nhigh = {high}\npoints = {points}"
    return Question(
        data=data,
        source=SOURCES[data],
        panel="DP-SGD’s noise multiplier, b = 8" if dp else "noise over the update’s root mean square, b = 8",
        grid=f"batch_size = 8\n{DP if dp else NOISE}",
        axis=f'axis = "noise"\n{span}\n' + (f"least_psnr = {LEAST}\n" if data == "CIFAR-10" else ""),
        attack=attack,
    )


QUESTIONS = (
    batch_size("CIFAR-10", "low = 8\nhigh = 80\nstep = 3"),
    batch_size("Adult", "low = 4\nhigh = 64\nstep = 3"),
    noise("CIFAR-10", "auto"),
    noise("CIFAR-10", "ig"),
    noise("Adult", "auto"),  # decibels of a table's row mean little: matching is asked for pictures alone
    noise("CIFAR-10", "auto", dp=True),
    noise("Adult", "auto", dp=True),
)


def plan(question: Question, options: argparse.Namespace) -> str:
    """The plan as a user would write it."""
    told = "rule, bounds" if question.attack == "auto" else "rule, bounds, batch_size, labels"
    seconds = options.seconds if question.attack == "auto" else 2 * options.seconds
    return (
        f'[plan]\ndata = "{DATA / question.source}"\nbudget_seconds = {seconds}\n'
        f'[grid]\nnetwork = "mlp:{options.width},400"\nattack = "{question.attack}"\n{question.grid}\n'
        f'threat_model = "{told}"\n'
        f"seed = {list(range(options.seeds))}\n[frontier]\nshare = 0.5\n{question.axis}\n"
    )


def answer(question: Question, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """What ``seepage frontier`` says."""
    out = runs / "-".join(re.findall(r"\w+", f"{question.title} {question.attack}"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "plan.toml").write_text(plan(question, options), encoding="utf8")
    command = [sys.executable, "-m", "seepage", "frontier", str(out / "plan.toml"), "--out", str(out)]
    ended = subprocess.run([*command, "--workers", str(options.workers)], capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 4):
        raise RuntimeError(f"{question.title}: {ended.stderr[-2000:]}")
    (found,) = json.loads((out / "frontier.json").read_text(encoding="utf8"))
    return dict(found)


def draw(answers: Sequence[tuple[Question, dict[str, Any]]]) -> None:
    """One panel for each kind of question, side by side for the two data sets."""
    panels = list(dict.fromkeys(question.title for question, _ in answers))
    with mpl.rc_context({"svg.hashsalt": "seepage"}):
        figure = Figure(figsize=(10.0, 3.1 * ((len(panels) + 1) // 2)), layout="constrained")
        plots = figure.subplots((len(panels) + 1) // 2, 2, sharey=True, squeeze=False).flatten()
        for plot, panel in zip(plots, panels, strict=False):
            for question, found in answers:
                if question.title == panel:
                    draw_one(plot, question, found)
            plot.set_title(panel, fontsize=9.5, loc="left")
            plot.set_ylim(-0.05, 1.08)
            plot.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=1)
        for plot in plots[::2]:
            plot.set_ylabel("share of examples recovered")
        for plot in plots[len(panels) :]:
            plot.set_visible(False)
        FIGURE.parent.mkdir(exist_ok=True)
        figure.savefig(FIGURE, format="svg", metadata={"Date": None})


def draw_one(plot: Axes, question: Question, found: dict[str, Any]) -> None:
    """Mean over seeds, a dot a seed, and the interval of the frontier."""
    loose = question.attack != "auto"
    colour, mark = (SOFT, "s") if loose else (INK, "o")
    name = f"{question.attack} ({question.counts})"
    points = [one for one in found["points"] if one["recovered"] is not None]
    settings = sorted({one["setting"] for one in points})
    means = []
    for setting in settings:
        values = [one["recovered"] for one in points if one["setting"] == setting]
        means.append(sum(values) / len(values))
    plot.plot([one["setting"] for one in points], [one["recovered"] for one in points], mark, color=colour, alpha=0.35,
              markersize=4)  # fmt: skip
    plot.plot(settings, means, "--" if loose else "-", color=colour, label=f"{name}: {_answer(found)}")
    plot.axhline(found["share"], linestyle=":", color="#55585d", linewidth=0.8)
    untold = [one["setting"] for one in found["points"] if one["recovered"] is None]
    if untold:
        plot.plot(untold, [0.0] * len(untold), "x", color=SOFT, label=f"{name}: could not be told")
    if found["interval"] is not None and not any("beyond" in end for end in found["interval"]):
        low, high = sorted(float(end) for end in found["interval"])
        plot.axvspan(low, max(high, low * 1.001), color=ALARM, alpha=0.16)
        plot.axvline(float(found["median"]), color=ALARM, linestyle="--" if loose else "-", linewidth=1.2)
    if found["axis"] == "noise":
        plot.set_xscale("log")


def _answer(found: dict[str, Any]) -> str:
    if found["median"] is None:
        return "could not be told"
    low, high = sorted(found["interval"], key=lambda end: float(end.removeprefix("beyond ")))
    return f"below half from {found['median']} ({low} to {high})"


def main() -> None:
    """Ask all questions, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        answers = []
        for question in sorted(QUESTIONS, key=lambda one: one.attack):  # the quick ones first
            answers.append((question, answer(question, options, options.runs or Path(scratch))))
            print(question.title, question.attack, answers[-1][1]["sentence"], flush=True)
            write(answers, options)


def write(answers: Sequence[tuple[Question, dict[str, Any]]], options: argparse.Namespace) -> None:
    """The table and the figure of what has been answered so far."""
    answers = sorted(answers, key=lambda one: QUESTIONS.index(one[0]))
    text = (
        f"# How much is enough\n\nCommand: `python benchmarks/frontier.py --seeds {options.seeds} --seconds "
        f"{options.seconds:g} --width {options.width} --workers {options.workers}`. Network "
        f"mlp:{options.width},400 at PyTorch's default start, one network and one batch for each of the seeds 0 to "
        f"{options.seeds - 1}. `auto`: {options.seconds:g} s a batch on one thread; the server knows the rule, not the "
        f"batch size. `ig`: {2 * options.seconds:g} s, the server knows batch size and labels. "
        f"Recovered means exact, and of pictures under noise at least {LEAST:.0f} dB. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with "
        f"other work, torch {torch.__version__}, CPU only. Budgets in seconds make the edges depend on the machine.\n\n"
        "Each answer holds against its attack, and no further: where `auto` ends, `ig` goes on. `ig` does "
        "not run on what DP-SGD sends.\n\n"
        "![share of examples recovered along each axis](../../docs/figures/frontier.svg)\n\n"
        "| question | attack | answer | settings tried |\n|---|---|---|--:|\n"
    )
    for question, found in answers:
        sentence = f"{found['sentence']}{epsilon(question, found)}"
        text += f"| {question.title} | {question.attack} | {sentence} | {len(found['points'])} |\n"
    RESULTS.write_text(text, encoding="utf8")
    draw(answers)


def epsilon(question: Question, found: dict[str, Any]) -> str:
    """What the answer would be as a guarantee: of one step, without sampling, from zero-concentrated privacy.

    ``rho = 1 / (2 z^2)`` and ``epsilon = rho + 2 sqrt(rho ln(1 / delta))`` (Bun and Steinke, 2016).
    """
    median = found["median"]
    if "dpsgd" not in question.grid or median is None or "beyond" in median:
        return ""
    rho = 0.5 / float(median) ** 2
    return f" One such step is ({rho + 2 * math.sqrt(-rho * math.log(DELTA)):.1e}, {DELTA:g})-private."


if __name__ == "__main__":
    main()

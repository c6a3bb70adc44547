"""The goals of the comparison in git.py beside what its rows say."""

import itertools
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["Cells", "asked"]

MATCHING = Path(__file__).parent / "results" / "matching.json"
Row = dict[str, Any]
Place = tuple[str, str, int]
Cells = dict[tuple[str, str, int, str], list[Row]]


def asked(cells: Cells, rows: list[Row]) -> str:
    """A table of two columns."""
    lines = [*compared(cells), learnt(rows), robust(rows), REFERENCES, labels()]
    body = "".join(f"| {what} | {found} |\n" for what, found in lines)
    return f"| asked | measured |\n|---|---|\n{body}"


def compared(cells: Cells) -> list[tuple[str, str]]:
    """GIT beside LTI and IG, by the mean squared error of whole lines."""
    places = list(dict.fromkeys(place[:3] for place in cells))
    learned = [cells[(*place, "Coarse-GIT")] for place in places]
    seeds = [len(found) for found in learned]
    pairs = sorted({row["pairs"] for found in learned for row in found})
    many = sum(all(row["pairs"] >= MANY for row in found) for found in learned)
    shares = [found for found in (timed(cells, place) for place in places) if found]
    least, most = min(min(found) for found in shares), max(max(found) for found in shares)
    return [
        (
            "CIFAR-10 with LeNet (sigmoid, ReLU), a ResNet, a ViT, b = 1, 2, 4, all attacks in one table; 5,000 to "
            "10,000 pairs, several seeds; scaled down without a GPU",
            f"the table below; {MANY:,} pairs in {many} of {len(places)} lines, {pairs[0]:,} to {pairs[-1]:,} in all; "
            f"{span(seeds)} seeds a line, one or two batches each",
        ),
        (
            "GIT ahead of LTI in every row at the same training time",
            f"{ahead(cells, places, 'Coarse-GIT', 'LTI')}; in {len(shares)} of these lines both had the same CPU time: "
            f"LTI's training took {least:.2f} to {most:.2f} of what GIT's took with one of its calls",
        ),
        (
            "GIT+IG ahead of IG at a third of its iterations",
            ahead(cells, places, "Coarse-GIT + IG, a third", "IG"),
        ),
    ]


def span(counts: list[int]) -> str:
    """``3``, or ``2 to 3``."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def timed(cells: Cells, place: Place) -> list[float]:
    """CPU time of LTI's training over that of GIT's training and one of its calls, each seed; empty if not limited."""
    both = [{row["seed"]: row for row in cells.get((*place, word), [])} for word in ("Coarse-GIT", "LTI")]
    if both[0].keys() != both[1].keys() or not all("limit" in row for each in both for row in each.values()):
        return []
    return [
        both[1][seed]["training"] / (git["training"] + mean(score[3] for score in git["scores"]))
        for seed, git in both[0].items()
    ]


def ahead(cells: Cells, places: list[Place], word: str, other: str) -> str:
    """In how many lines, and seeds of lines, the mean squared error of one is the less; of the seeds that both have."""
    lines, seeds = [], []
    for place in places:
        one, two = ({row["seed"]: errors(row) for row in cells.get((*place, each), [])} for each in (word, other))
        shared = [(one[seed], two[seed]) for seed in one.keys() & two.keys() if one[seed] and two[seed]]
        seeds += [mean(first) < mean(second) for first, second in shared]
        if shared:
            first, second = (mean(itertools.chain(*each)) for each in zip(*shared, strict=True))
            lines.append(first < second)
    return (
        f"by its mean squared error in {sum(lines)} of {len(lines)} lines, and of their {len(seeds)} seeds in "
        f"{sum(seeds)}"
    )


def errors(row: Row) -> list[float]:
    """Mean squared errors of what did not fail."""
    return [score[0] for score in row["scores"] if score is not None]


def learnt(rows: list[Row]) -> tuple[str, str]:
    """Exact-GIT."""
    random, known = ([row for row in rows if row.get("start") == word] for word in ("random", "known weights"))
    before, after, best = (mean(row[word] for row in random) for word in ("before", "after", "best"))
    return (
        "Exact-GIT: distance from the true weights over training; gain when started at them",
        f"from {before:.2f} to {after:.2f} of their size; held-out error {best:.0e} from a random start, "
        f"{mean(row['best'] for row in known):.0e} from the weights ({len(known)} seeds)",
    )


def robust(rows: list[Row]) -> tuple[str, str]:
    """Coarse-GIT under noise, in later rounds, and with pairs of other data."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows if row["part"] == "robust"):
        own = [row for row in rows if row["part"] == "robust" and row["network"] == network]
        cases = ("none", "100 steps on", "noise 0.01", "noise 0.1")
        plain, later, noised, noisy = (decibels(own, "Coarse-GIT", case) for case in cases)
        foreign = "Coarse-GIT, pairs of CIFAR-100"
        shared = [row for row in own if row["seed"] in {other["seed"] for other in own if other["attack"] == foreign}]
        lost = decibels(shared, "Coarse-GIT", "none") - decibels(shared, foreign, "none")
        found.append(
            f"{network}: {plain:.1f} dB, after 100 steps {later:.1f}, under noise of 0.01 and 0.1 {noised:.1f} and "
            f"{noisy:.1f}, where the mean has {decibels(own, 'public mean', 'none'):.1f}; pairs of CIFAR-100 cost "
            f"{lost:.1f} dB"
        )
    return (
        "robustness: noise, pairs of CIFAR-100, parameters moved by 1, 10, 100 steps; faces and photos at 64",
        "; ".join(found) + "; faces and photos are lines of the table",
    )


def decibels(rows: list[Row], attack: str, case: str) -> float:
    """Mean PSNR, NaN where nothing was measured."""
    here = [row for row in rows if (row["attack"], row["case"]) == (attack, case)]
    found = [score[1] for row in here for score in row["scores"] if score is not None]
    return mean(found) if found else math.nan


def labels() -> tuple[str, str]:
    """Gradient matching with labels restored and guessed."""
    kept = json.loads(MATCHING.read_text(encoding="utf8"))
    runs = {(row["cell"]["data"], row["cell"]["network"], row["cell"]["labels"]): row["runs"] for row in kept}
    said = []
    for data, network in (("digits", "mlp:200:sigmoid"), ("cifar100", "lenet:sigmoid")):
        found = {word: [run[0] for run in runs[data, network, word]] for word in ("given", "ilrg", "guessed")}
        given, restored, guessed = (mean(found[word]) for word in ("given", "ilrg", "guessed"))
        said.append(
            f"{data}, {network}, b = 8, {len(found['ilrg'])} seeds: {restored:.1f} dB against {guessed:.1f}, a gain of "
            f"{restored - guessed:.1f} ({given:.1f} with the labels given)"
        )
    return "labels: IG with iLRG's against guessed ones, gain in dB", "[matching.md](matching.md); " + "; ".join(said)


MANY = 5000  # pairs, as asked
REFERENCES = (
    "IG and DLG at least as good as the public references, at no more time; grey and colour",
    "[matching.md](matching.md), grey: ahead of both in the mean at every b; IG at half the time a step, DLG's "
    "seconds are not compared. Colour: lines of the table below, without a reference's figure",
)

"""Writes benchmarks/results/git.md from the rows that git.py measured."""

import json
import platform
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from git_asked import Cells, asked

__all__ = ["Row", "keep", "page", "stored", "write"]

RESULTS = Path(__file__).parent / "results" / "git.md"
ROWS = RESULTS.with_suffix(".json")
Row = dict[str, Any]
ORDER = (
    *("public mean", "nearest public", "LTI", "Coarse-GIT", "DLG", "IG", "IG, a third", "Coarse-GIT + IG, a third"),
    "Solved-GIT",
    "ViT-patches",
)
ROBUST = (
    *("public mean", "LTI", "LTI, pairs of CIFAR-100", "IG, 200", "Coarse-GIT", "Coarse-GIT, pairs of CIFAR-100"),
    "Solved-GIT",
)
ALONE = ("Solved-GIT", "ViT-patches")  # compared to no training: all their seeds
PAPER = {"LTI": "0.015", "Coarse-GIT": "0.010"}  # mean squared errors, LeNet on CIFAR-10, batch 1
HEAD = """# GIT, LTI, DLG, IG, scaled down

Commands: `python benchmarks/git.py --part attacks --cells CELL,... --pairs 5000 --seconds 20 --batches 2` at LeNet
(`--pairs 2000 --seconds 25`, of seed 0 at b = 2 `--seconds 50`, and later seeds with `--batches 1`, at ViT and
ResNet-20), `--part pairs`, `--part exact`, `--part robust --pairs 5000 --seconds 20 --batches 2`; the rows are kept in
`git.json` beside this page. This is far below the paper's scale (10,000 pairs, thousands of seconds on a GPU).

"""
NOTES = """
* Pairs: examples of the first train file of CIFAR-10, attacked are examples of the test file. Of 400 faces (LFW) and
  500 photos at 64 x 64 all but 40 make pairs, mirrored too; the labels of photos are folded to ten classes.
* **The same training time**: both attack networks have width 512 and train for a limit of CPU seconds, over which the
  rate falls; a training ends within an epoch too. Coarse-GIT makes up to 1,500 pairs again when it is called, which is
  its time a batch; LTI is therefore trained for as long as Coarse-GIT's training *and one of its calls* took. Where
  the time is up, the held-out pairs are judged a last time. Results of such trainings do not repeat to the last digit.
* Seconds of GIT+IG are those of the walk. Seconds are CPU seconds; those with a `~` were taken from a clock while the
  machine had more work than cores, and are up to ten times too long.
* IG walks 600 iterations at LeNet and 200 at the deeper networks, which is far from its end there; GIT+IG a third of
  its gradients (100 and 33 directions of L-BFGS); DLG at most 600 directions (50 at the deeper networks) in 2 starts,
  and 45 s a batch with seed 0 at LeNet.
* Batch size known, labels restored by the label attacks (DLG walks them along), inputs in [0, 1]. The nearest public
  example is sought among 1,000 (200 at the deeper networks). Networks are as PyTorch starts them, in training mode.
* Seeds decide network, split and attacked examples. Mean and deviation over batches. Lines are of few batches (of the
  ResNet and the ViT two of the first seed, one of the others): a difference of a decibel says nothing. DLG and the
  nearest example at some lines are of fewer seeds; seeds whose trainings had no limit (an earlier program's) are kept
  in `git.json` and not shown, but of Solved-GIT, which trains nothing.
* Walks of before (IG, DLG, Solved-GIT; those with a `~`) are of the same attacks: IG and Solved-GIT at LeNet with
  sigmoid, measured again beside the robustness, came out the same in every digit.
* Not run for want of time: the published width and hours of LTI, networks after training, second and third seeds of
  DLG at the ResNet and the ViT, Solved-GIT's robustness at LeNet with ReLU. Exact-GIT takes no
  convolution: its own table is below.
* Solved-GIT fails by an obstacle at 64 x 64 (its normal equations are dense).
* The paper's figures are those that its reviews quote, at its own scale and splits: the same setting in name only.

"""


def stored() -> list[Row]:
    """All rows so far."""
    found: list[Row] = json.loads(ROWS.read_text(encoding="utf8")) if ROWS.is_file() else []
    return found


def keep(rows: list[Row], **place: object) -> None:
    """Replace the rows of a place."""
    others = [row for row in stored() if any(row.get(key) != value for key, value in place.items())]
    text = ",\n".join(json.dumps(place | row) for row in rows)
    before = "".join(json.dumps(row) + ",\n" for row in others)
    ROWS.write_text(f"[\n{before}{text}\n]\n", encoding="utf8")
    write()  # a cut keeps what was done


def write() -> None:
    """The page from all rows."""
    RESULTS.write_text(page(stored()), encoding="utf8")


def page(rows: list[Row]) -> str:
    """The results as Markdown."""
    cells = compared(rows)
    table = [line(place, found) for place, found in sorted(cells.items(), key=lambda item: rank(item[0]))]
    learned = [
        f"| {row['seed']} | {row['start']} | {row['pairs']} | {row['before']:.2f} | {row['after']:.2f} | "
        f"{row['first']:.2e} | {row['best']:.2e} |"
        for row in rows
        if row["part"] == "exact"
    ]
    head = HEAD + asked(cells, rows) + NOTES
    head += (
        f"Machine: {platform.machine()}, one thread of a busy shared machine, torch {torch.__version__}, no GPU.\n\n"
    )
    columns = (
        "| data | network | b | attack | MSE | PSNR, dB | SSIM | failed | s a batch | training CPU s | seeds | "
        "paper's MSE |\n"
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    tail = (
        "\n## Exact-GIT, MLP 3072-64-10 with sigmoid, batch 1\n\nDistance: |Theta - W| / |W|. 12 epochs.\n\n"
        "| seed | start | pairs | distance before | distance after | held-out MSE, first epoch | best |\n"
        "|--:|---|--:|--:|--:|--:|--:|\n"
    )
    found = head + columns + "\n".join(table) + "\n" + (tail + "\n".join(learned) + "\n" if learned else "")
    robust = sorted((row for row in rows if row["part"] == "robust"), key=robust_rank)
    return found + "".join(more_pairs(rows)) + "".join(robustness(robust))


def compared(rows: list[Row]) -> Cells:
    """Rows of the attacks by place and attack; of the seeds alone whose trainings had a limit, if there are such."""
    cells: Cells = {}
    for row in rows:
        if row["part"] == "attacks":
            cells.setdefault((row["data"], row["network"], row["examples"], row["attack"]), []).append(row)
    lti = {place: found for place, found in cells.items() if place[3] == "LTI"}  # the last training of a place
    limited = {(*place[:3], row["seed"]) for place, found in lti.items() for row in found if "limit" in row}
    for place, found in cells.items():
        if place[3] not in ALONE and any(other[:3] == place[:3] for other in limited):
            learned = place[3].startswith(("Coarse-GIT", "LTI"))
            kept = [row for row in found if (*place[:3], row["seed"]) in limited and ("limit" in row or not learned)]
            cells[place] = sorted(kept, key=lambda row: int(row["seed"]))
    return {place: found for place, found in cells.items() if found}


def rank(place: tuple[str, str, int, str]) -> tuple[str, str, int, int]:
    """Where a line stands."""
    return (*place[:3], ORDER.index(place[3]) if place[3] in ORDER else len(ORDER))


def robust_rank(row: Row) -> tuple[str, int]:
    """Where a line of robustness stands."""
    return str(row["network"]), ROBUST.index(row["attack"])


def more_pairs(rows: list[Row]) -> list[str]:
    """What more pairs give at a deep network, beside the rows of the same seed in the table of attacks."""
    more = [row for row in rows if row["part"] == "pairs"]
    if not more:
        return []
    spots = {tuple(row[word] for word in ("data", "network", "examples", "seed", "attack")) for row in more}
    beside = [row for row in rows if row["part"] == "attacks" and "limit" in row]
    beside = [
        row for row in beside if tuple(row[w] for w in ("data", "network", "examples", "seed", "attack")) in spots
    ]
    lines = [
        "\n## More pairs at a deep network\n\nThe same batches. Limit: CPU seconds of Coarse-GIT's training, of which "
        "its closed map is fitted first and whole; with 5,000 pairs that alone takes longer. A call makes 1,500 pairs "
        "again, however many it was trained on.\n\n",
        "| network | b | seed | pairs | limit | attack | MSE | PSNR, dB | training CPU s | s a batch | batches |\n"
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|\n",
    ]
    for row in sorted(beside + more, key=lambda row: (row["network"], row["pairs"], row["limit"], row["attack"])):
        good = [score for score in row["scores"] if score is not None]
        errors, decibels, _, spent = zip(*good, strict=True)
        lines.append(
            f"| {row['network']} | {row['examples']} | {row['seed']} | {row['pairs']} | {row['limit']:g} | "
            f"{row['attack']} | {mean(errors):.2g} | {mean(decibels):.1f} | {row['training']:.0f} | "
            f"{mean(spent):.1f} | {len(good)} of {len(row['scores'])} |\n"
        )
    return lines


def robustness(rows: list[Row]) -> list[str]:
    """A table of PSNR, one line an attack and one column a case."""
    if not rows:
        return []
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = [
        "\n## Robustness, batch 1, PSNR in dB\n\nNoise: Gaussian, its standard deviation as a share of the root mean "
        "square of the whole gradient. Steps on: the network was trained for so many steps (SGD, rate 0.1, batches of "
        "32) after the attack networks had been; Coarse-GIT, Solved-GIT and IG read the weights of the round. Failures "
        "are left out of the mean and counted in brackets. 5,000 pairs, 20 s of training, LTI a call more; two images "
        "a seed.\n\n",
        f"| network | attack | {' | '.join(cases)} | images |\n|---|---|{'--:|' * len(cases)}--:|\n",
    ]
    for network, word in dict.fromkeys((row["network"], row["attack"]) for row in rows):
        cells, images = [], 0
        for case in cases:
            scores = [
                score
                for row in rows
                if (row["network"], row["attack"], row["case"]) == (network, word, case)
                for score in row["scores"]
            ]
            good = [score[1] for score in scores if score is not None]
            lost = f" ({len(scores) - len(good)} failed)" if len(good) < len(scores) else ""
            cells.append((f"{mean(good):.1f}" if good else "") + lost)
            images = max(images, len(scores))
        lines.append(f"| {network} | {word} | {' | '.join(cells)} | {images} |\n")
    return lines


def line(place: tuple[str, str, int, str], rows: list[Row]) -> str:
    """One line of the table of attacks: all seeds together."""
    data, network, examples, attack = place
    scores = [score for row in rows for score in row["scores"]]
    good = [score for score in scores if score is not None]
    walk = rows[0]["walk"]
    word = attack.replace("IG, a third", f"IG, {walk // 3}")
    word = word if "+" not in word else attack.replace("a third", f"{walk // 6} directions")
    word = f"{word}, {walk}" if attack == "IG" else word
    timed = [row for row in rows if "epochs" in row or "limit" in row]
    first = f"| {data} | {network} | {examples} | {word}"
    if not good:
        return f"{first} | | | | {len(scores)} of {len(scores)} | | | {len(rows)} | |"
    errors, decibels, likeness, _ = zip(*good, strict=True)
    spent = [score[3] for row in timed or rows for score in row["scores"] if score is not None]
    clock = "" if timed else " ~"
    training = [row["training"] for row in timed or rows if row["training"] is not None]
    paper = PAPER.get(attack, "") if (data, examples) == ("cifar10", 1) and network.startswith("lenet") else ""
    return (
        f"{first} | {mean(errors):.2g} ± {pstdev(errors):.1g} | {mean(decibels):.1f} ± {pstdev(decibels):.1f} | "
        f"{mean(likeness):.3f} | {len(scores) - len(good)} of {len(scores)} | {mean(spent):.1f}{clock} | "
        f"{f'{mean(training):.0f}' if training else ''} | {len(rows)} | {paper} |"
    )

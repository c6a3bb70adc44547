"""Where the time of a turn of PRISM goes, and what its guesses are worth. Run: python benchmarks/large.py."""

import argparse
import os
import platform
import time
from collections.abc import Callable

import torch
from ablation import mixture_of
from exact import CIFAR, RESULTS, Cell, load, prism
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.directions import accept, round_either, round_roughly
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.unmixing import Unmixing
from seepage.attacks.prism import PRISM
from seepage.attacks.spearpp import round_ends
from seepage.linalg.dictionary import LogCosh, sparse_directions
from seepage.linalg.sphere import RiemannianAdam


def timed(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The answer and the processor's seconds, which other work on the machine does not lengthen much."""
    started = time.process_time()
    answer = call()
    return answer, time.process_time() - started


def found_among(mixture: Mixture, directions: Tensor) -> tuple[int, float]:
    """How many are accepted, and the seconds of that."""
    found = Found.nothing(mixture.L)
    _, seconds = timed(lambda: torch.tensor(accept(mixture, found, directions)))
    return len(found), seconds


def first_turn(batch_size: int, width: int, shape: tuple[int, ...]) -> str:
    """One row: the first turn of PRISM's first arm, part by part."""
    dataset = load(Cell(attack=prism, batch_size=batch_size, network="", source=CIFAR))
    mixture, truth = mixture_of(dataset, batch_size, width, 0)
    nothing = Found.nothing(mixture.L)
    attack = PRISM()
    arm = Unmixing(bank=attack.filters[0], contrast=attack.contrasts[0], shape=shape, samples=attack.samples)
    chance = torch.Generator().manual_seed(0)
    guesses, unmixing = timed(lambda: arm.guess(mixture, nothing, chance, steps=60))
    true = normalize(truth @ mixture.factors.right.T, dim=1)
    cosines = (true @ normalize(guesses, dim=1).T).abs().max(dim=1).values
    rough, starts = timed(lambda: round_roughly(mixture, torch.cat([guesses, -guesses])))
    search, descend = LogCosh(start=0.3), RiemannianAdam(steps=150, step_size=0.07)
    ends, descent = timed(lambda: sparse_directions(mixture.white, rough, loss=search, optimizer=descend))
    solved, again = timed(lambda: round_ends(mixture, nothing, ends))
    descended, acceptance = found_among(mixture, solved)
    robust, kernels = timed(lambda: round_either(mixture, guesses))
    rounded, _ = found_among(mixture, robust)
    seconds = " | ".join(f"{part:.1f}" for part in (unmixing, starts, descent, again, acceptance, kernels))
    return (
        f"| {batch_size} | {width} | {float(cosines.mean()):.2f} | {int((cosines > 0.9).sum())} | "
        f"{int((cosines > 0.8).sum())} | {descended} | {rounded} | {seconds} |"
    )


def main() -> None:
    """One row a size, written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["100x500", "210x1050", "210x2100", "300x4000", "512x4000"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# The first turn of PRISM, part by part\n\n"
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/large.py --sizes {' '.join(options.sizes)}`. CIFAR-10, "
        "`mlp:m,400,400`, seed 0, one batch each. Cosines of the unmixed guesses with the examples; directions "
        "accepted after the descent on the sphere alone, and after robust rounding alone; seconds of the processor on "
        f"1 thread of a busy machine ({platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU "
        "only).\n\n"
        "| b | m | mean cosine | > 0.9 | > 0.8 | found by descent | found by rounding | unmix s | starts s | "
        "descent s | solve again s | accept s | round s |\n|" + "--:|" * 13
    ]
    for size in options.sizes:
        batch_size, width = map(int, size.split("x"))
        lines.append(first_turn(batch_size, width, (3, 32, 32)))
        print(lines[-1], flush=True)
        (RESULTS / "large.md").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()

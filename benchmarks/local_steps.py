"""What several local steps leave of a batch (FedAvg). Run: python benchmarks/local_steps.py [--seeds 5]."""

import argparse
import os
import platform
import statistics
from pathlib import Path

import torch
from rules import NETWORK, SECONDS, Cell, run  # the neighbouring benchmark: one audit of one seed

RESULTS = Path(__file__).parent / "results" / "local_steps.md"
STEPS = (1, 2, 4, 8)
RATES = (0.001, 0.01)
ATTACKS = {8: ("spear", "spearpp", "prism"), 32: ("spearpp", "prism", "spear")}


def line(rate: float, steps: int, attack: str, size: int, seeds: int) -> str:
    cell = Cell(rule=f"fedavg:epochs={steps},lr={rate}", attack=attack, batch_size=size)
    findings = [run((cell, seed)) for seed in range(seeds)]
    examples = size * seeds
    exact = sum(one.exact_examples for one in findings) / examples
    seen = sum(one.recognisable_examples for one in findings) / examples
    sure = sum(sum(one.certified) for one in findings) / examples
    wrong = sum(one.wrong_certified for one in findings)
    ranks = sorted({str(one.stats.get("batch_size", "none")) for one in findings})
    broke = sum(one.error is not None for one in findings)
    return (
        f"| {size} | {attack} | {rate:g} | {steps} | {exact:.3f} | {seen:.3f} | {sure:.3f} | {wrong} | {broke} | "
        f"{', '.join(ranks)} | {statistics.median(one.seconds for one in findings):.1f} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[*ATTACKS])
    parser.add_argument("--attacks", nargs="+", default=["spear", "spearpp", "prism"])
    options = parser.parse_args()
    text = (
        f"# Local steps\n\nCommand: `python benchmarks/local_steps.py --seeds {options.seeds}`. CIFAR-10 normalised "
        f"by channel, {NETWORK} at PyTorch's default start, float32, SGD on the whole batch in every step, seeds 0 to "
        f"{options.seeds - 1}, one network and one batch each; every run is counted. The server knows the rule, not "
        f"the batch size. Budget {SECONDS:.0f} s a batch on 1 thread. Machine: {platform.machine()}, {os.cpu_count()} "
        f"cores shared with other work, torch {torch.__version__}, CPU. Shares are of examples; *exact*: equal in "
        "every pixel of 8 bits; *rank*: how many examples the attack took the batch for, in any run.\n\n"
        "| b | attack | lr | steps | exact | recognisable | certified | wrong certificates | broke | rank | "
        "median s |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|---|--:|\n"
    )
    for size in options.sizes:
        for attack in (name for name in ATTACKS[size] if name in options.attacks):
            for rate in RATES:
                for steps in STEPS:
                    text += line(rate, steps, attack, size, options.seeds)
                    RESULTS.write_text(text, encoding="utf8")  # what there is, should it be stopped
    print(text)


if __name__ == "__main__":
    main()

"""How near pictures come out behind weak noise, half precision, few bits, missing entries.

Run: python benchmarks/noise.py [--seeds 5].
"""

import argparse
import math
import os
import platform
from pathlib import Path

import torch
from rules import DATA, NETWORK, RECOGNISABLE, Cell, run  # the neighbouring benchmark: one audit of one seed

from seepage.audit.findings import Finding
from seepage.data.sources import load_dataset
from seepage.metrics import psnr

RESULTS = Path(__file__).parent / "results" / "noise.md"
DEFENSES = (
    *(f"noise:{size},relative=true" for size in (0.001, 0.01, 0.03, 0.1, 0.2, 0.3)),
    "laplace:0.1,relative=true",
    "fp16",
    "bf16",
    "quantise:8",
    "quantise:4",
    "topk:0.9",
    "topk:0.5",
)
QUANTILES = (0.05, 0.5, 0.95)


def decibels(findings: list[Finding]) -> list[float]:
    """Of every example; one that nothing was matched with counts as minus infinity."""
    found: list[float] = []
    for finding in findings:
        listed = finding.scores.get("psnr")
        values = listed if isinstance(listed, list) else [None] * finding.batch_size
        found += [-math.inf if value is None else float(value) for value in values]
    return sorted(found)


def line(defense: str, findings: list[Finding]) -> str:
    examples = sum(finding.batch_size for finding in findings)
    shares = [
        sum(count(finding) for finding in findings) / examples
        for count in (
            lambda one: one.exact_examples,
            lambda one: one.recognisable_examples,
            lambda one: sum(one.certified),
        )
    ]
    wrong = sum(
        sure and not truth
        for one in findings
        for sure, truth in zip(one.certified, one.scores.get("exact") or [], strict=True)  # type: ignore[arg-type]
    )
    near = decibels(findings)
    shown = ["nothing" if math.isinf(value) else f"{value:.1f}" for value in (near[0], near[len(near) // 2])]
    broke = sum(finding.error is not None for finding in findings)
    return (
        f"| `{defense}` | "
        + " | ".join(f"{share:.3f}" for share in shares)
        + f" | {wrong} | {shown[0]} | {shown[1]} | {broke} |\n"
    )


def flat_pictures() -> str:
    """How near a flat picture of an image's own mean colour comes, over all CIFAR-10 test images."""
    inputs = load_dataset(str(DATA / "cifar10/cifar10_test.npz"), normalize="none").inputs
    flat = inputs.mean(dim=(-2, -1), keepdim=True)
    near = torch.cat([psnr(a.expand_as(b), b) for a, b in zip(flat.split(1000), inputs.split(1000), strict=True)])
    found = torch.quantile(near.double(), torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    listed = ", ".join(f"{value:.1f} dB at {share:.0%}" for share, value in zip(QUANTILES, found, strict=True))
    own = float(psnr(inputs.mean(dim=(0, 2, 3), keepdim=True).expand_as(inputs), inputs).median())
    return (
        f"\n## Flat pictures\n\nEach of the {len(inputs)} CIFAR-10 test images against a flat picture of its own mean "
        f"colour: {listed}. Against the mean colour of all images the median is {own:.1f} dB.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES))
    options = parser.parse_args()
    text = (
        f"# What comes out behind weak defenses\n\nCommand: `python benchmarks/noise.py --seeds {options.seeds}`. "
        f"`auto` on CIFAR-10 normalised by channel, {NETWORK} at PyTorch's default start, `fedsgd`, seeds 0 to "
        f"{options.seeds - 1}, one network and one batch each; every run is counted. The server knows neither the "
        f"defense nor the batch size. Budget 3 s a batch on 1 thread. Machine: {platform.machine()}, {os.cpu_count()} "
        f"cores shared with other work, torch {torch.__version__}, CPU. Noise is relative to the root mean square of "
        f"the whole update. *Exact*: equal in every pixel of 8 bits; *recognisable*: {RECOGNISABLE}. Shares are of "
        "examples; dB of the worst and of the median example, *nothing* where nothing was matched with it.\n"
    )
    text += flat_pictures()
    for size in options.sizes:
        text += (
            f"\n## b = {size}\n\n| defense | exact | recognisable | certified | wrong certificates | least dB | median "
            "dB | broke |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
        )
        for defense in options.defenses:
            cell = Cell(defenses=(defense,), attack="auto", batch_size=size)
            text += line(defense, [run((cell, seed)) for seed in range(options.seeds)])
            RESULTS.write_text(text, encoding="utf8")  # what there is, should it be stopped
    print(text)


if __name__ == "__main__":
    main()

"""What each criterion calls recognisable: degraded originals, and pictures and rows that were never the client's.

Run: python benchmarks/recognisable.py [--seed 0].
"""

import argparse
import os
import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from seepage.audit.scores.recognition import details, identified, recognisable_rows
from seepage.data.sources import Dataset, load_dataset
from seepage.metrics import match, recognisable_images

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "recognisable.md"
PICTURES = {
    "MNIST, 28 x 28": ("mnist/t10k-images-idx3-ubyte.gz", None),
    "CIFAR-10, 32 x 32": ("cifar10/cifar10_test.npz", None),
    "LFW faces, 64 x 64": ("lfw", 64),
    "ImageNet photos, 64 x 64": ("imagenet64/imagenet64_500.npz", None),
    "digits, 8 x 8": ("digits", None),
}
TABLES = ("tabular/adult.test", "tabular/german_credit.csv")
SAMPLE, OTHERS = 300, 1000


def source(name: str) -> str:
    return name if name == "digits" else str(DATA / name)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    reach = max(1, int(3 * sigma))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(pictures.shape[1], 1, -1)
    rows = conv2d(pad(pictures, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None], groups=len(kernel))
    return conv2d(pad(rows, (0, 0, reach, reach), mode="replicate"), kernel[..., None], groups=len(kernel))


def split(inputs: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, the pool they are told from, and public examples: no two share an example."""
    order = torch.randperm(len(inputs), generator=chance)
    count = min(SAMPLE, len(inputs) // 4)
    pool = min(OTHERS, (len(inputs) - count) // 2)
    return inputs[order[:count]], inputs[order[count : count + pool]], inputs[order[count + pool :]]


def degraded(originals: Tensor, chance: torch.Generator) -> dict[str, Tensor]:
    side, mean = originals.shape[-1], originals.mean((-2, -1), keepdim=True)
    noise = torch.randn(originals.shape, generator=chance)
    cases = {f"white noise of {size}": (originals + size * noise).clamp(0, 1) for size in (0.1, 0.2, 0.3)}
    cases |= {f"blurred by 1/{part} of a side": blur(originals, side / part) for part in (32, 16, 10)}
    cases["contrast of 0.4"] = mean + 0.4 * (originals - mean)
    cases["0.7 of it, 0.3 of another"] = 0.7 * originals + 0.3 * originals.roll(1, 0)
    cases["half of it, half of another"] = 0.5 * originals + 0.5 * originals.roll(1, 0)
    return cases


def unrelated(originals: Tensor, public: Tensor, chance: torch.Generator) -> dict[str, Tensor]:
    """What was never the client's; an *oracle* picks what is nearest to the original, as no attack can."""
    drawn = public[torch.randint(len(public), (len(originals),), generator=chance)]
    apart = torch.cdist(originals.flatten(1), public.flatten(1))
    near = apart.topk(10, largest=False).indices  # [k, 10]
    alike = (details(originals) @ details(public).T).argmax(1)
    return {
        "public mean": public.mean(0, keepdim=True).expand_as(originals),
        "random public": drawn,
        "random public, matched by assignment": drawn[match(drawn, originals)],
        "oracle: nearest public": public[near[:, 0]],
        "oracle: most alike in detail": public[alike],
        "oracle: mean of the 10 nearest": public[near].mean(1),
    }


def picture_lines(name: str, chance: torch.Generator) -> str:
    file, size = PICTURES[name]
    originals, others, public = split(load_dataset(source(file), normalize="none", size=size).inputs, chance)
    text = f"\n## {name}\n\n{len(originals)} originals, {len(others)} others, {len(public)} public.\n\n"
    text += "| what the server has | 20 dB and 6 dB | detail | either |\n|---|--:|--:|--:|\n"
    for case, found in (degraded(originals, chance) | unrelated(originals, public, chance)).items():
        near, sure = recognisable_images(found, originals), identified(found.clamp(0, 1), originals, others)
        shares = " | ".join(f"{float(value.float().mean()):.3f}" for value in (near, sure, near | sure))
        text += f"| {case} | {shares} |\n"
    return text


def row_lines(name: str, chance: torch.Generator) -> str:
    dataset = load_dataset(str(DATA / name), normalize="none")
    originals, _, public = split(dataset.inputs, chance)
    noise = torch.randn(originals.shape, generator=chance)
    cases = {f"noise of {size}": originals + size * noise for size in (0.001, 0.003, 0.01, 0.03)}
    drawn = public[torch.randint(len(public), (len(originals),), generator=chance)]
    near = torch.cdist(originals, public).topk(10, largest=False).indices
    cases |= {
        "public mean": public.mean(0, keepdim=True).expand_as(originals),
        "random public, matched by assignment": drawn[match(drawn, originals)],
        "oracle: nearest public": public[near[:, 0]],
        "oracle: mean of the 10 nearest": public[near].mean(1),
    }
    text = f"\n## {name}\n\n{len(originals)} rows, {len(public)} public.\n\n"
    text += "| what the server has | recognisable |\n|---|--:|\n"
    for case, found in cases.items():
        text += f"| {case} | {share_of_rows(dataset, found, originals):.3f} |\n"
    return text


def share_of_rows(dataset: Dataset, found: Tensor, originals: Tensor) -> float:
    table = dataset.table
    if table is None:
        raise ValueError("`table` should be the encoding of a table; found None.")
    return float(
        recognisable_rows(table, table.decode(found), table.decode(originals), dataset.inputs[:1000]).float().mean()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = torch.Generator().manual_seed(options.seed)
    text = (
        f"# What is called recognisable\n\nCommand: `python benchmarks/recognisable.py --seed {options.seed}`; real "
        "data, one draw. Shares of the originals. *20 dB and 6 dB*: 20 dB, and 6 dB above a flat picture. *Detail*: "
        "what a blur by a tenth of a side takes away correlates to 0.75 with the original, at half the distance of the "
        "most alike of the other pictures at most. *Rows*: every text right, every number within 1 % of its column's "
        "range. Noise is in the units of [0, 1]. *Oracle* rows are picked with the originals in hand, as no attack "
        f"can: look-alikes that the data set holds. Machine: {platform.machine()}, torch {torch.__version__}, CPU.\n"
    )
    for name in PICTURES:
        text += picture_lines(name, chance)
        RESULTS.write_text(text, encoding="utf8")
    for name in TABLES:
        text += row_lines(name, chance)
        RESULTS.write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()

"""What each part of the coupled search is worth. Run: python benchmarks/coupling.py."""

import argparse
import os
import platform
import time
from dataclasses import dataclass

import torch
from exact import CIFAR, RESULTS, Cell, load, mlp, prism
from torch import Tensor

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.coupled import CoupledSearch, heights, round_distinct
from seepage.attacks.disaggregation.directions import accept
from seepage.attacks.disaggregation.expectederrors import expected_errors
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.spearpp import SEARCHES, SphereSearch
from seepage.federated.rules import FedSGD
from seepage.linalg.coupling import Coupling
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel

TURNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The coupled search with one part left out."""

    title: str
    expected: bool = True
    deflate: bool = True
    descent: Coupling = Coupling()  # noqa: RUF009 - frozen


VARIANTS = (
    Variant(title="all of it"),
    Variant(title="no expected errors", expected=False),
    Variant(title="inputs not deflated", deflate=False),
    Variant(title="runs not kept off what is known", descent=Coupling(nearest=(1.0, 1.0))),
    Variant(title="half as many steps", descent=Coupling(steps=150)),
    Variant(title="twice as many steps", descent=Coupling(steps=600)),
    Variant(title="spike from 1.0", descent=Coupling(spike=(1.0, 0.05))),
    Variant(title="ridge 1.0", descent=Coupling(ridge=1.0)),
    Variant(title="inputs stay at zero (no coupling)", descent=Coupling(input_step=0.0)),
)


def prepared(batch_size: int, width: int, seed: int) -> tuple[Mixture, Tensor]:
    """The mixture of one batch, and the errors to expect."""
    dataset = load(Cell(attack=prism, batch_size=batch_size, network="", source=CIFAR))
    network = build_network(mlp(width, 3), input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[:batch_size])
    update = FedSGD()(network, batch, chance)
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=dataset.classes)
    layer = find_relu_layer(view)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=LEAST_SHARE, generator=chance)
    assert mixture is not None
    expected = expected_errors(view, layer.read, awake=mixture.awake, generator=chance)
    assert expected is not None
    return mixture, expected


def turns(variant: Variant, mixture: Mixture, expected: Tensor, seed: int) -> tuple[list[int], float]:
    """Directions known after each turn, and the processor's seconds."""
    chance, found = torch.Generator().manual_seed(seed), Found.nothing(mixture.L)
    known: list[int] = []
    arm = CoupledSearch(expected=expected if variant.expected else None, descent=variant.descent)
    started = time.process_time()
    while len(known) < TURNS and len(found) < mixture.batch_size:
        if variant.deflate:
            directions = arm(mixture, found, chance, effort=1).directions
        else:
            directions = _undeflated(variant, mixture, found, expected, chance)
        accept(mixture, found, directions)
        known.append(min(len(found), mixture.batch_size))
    return known, time.process_time() - started


def _undeflated(variant: Variant, mixture: Mixture, found: Found, expected: Tensor, chance: torch.Generator) -> Tensor:
    U, H = mixture.white, heights(mixture, Found.nothing(mixture.L))
    starts = U[torch.randperm(len(U), generator=chance)[: min(max(mixture.batch_size, 128), 256)]]
    errors = 0.5 * 2**0.5 * expected[torch.arange(len(starts)) % len(expected)]
    starts = starts * (starts * (errors @ U)).sum(dim=1, keepdim=True).sign()
    known = found.directions.float()
    if len(known):
        basis = torch.linalg.qr(known.T).Q
        starts = starts - (starts @ basis) @ basis.T
    return round_distinct(mixture, found, variant.descent(U, H, starts, expected=errors, known=known))


def sphere(mixture: Mixture, seed: int) -> tuple[list[int], float]:
    """The same of the search on zeros alone (SPEAR++)."""
    chance, found = torch.Generator().manual_seed(seed), Found.nothing(mixture.L)
    known: list[int] = []
    started = time.process_time()
    while len(known) < TURNS:
        arm = SphereSearch(search=SEARCHES[len(known) % len(SEARCHES)])
        accept(mixture, found, arm(mixture, found, chance, effort=1).directions)
        known.append(min(len(found), mixture.batch_size))
    return known, time.process_time() - started


def main() -> None:
    """One row a variant and size, written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["100x400", "100x600", "210x1050"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What each part of the coupled search is worth\n\n"
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/coupling.py --sizes {' '.join(options.sizes)} "
        f"--seeds {options.seeds}`. CIFAR-10, `mlp:m,400,400`, seeds from 0 on, one batch each; directions accepted "
        f"after each of at most {TURNS} turns, mean over seeds, no other search and no image prior; seconds of the "
        f"processor for all turns, on 1 thread of a busy machine ({platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, CPU only).\n\n"
        "| b | m | variant | batches | directions after each turn, mean | s |\n|--:|--:|---|--:|---|--:|"
    ]
    for size in options.sizes:
        batch_size, width = map(int, size.split("x"))
        cases = [prepared(batch_size, width, seed) for seed in range(options.seeds)]
        results = {"zeros alone (SPEAR++)": [sphere(mixture, seed) for seed, (mixture, _) in enumerate(cases)]}
        for variant in VARIANTS:
            results[variant.title] = [turns(variant, *case, seed) for seed, case in enumerate(cases)]
            for title in list(results):
                lines.append(row(batch_size, width, title, results.pop(title)))
                print(lines[-1], flush=True)
                (RESULTS / "coupling.md").write_text("\n".join(lines) + "\n", encoding="utf8")


def row(batch_size: int, width: int, title: str, runs: list[tuple[list[int], float]]) -> str:
    """A batch that is whole stays so."""
    padded = [known + known[-1:] * (TURNS - len(known)) for known, _ in runs]
    means = ", ".join(f"{sum(turn) / len(turn):.0f}" for turn in zip(*padded, strict=True))
    seconds = sum(taken for _, taken in runs) / len(runs)
    return f"| {batch_size} | {width} | {title} | {len(runs)} | {means} | {seconds:.0f} |"


if __name__ == "__main__":
    main()

"""What asking a direction for an input of its own is worth. Run: python benchmarks/separable.py."""

import argparse
import os
import platform
from dataclasses import dataclass

import torch
from exact import CIFAR, RESULTS, Cell, load, trained
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation import directions
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.separable import separable_share
from seepage.attacks.prism import PRISM
from seepage.audit.catalogue import build_rule
from seepage.metrics import match
from seepage.networks.zoo import build_network
from seepage.types import Observation, Reconstruction, ThreatModel

ADULT = "tabular/adult.test"
THRESHOLD = directions._SEPARABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One setting."""

    source: str
    network: str
    batch_size: int
    rule: str = "fedsgd"
    epochs: int = 0


CASES = (
    Case(source=ADULT, network="mlp:200", batch_size=8),
    Case(source=ADULT, network="mlp:200", batch_size=16),
    Case(source=ADULT, network="mlp:400", batch_size=32),
    Case(source=ADULT, network="mlp:160,400,400", batch_size=32),
    Case(source="digits", network="mlp:200,100", batch_size=24),
    Case(source=CIFAR, network="mlp:400", batch_size=40),
    Case(source=CIFAR, network="mlp:400,400,400", batch_size=64),
    Case(source=CIFAR, network="mlp:1000,400,400", batch_size=40, epochs=5),
    Case(source=CIFAR, network="mlp:200,100", batch_size=8, rule="fedavg:epochs=3,lr=0.1"),
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Of one batch: shares of the true directions, those of all that were refused, and examples certified and right."""

    true: list[float]
    refused: list[float]
    certified: int
    right: int


def prepared(case: Case, seed: int) -> tuple[Observation, Tensor]:
    """What the server sees, and the truth."""
    dataset = load(Cell(attack=lambda _: PRISM(), batch_size=case.batch_size, network="", source=case.source))
    network = build_network(case.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    if case.epochs:
        network = trained(case.network, case.epochs)[0]
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[: case.batch_size])
    rule = build_rule(case.rule)
    update = rule(network, batch, chance)
    view = ThreatModel(batch_size=True).view(
        network=network, update=update, batch=batch, rule=rule, classes=dataset.classes
    )
    return view, batch.inputs


def true_directions(mixture: Mixture, inputs: Tensor) -> Tensor | None:
    """``[b, b]`` from the truth, ``None`` if examples coincide."""
    mixing = inputs.flatten(1).double() @ mixture.factors.right.T / mixture.factors.singular
    if mixing.shape[0] != mixing.shape[1]:
        return None
    return normalize(torch.linalg.inv(mixing).T, dim=1)


def run(case: Case, seed: int, *, asked: bool, seconds: float) -> Outcome:
    """One batch by PRISM, whose directions are asked for an input of their own or not."""
    view, inputs = prepared(case, seed)
    shares: list[float] = []

    def noted(mixture: Mixture, found: Tensor) -> Tensor:
        answer = separable_share(mixture, found)
        shares.extend(answer.tolist())
        return answer if asked else torch.ones_like(answer)

    directions.separable_share = noted  # type: ignore[assignment]
    try:
        result = PRISM(budget=Budget(seconds=seconds))(view, generator=torch.Generator().manual_seed(seed))
    finally:
        directions.separable_share = separable_share
    layer = find_relu_layer(view)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=LEAST_SHARE, generator=torch.Generator().manual_seed(seed))
    truth = None if mixture is None else true_directions(mixture, inputs)
    own = [] if mixture is None or truth is None else separable_share(mixture, truth).tolist()
    low = [share for share in shares if share < THRESHOLD]
    return Outcome(true=own, refused=low, certified=int(result.certified.sum()), right=_right(result, inputs))


def _right(result: Reconstruction, inputs: Tensor) -> int:
    if result.inputs is None:
        return 0
    order = match(result.inputs, inputs)
    apart = (result.inputs[order.clamp_min(0)] - inputs).flatten(1).abs().amax(dim=1)
    return int(((apart <= 1e-3) & (order >= 0)).sum())


def span(values: list[float]) -> str:
    """Least, median and largest."""
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[0]:.3f}, {ordered[len(ordered) // 2]:.3f}, {ordered[-1]:.3f}"


def main() -> None:
    """One row a case, written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# An input of its own: directions with the filter and without\n\n"
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/separable.py --seeds {options.seeds} --seconds "
        f"{options.seconds:g}`. PRISM, seeds from 0 on, one batch each and {options.seconds:g} s a run, on 1 thread "
        f"({platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU only). Shares of units that "
        "one input explains: least, median, largest; of the true directions by the truth, and of all that the attack "
        f"proposed, *pinned* and below {THRESHOLD}. Right: within 1e-3 of an original.\n\n"
        "| data | network | b | rule | batches | share of true ones | share of those refused | how many | certified, "
        "with | without | right, with | without |\n|---|---|--:|---|--:|---|---|--:|--:|--:|--:|--:|"
    ]
    for case in CASES:
        ours = [run(case, seed, asked=True, seconds=options.seconds) for seed in range(options.seeds)]
        bare = [run(case, seed, asked=False, seconds=options.seconds) for seed in range(options.seeds)]
        true, refused = [one for run in ours for one in run.true], [one for run in ours for one in run.refused]
        total = case.batch_size * options.seeds
        counts = [sum(getattr(one, what) for one in runs) for what in ("certified", "right") for runs in (ours, bare)]
        network = case.network + (f", {case.epochs} epochs" if case.epochs else "")
        lines.append(
            f"| {case.source.split('/')[0]} | {network} | {case.batch_size} | {case.rule} | {options.seeds} | "
            f"{span(true)} | {span(refused)} | {len(refused)} | "
            + " | ".join(f"{count} of {total}" for count in counts)
            + " |"
        )
        print(lines[-1], flush=True)
        (RESULTS / "separable.md").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()

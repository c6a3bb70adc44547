"""``seepage audit`` and ``seepage demo``: private batches of one network in, findings and a report out."""

from pathlib import Path

import torch
import typer

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.record import Verdict
from seepage.audit.run import Audit
from seepage.cli.carry import carry_out
from seepage.cli.options import (
    AttackOption,
    BatchesOption,
    BatchSizeOption,
    BudgetOption,
    DataOption,
    DefenseOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    KnowsOption,
    LayerOption,
    NetworkOption,
    NormalizeOption,
    OutOption,
    RedactOption,
    RuleOption,
    SeedOption,
    SizeOption,
    TargetOption,
    ThreadsOption,
    ThresholdOption,
    WeightsOption,
    parse_budget,
    parse_device,
    parse_knowledge,
    set_threads,
)
from seepage.cli.show import tell_cast
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network

__all__ = ["audit", "demo"]


def audit(
    data: DataOption,
    network: NetworkOption,
    out: OutOption,
    batch_size: BatchSizeOption = 8,
    attack: AttackOption = "auto",
    batches: BatchesOption = 1,
    seed: SeedOption = 0,
    rule: RuleOption = "fedsgd",
    defense: DefenseOption = None,
    normalize: NormalizeOption = "channel",
    target: TargetOption = None,
    size: SizeOption = None,
    knows: KnowsOption = None,
    layer: LayerOption = None,
    weights: WeightsOption = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    device: DeviceOption = "cpu",
    budget: BudgetOption = "10m",
    threads: ThreadsOption = None,
    threshold: ThresholdOption = 0.0,
    redact: RedactOption = False,
) -> None:
    """Attack batches drawn from your data, score them against the truth, and write findings and a report."""
    set_threads(threads)
    place = parse_device(device)
    dataset = load_dataset(data, normalize=normalize, target=target, size=size)
    shape, classes = dataset.input_shape, dataset.classes
    built = build_network(network, input_shape=shape, classes=classes, seed=seed, weights=weights)
    tell_cast(built, getattr(torch, dtype.value))
    plan = Audit(
        network=built, network_name=network, dataset=dataset, rule=build_rule(rule),
        defenses=tuple(build_defense(text) for text in defense or ()),
        attack=build_attack(attack, budget=parse_budget(budget), layer=layer), threat_model=parse_knowledge(knows),
        batch_size=batch_size, batches=batches, seed=seed, dtype=getattr(torch, dtype.value), device=place,
    )  # fmt: skip
    code = carry_out(plan, out, redact=redact, threshold=threshold, budget=budget, weights=weights, attack=attack)
    raise typer.Exit(code)


def demo(
    out: OutOption = Path("runs/demo"),
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Audit a small network on real photographs that ship with seepage; ends with the path of the report.

    Exits with 0 if the demonstration ran, although (because) the photographs leak.
    """
    set_threads(threads)
    dataset = load_dataset("photos")
    name = "mlp:400,400,400"
    plan = Audit(
        network=build_network(name, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
        network_name=name,
        dataset=dataset,
        rule=build_rule("fedsgd"),
        attack=build_attack("auto", budget=Budget(seconds=25.0)),
        batch_size=12,
        batches=2,
        seed=seed,
    )
    code = carry_out(plan, out, redact=False, threshold=0.0, budget="25s", weights=None)
    raise typer.Exit(Verdict.NOTHING_LEAKED if code is Verdict.LEAKED else code)

"""What every attack promises under every rule and defense: no exception, nothing changed, certified means exact."""

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import ATTACKS, build_attack, build_defense, build_rule
from seepage.audit.run import Audit
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network

RULES = [
    "fedsgd:batch_norm=eval,statistics=true",
    "fedavg:lr=0.1",
    "fedavg:epochs=3,local_batch=2,lr=0.05",
    "fedavg:epochs=2,lr=0.01,momentum=0.9,weight_decay=0.01",
    "fedavg:epochs=2,optimizer=adam",
    "dpsgd:clip=0.5,noise=0",
    "dpsgd:clip=1,noise=1",
    "sum:clients=2",
    "sum:clients=2,of=fedavg:epochs=2,lr=0.1",
]
DEFENSES = [
    ["noise:0.001"],
    ["laplace:0.5,relative=true"],
    ["clip:0.1"],
    ["topk:0.1"],
    ["random:0.5"],
    ["sign"],
    ["quantise:4"],
    ["quantise:16"],
    ["fp16"],
    ["bf16"],
    ["drop:1"],
    ["drop:*"],
    ["clip:0.5", "noise:1e-9"],
]
CASES = [(rule, []) for rule in RULES] + [("fedsgd", each) for each in DEFENSES] + [("fedavg:epochs=2", ["sign"])]


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize(
    ("rule", "defenses"), CASES, ids=lambda case: "+".join(case) if isinstance(case, list) else case
)
@pytest.mark.parametrize(("batch_size", "dtype"), [(1, torch.float32), (5, torch.float32), (5, torch.float64)])
def test_certified_means_exact(name: str, rule: str, defenses: list[str], batch_size: int, dtype: torch.dtype) -> None:
    if batch_size == 1 and rule.startswith("sum"):
        pytest.skip("one example cannot be dealt to two clients")
    digits = load_dataset("digits")
    audit = Audit(
        network=build_network("mlp:100,50", input_shape=digits.input_shape, classes=digits.classes, seed=1),
        network_name="mlp:100,50",
        dataset=digits,
        rule=build_rule(rule),
        defenses=tuple(build_defense(text) for text in defenses),
        attack=build_attack(name, budget=Budget(samples=20_000, seconds=1.0)),
        batch_size=batch_size,
        seed=3,
        dtype=dtype,
    )
    (audited,) = audit()
    finding = audited.finding
    assert finding.error is None
    assert (finding.outcome is None) == bool(finding.obstacles)
    if finding.restores_labels:
        assert finding.scores["wrong_certified"] == 0, finding.reason
    else:
        exact = finding.scores.get("exact", [])
        assert isinstance(exact, list)
        wrong = [sure and not true for sure, true in zip(finding.certified, exact, strict=True)]
        assert not any(wrong), finding.reason
    assert finding.rule == rule.replace("clip=1,noise=1", "").rstrip(":") or build_rule(finding.rule) == build_rule(
        rule
    )

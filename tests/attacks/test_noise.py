"""What noise leaves: the rank is read off its edge, inputs come out nearly, and nothing is certified."""

import pytest
import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.sources import load_dataset
from seepage.linalg.lowrank import low_rank_factors, rank_above_noise
from seepage.networks.zoo import build_network


def low_rank(rank: int, rows: int = 200, columns: int = 300) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(rows, rank, generator=draw) @ torch.randn(rank, columns, generator=draw)


def noise_like(matrix: Tensor, size: float) -> Tensor:
    return size * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [1e-3, 0.1, 0.5])
def test_the_rank_and_the_size_of_noise_are_read_off_the_spectrum(size: float) -> None:
    matrix = low_rank(6)
    factors = low_rank_factors(matrix + noise_like(matrix, size), generator=torch.Generator().manual_seed(2))
    assert factors is not None
    assert factors.rank == 6
    assert 0.9 * size < factors.spread < 1.2 * size


def test_without_noise_there_is_no_spread() -> None:
    factors = low_rank_factors(low_rank(6), generator=torch.Generator().manual_seed(2))
    assert factors is not None
    assert (factors.rank, factors.spread) == (6, 0.0)


@pytest.mark.parametrize("rank", [120, 200])
def test_many_examples_are_not_taken_for_noise(rank: int) -> None:
    factors = low_rank_factors(low_rank(rank), generator=torch.Generator().manual_seed(2))
    assert factors is None or (factors.rank == rank and factors.spread == 0.0)


def test_noise_alone_has_no_rank() -> None:
    blank = torch.zeros(200, 300)
    assert low_rank_factors(noise_like(blank, 1.0), generator=torch.Generator().manual_seed(2)) is None


def test_uneven_noise_ends_at_its_gap() -> None:
    singular = torch.tensor([50.0, 40.0, 30.0, 3.0, 2.0, 1.5, 1.1, 1.0, 1.0, 1.0])
    assert rank_above_noise(singular, edge=1.0) == 3
    assert rank_above_noise(singular, edge=0.01) is None
    assert rank_above_noise(singular, edge=60.0) is None


def audited(attack: str, *defenses: str, rule: str = "fedsgd") -> Finding:
    digits = load_dataset("digits")
    audit = Audit(
        network=build_network("mlp:300,100", input_shape=digits.input_shape, classes=digits.classes, seed=0),
        network_name="mlp:300,100",
        dataset=digits,
        rule=build_rule(rule),
        defenses=tuple(build_defense(text) for text in defenses),
        attack=build_attack(attack, budget=Budget(samples=20_000)),
        batch_size=6,
    )
    return next(iter(audit())).finding


@pytest.mark.parametrize("attack", ["auto", "spearpp"])
@pytest.mark.parametrize("defense", ["noise:0.001,relative=true", "bf16", "quantise:12"])
def test_a_batch_behind_weak_noise_is_recognised_and_not_certified(attack: str, defense: str) -> None:
    finding = audited(attack, defense)
    assert finding.recognisable_examples == finding.batch_size, finding.reason
    assert not any(finding.certified)
    assert finding.outcome == "approximate"
    assert "too rough" in finding.reason


def test_strong_noise_hides_the_batch() -> None:
    finding = audited("auto", "noise:1,relative=true")
    assert finding.recognisable_examples == 0
    assert not any(finding.certified)

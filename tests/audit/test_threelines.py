"""Three lines of Python: ``seepage.audit`` is a function, and importing seepage stays light."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

import seepage
from seepage.attacks.spear import SPEAR
from seepage.audit.record import Verdict
from seepage.audit.threelines import Findings, audit_batch
from seepage.errors import InputError
from seepage.federated.defenses import Clip
from seepage.federated.rules import FedSGD
from seepage.types import ThreatModel


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 5))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 30, generator=generator), torch.arange(size) % 5


def test_importing_seepage_imports_no_torch() -> None:
    said = "import sys, seepage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0


def test_a_leak_shows_itself_without_a_private_value() -> None:
    found = seepage.audit(network(), batch(4), rule="fedsgd")
    assert found.verdict is Verdict.LEAKED
    assert found.exposed == [0, 1, 2, 3]
    page = found._repr_html_()
    assert "4 of 4" in page
    assert str(found) == "leaked: 4 of 4 examples exact"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_positions_are_those_of_the_batch_handed_in(seed: int) -> None:
    inputs, labels = batch(3)
    twins = (torch.cat([inputs, inputs[1:2]]), torch.cat([labels, labels[1:2] + 1]))  # 1 and 3: alike, other labels
    found = audit_batch(network(), twins, seed=seed, seconds=2.0)
    psnr = found.finding.scores["psnr"]
    assert isinstance(psnr, list)
    at = {position: psnr[place] for place, position in enumerate(found.order)}
    assert at[1] == at[3]
    assert len({at[0], at[1], at[2]}) == 3


def test_exposed_follows_the_order() -> None:
    found = seepage.audit(network(), batch(3))
    partly = found.finding.model_copy(update={"scores": {"exact": [True, False, True]}})
    assert Findings(finding=partly, order=(2, 0, 1)).exposed == [1, 2]


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(InputError, match="magic"):
        seepage.audit(network(), batch(2), rule="magic")


def test_silence_carries_its_control() -> None:
    found = audit_batch(network(), batch(60), seconds=1.0)
    assert found.finding.silent
    assert found.finding.control is not None
    assert "positive control" in found._repr_html_()


def test_seepage_has_nothing_else_hidden() -> None:
    with pytest.raises(AttributeError, match="audits"):
        _ = seepage.audits


def test_the_short_name_takes_what_the_long_one_takes() -> None:
    short, long = (inspect.signature(one).parameters for one in (type(seepage.audit).__call__, audit_batch))
    assert {name: (one.kind, one.default) for name, one in short.items() if name != "self"} == {
        name: (one.kind, one.default) for name, one in long.items()
    }
    found = seepage.audit(network(), batch(3), threat_model=ThreatModel(labels=True))
    assert found.finding.attack == "auto"
    assert found.finding.threat_model == ThreatModel(labels=True).name


def test_what_is_made_in_python_is_taken_as_it_is() -> None:
    found = audit_batch(
        network(),
        batch(3),
        rule=FedSGD(),
        defenses=[Clip(norm=1.0)],
        attack=SPEAR(),
        threat_model=ThreatModel(labels=True),
    )
    assert found.finding.attack == "spear"
    assert found.finding.rule == "fedsgd"
    assert found.finding.defenses == [Clip(norm=1.0).name]
    assert found.finding.threat_model == ThreatModel(labels=True).name


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((torch.rand(2, 30),), "found Tensor"),
        ((torch.rand(2, 30).numpy(), torch.tensor([0, 1]).numpy()), "found ndarray, ndarray"),
        ((torch.rand(2, 60), torch.tensor([0, 1])), r"like \[1, 60\], torch.float32; found: mat1 and mat2"),
        ((torch.rand(2, 30).double(), torch.tensor([0, 1])), "torch.float64; found: mat1 and mat2"),
    ],
)
def test_what_is_no_batch_of_this_network_is_named(given: tuple[torch.Tensor, torch.Tensor], found: str) -> None:
    with pytest.raises(InputError, match=found):
        audit_batch(network(), given)


def test_a_network_with_batch_norm_in_training_mode_is_audited() -> None:
    normed = nn.Sequential(nn.Linear(30, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 5))
    found = audit_batch(normed, batch(4), attack="labels", threat_model=ThreatModel(batch_size=True), seconds=2.0)
    assert found.finding.error is None
    assert normed.training


class TwoHeads(nn.Linear):
    """Returns more than logits."""

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return super().forward(inputs), inputs


@pytest.mark.parametrize(
    ("odd", "found"),
    [
        (TwoHeads(30, 5), r"one tensor \[b, classes\] of logits; found tuple"),
        (nn.Unflatten(1, (5, 6)), r"found shape \[1, 5, 6\]"),
        (nn.Sequential(nn.Linear(30, 9), nn.BatchNorm1d(9), nn.Linear(9, 5)), "Expected more than 1 value per channel"),
    ],
)
def test_what_is_no_network_for_this_batch_is_named(odd: nn.Module, found: str) -> None:
    with pytest.raises(InputError, match=found):
        audit_batch(odd, batch(1))


@pytest.mark.parametrize("rule", ["fedsgd", "fedavg:lr=1"])
def test_what_dropout_lets_through_to_the_layer_is_scored_as_the_client_drew_it(rule: str) -> None:
    """Held against draws of the audit's own, exact inputs passed for wrong certificates."""
    torch.manual_seed(0)
    dropped = nn.Sequential(nn.Dropout(0.2), nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 5))
    state = torch.random.get_rng_state()
    found = audit_batch(dropped, batch(4), rule=rule, seconds=2.0)
    assert found.finding.layer == "1"
    assert found.exposed == [0, 1, 2, 3]
    assert found.finding.scores["units_alone"] is not None
    assert state.equal(torch.random.get_rng_state())


def test_pictures_and_numbers_that_come_out_nearly_are_exposed() -> None:
    """Noise keeps them from being exact; at 50 dB and more they are given away all the same."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 100), nn.ReLU(), nn.Linear(100, 5))
    inputs, labels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1])
    found = audit_batch(wide, (inputs, labels), defenses=["noise:0.001,relative=true"], seconds=5.0)
    assert found.finding.exact_examples == 0
    assert found.exposed == [0, 1]
    assert found.verdict is Verdict.LEAKED


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"network": lambda x: x}, "`network` should be a torch.nn.Module; found function"),
        ({"network": nn.LazyLinear(5)}, "found lazy ones"),
        ({"defenses": "noise:0.1"}, "`defenses` should be a list of defenses; found 'noise:0.1'"),
        ({"rule": "fedsg"}, "^`rule` should be one of fedsgd, .*; found 'fedsg'"),
        ({"attack": "magic"}, "^`attack` should be one of auto, .*; found 'magic'"),
        ({"defenses": ["noise:loud"]}, "^`defenses` noise: `sigma` should be a number; found 'loud'"),
        ({"seed": -1}, "`seed` should be a whole number, at least 0; found -1"),
    ],
)
def test_what_is_none_of_it_is_said_by_its_name(changed: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        audit_batch(**{"network": network(), "batch": batch(2), **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.half, torch.bfloat16])
def test_any_precision_is_audited(dtype: torch.dtype) -> None:
    inputs, labels = batch(3)
    found = audit_batch(network().to(dtype), (inputs.to(dtype), labels))
    assert found.verdict is Verdict.LEAKED
    assert found.finding.wrong_certified == 0

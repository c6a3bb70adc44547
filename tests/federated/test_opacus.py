"""Opacus: what is captured is what is sent, after clipping and noise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("opacus", reason="Opacus is an optional extra: pip install 'seepage[dp]'")

from opacus import PrivacyEngine

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.gate import LeakGate
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.opacus import capture_private_steps
from seepage.federated.sinks import BundleFolder, Decision, HeldBack, Known
from seepage.federated.storage import Capture, read_capture
from seepage.networks.zoo import build_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
KNOWN = Known(input_shape=(1, 8, 8), classes=10)


def private(noise: float) -> tuple[nn.Module, Any, Any]:
    dataset = load_dataset("digits", normalize="none")
    network = build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(dataset.inputs[:4].clone(), dataset.labels[:4].clone()), batch_size=4)
    return PrivacyEngine().make_private(
        module=network,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=1e6,
        poisson_sampling=False,
    )


def step(network: nn.Module, optimizer: Any, loader: Any) -> None:
    for inputs, labels in loader:
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def audit() -> CapturedAudit:
    plain = build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=3)
    attack = SPEAR(budget=Budget(samples=20_000))
    return CapturedAudit(network=plain, input_shape=(1, 8, 8), classes=10, attack=attack)


@pytest.mark.parametrize(("noise", "certified"), [(0.0, 4), (1e-3, 0)])
def test_the_capture_is_what_moves_the_parameters(noise: float, certified: int, tmp_path: Path) -> None:
    network, optimizer, loader = private(noise)
    end = capture_private_steps(optimizer, network, BundleFolder(tmp_path), known=KNOWN)
    step(network, optimizer, loader)
    end()
    step(network, optimizer, loader)
    (path,) = tmp_path.iterdir()
    capture = read_capture(path)
    assert capture.header.batch_size == 4
    assert "dpsgd" in capture.header.rule
    other, same, again = private(0.0)
    moved = capture.before["1.weight"] - 0.5 * capture.update["1.weight"]
    step(other, same, again)
    gap = float((moved - other.state_dict()["_module.1.weight"]).abs().max())
    assert (gap < 1e-6) is (noise == 0)
    assert audit()(capture).certified == certified


def test_a_leak_is_held_back_and_the_parameters_stay() -> None:
    network, optimizer, loader = private(0.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture_private_steps(optimizer, network, LeakGate(audit=audit()), known=KNOWN)
    with pytest.raises(HeldBack, match="certified"):
        step(network, optimizer, loader)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def broken(_: Capture) -> Decision:
    raise ZeroDivisionError("planted")


def test_a_sink_that_breaks_holds_back() -> None:
    network, optimizer, loader = private(0.0)
    capture_private_steps(optimizer, network, broken)
    with pytest.raises(HeldBack, match="planted"):
        step(network, optimizer, loader)


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(InputError, match="DPOptimizer"):
        capture_private_steps(torch.optim.SGD(network.parameters(), lr=1.0), network, BundleFolder(tmp_path))

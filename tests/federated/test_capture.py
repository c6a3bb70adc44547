"""The plain loop: what is captured is what the client computed, and what leaks is not sent."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.gate import LeakGate
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.capture import capture_round, capture_steps, rule_of
from seepage.federated.rules import FedSGD
from seepage.federated.sinks import BundleFolder, Decision, HeldBack, Known, decide
from seepage.federated.storage import Capture, UpdateKind, read_capture
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch

KNOWN = Known(client="alice", input_shape=(1, 8, 8), classes=10)


def client(b: int = 4, spec: str = "mlp:100") -> tuple[nn.Module, PrivateBatch]:
    dataset = load_dataset("digits", normalize="none")
    network = build_network(spec, input_shape=dataset.input_shape, classes=dataset.classes, seed=3)
    return network, PrivateBatch(inputs=dataset.inputs[:b].clone(), labels=dataset.labels[:b].clone())


def train(network: nn.Module, batch: PrivateBatch, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network(batch.inputs), batch.labels).backward()
        optimizer.step()


def gate(spec: str = "mlp:100", **options: bool) -> LeakGate:
    network, _ = client(spec=spec)
    attack = SPEAR(budget=Budget(samples=20_000))
    audit = CapturedAudit(network=network, input_shape=(1, 8, 8), classes=10, attack=attack)
    return LeakGate(audit=audit, **options)


def test_a_step_is_captured_as_the_true_gradient_and_inverted(tmp_path: Path) -> None:
    network, batch = client()
    truth = FedSGD()(network, batch, torch.Generator())
    optimizer = torch.optim.Adam(network.parameters())
    with capture_steps(optimizer, network, BundleFolder(tmp_path), known=KNOWN):
        train(network, batch, optimizer, steps=2)
    train(network, batch, optimizer)  # outside: nothing more is captured
    files = sorted(tmp_path.iterdir())
    assert [path.name[:8] for path in files] == ["round-0-", "round-1-"]
    assert "alice" not in files[0].name
    capture = read_capture(files[0])
    assert all(torch.equal(capture.update[name], tensor) for name, tensor in truth.items())
    attacked = gate().audit(capture)
    assert attacked.certified == len(batch)


def test_a_round_is_captured_as_weights_before_and_after(tmp_path: Path) -> None:
    network, batch = client()
    truth = FedSGD()(network, batch, torch.Generator())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with capture_round(optimizer, network, BundleFolder(tmp_path), known=KNOWN, number=7):
        train(network, batch, optimizer)
    capture = read_capture(next(tmp_path.iterdir()))
    header = capture.header
    assert (header.kind, header.rule, header.learning_rate, header.local_steps) == (UpdateKind.PAIR, "sgd", 0.5, 1)
    for name, tensor in capture.gradient().items():
        torch.testing.assert_close(tensor, truth[name], rtol=1e-4, atol=1e-6)


def test_several_steps_and_other_optimizers_are_named(tmp_path: Path) -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    for number in range(2):  # in the second the momentum of the first is in the steps: no number tells how much
        with capture_round(optimizer, network, BundleFolder(tmp_path), number=number):
            train(network, batch, optimizer, steps=3)
    first, second = (read_capture(path).header for path in sorted(tmp_path.iterdir()))
    assert (first.rule, first.local_steps, first.client) == ("fedavg:epochs=3,lr=0.5,momentum=0.9", 3, None)
    assert (second.rule, second.local_steps) == ("sgd with momentum", 3)
    assert rule_of(torch.optim.Adam(network.parameters())) == "adam"


def test_weight_decay_is_written_down_and_taken_out(tmp_path: Path) -> None:
    """Left in, it hides the gradient's rank: the attack on what every such client sends found nothing."""
    network, batch = client()
    start = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, weight_decay=0.01)
    with capture_round(optimizer, network, BundleFolder(tmp_path)):
        train(network, batch, optimizer)
    capture = read_capture(next(tmp_path.iterdir()))
    assert capture.header.rule == "fedavg:lr=0.5,weight_decay=0.01"
    audit = CapturedAudit(network=start, input_shape=(1, 8, 8), classes=10, attack=SPEAR())
    assert audit(capture).certified == len(batch)


def test_a_leak_is_held_back_and_the_parameters_stay(caplog: pytest.LogCaptureFixture) -> None:
    network, batch = client()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with (
        caplog.at_level(logging.WARNING, logger="seepage.capture"),
        capture_steps(optimizer, network, gate(), known=KNOWN),
        pytest.raises(HeldBack, match="4 examples certified"),
    ):
        train(network, batch, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert "held back" in caplog.text


def test_a_round_that_leaks_does_not_get_past_the_with() -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    sent = []

    def take_part() -> None:
        with capture_round(optimizer, network, gate(), known=KNOWN):
            train(network, batch, optimizer)
        sent.append(network.state_dict())

    with pytest.raises(HeldBack):
        take_part()
    assert not sent


def test_noise_that_hides_the_batch_is_let_go() -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(0)
    with capture_steps(optimizer, network, gate(), known=KNOWN):
        optimizer.zero_grad()
        cross_entropy(network(batch.inputs), batch.labels).backward()
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad += parameter.grad.std() * torch.randn(parameter.grad.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("release", [True, False])
def test_what_cannot_be_attacked_is_held_back_unless_asked(release: bool) -> None:
    network, batch = client(spec="mlp:50:gelu")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with capture_steps(optimizer, network, gate("mlp:50:gelu", release_unattackable=release), known=KNOWN):
        if release:
            train(network, batch, optimizer)
        else:
            with pytest.raises(HeldBack, match="could not be attacked"):
                train(network, batch, optimizer)


def broken(_: Capture) -> Decision:
    raise ZeroDivisionError("planted")


def test_a_sink_that_breaks_holds_back(caplog: pytest.LogCaptureFixture) -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with capture_steps(optimizer, network, broken), pytest.raises(HeldBack, match="planted"):
        train(network, batch, optimizer)
    assert "planted" in caplog.text


def test_an_attack_that_breaks_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    monkeypatch.setattr("seepage.attacks.disaggregation.layerattack.mix", lambda *_, **__: 1 / 0)
    with capture_steps(optimizer, network, gate()), pytest.raises(HeldBack, match="ZeroDivisionError"):
        train(network, batch, optimizer)


def test_a_folder_that_cannot_be_written_holds_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    sink = BundleFolder(tmp_path / "file")
    with capture_steps(optimizer, network, sink), pytest.raises(HeldBack, match="folder"):
        train(network, batch, optimizer)


def test_a_closure_and_a_missing_gradient_are_refused() -> None:
    network, _ = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    closure: Callable[[], Tensor] = lambda: torch.zeros(())  # noqa: E731
    with capture_steps(optimizer, network, broken), pytest.raises(InputError, match="closure"):
        optimizer.step(closure)
    with capture_steps(optimizer, network, broken), pytest.raises(InputError, match="gradients"):
        optimizer.step()


def test_captures_of_the_same_name_do_not_replace_each_other(tmp_path: Path) -> None:
    network, batch = client()
    for _ in range(2):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        with capture_round(optimizer, network, BundleFolder(tmp_path), known=KNOWN):
            train(network, batch, optimizer)
    assert len(list(tmp_path.iterdir())) == 2
    assert decide(broken, read_capture(next(tmp_path.iterdir()))).release is False


def test_without_the_state_sent_out_nothing_is_judged() -> None:
    network, batch = client()
    update = FedSGD()(network, batch, torch.Generator())
    header = KNOWN.header(UpdateKind.GRADIENT, rule="fedsgd", learning_rate=None, local_steps=1, number=0)
    decision = decide(gate(), Capture(header=header, update=update))
    assert decision.release is False
    assert "state that was sent out" in decision.reason


@pytest.mark.parametrize("wrong", [{"salt": b"secret"}, {"client": 3}, {"classes": 0}])
def test_what_is_known_of_a_client_is_checked_before_its_round(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Known(**{"client": "site", **wrong})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch's own modules
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["data-parallel", "compiled"])
def test_of_a_wrapper_the_network_within_is_captured(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    network, batch = client()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    wrapped = wrap(network)
    with capture_steps(optimizer, wrapped, BundleFolder(tmp_path / "steps"), known=KNOWN):
        train(network, batch, optimizer)
    with capture_round(optimizer, wrapped, BundleFolder(tmp_path / "round"), known=KNOWN):
        train(network, batch, optimizer)
    for (path,) in (list((tmp_path / word).iterdir()) for word in ("steps", "round")):
        assert set(read_capture(path).before) == set(network.state_dict())

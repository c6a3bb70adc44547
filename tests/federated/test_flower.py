"""Flower's own messages through the wrapper and the mod; the run over the network is benchmarks/flower_loopback."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

pytest.importorskip("flwr", reason="Flower is an optional extra: pip install 'seepage[flower]'")

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.gate import LeakGate
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.flower import capture_mod, capture_strategy
from seepage.federated.rules import FedSGD
from seepage.federated.sinks import BundleFolder, Decision, Known
from seepage.federated.storage import Capture, read_capture
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch

LR = 1.0
KNOWN = Known(input_shape=(1, 8, 8), classes=10)


@pytest.fixture(autouse=True)
def _as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only within a task of a run."""
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for word in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, word, 1)


class Grid:
    def get_node_ids(self) -> list[int]:
        return [11, 22]


def client(first: int = 0, b: int = 4) -> tuple[nn.Module, PrivateBatch]:
    dataset = load_dataset("digits", normalize="none")
    network = build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=3)
    rows = slice(first, first + b)
    return network, PrivateBatch(inputs=dataset.inputs[rows].clone(), labels=dataset.labels[rows].clone())


def train(message: Message, _: Any, first: int = 0) -> Message:
    network, batch = client(first)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    cross_entropy(network(batch.inputs), batch.labels).backward()
    optimizer.step()
    content = {"arrays": ArrayRecord(network.state_dict()), "metrics": MetricRecord({"num-examples": len(batch)})}
    return Message(RecordDict(content), reply_to=message)


def messages(strategy: Any) -> list[Message]:
    network, _ = client()
    return list(strategy.configure_train(1, ArrayRecord(network.state_dict()), ConfigRecord(), Grid()))


def replies(sent: list[Message], node: Any = train) -> list[Message]:
    """What two clients answer; ``reply_to`` needs the message as it arrives there."""
    return [node(message, None, 4 * place) for place, message in enumerate(sent)]


def audit() -> CapturedAudit:
    attack = SPEAR(budget=Budget(samples=20_000))
    return CapturedAudit(network=client()[0], input_shape=(1, 8, 8), classes=10, attack=attack)


def test_every_client_is_captured_and_its_batch_recovered(tmp_path: Path) -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    wrapped = capture_strategy(
        strategy, BundleFolder(tmp_path), learning_rate=LR, local_steps=1, rule="sgd", known=KNOWN
    )
    assert isinstance(wrapped, FedAvg)
    answers = replies(messages(wrapped))
    arrays, _ = wrapped.aggregate_train(1, answers)
    plain, _ = strategy.aggregate_train(1, replies(messages(strategy)))
    for name, tensor in arrays.to_torch_state_dict().items():
        assert torch.equal(tensor, plain.to_torch_state_dict()[name])
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    truths = [FedSGD()(*client(first), torch.Generator()) for first in (0, 4)]
    for path in files:
        capture = read_capture(path)
        gradient = capture.gradient()
        gaps = [max(float((gradient[name] - truth[name]).abs().max()) for name in truth) for truth in truths]
        assert min(gaps) < 1e-6  # rounding of weights near 0.1 at learning rate 1
        assert audit()(capture).certified == 4


def test_a_reply_that_leaks_is_left_out_of_the_aggregate() -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    wrapped = capture_strategy(strategy, LeakGate(audit=audit()), learning_rate=LR, local_steps=1, rule="sgd")
    arrays, metrics = wrapped.aggregate_train(1, replies(messages(wrapped)))
    assert arrays is None
    assert metrics is None


def mod_answer(sink: Any, **options: Any) -> Message:
    mod = capture_mod(sink, learning_rate=LR, local_steps=1, rule="sgd", known=KNOWN, **options)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    return mod(messages(strategy)[0], None, train)


def test_the_mod_sends_an_error_instead_of_a_leak() -> None:
    answer = mod_answer(LeakGate(audit=audit()))
    assert answer.has_error()
    assert not answer.has_content()
    assert answer.error.reason == "held back by the client's audit"


def test_the_mod_lets_go_what_may_go_and_writes_the_round(tmp_path: Path) -> None:
    assert mod_answer(BundleFolder(tmp_path)).has_content()
    assert read_capture(next(tmp_path.iterdir())).header.round == 1


def broken(_: Capture) -> Decision:
    raise ZeroDivisionError("planted")


def test_a_sink_that_breaks_holds_back(caplog: pytest.LogCaptureFixture) -> None:
    assert mod_answer(broken).has_error()
    assert "planted" in caplog.text


def test_a_reply_that_cannot_be_captured_is_held_back(tmp_path: Path) -> None:
    def empty(message: Message, _: Any) -> Message:
        return Message(RecordDict({}), reply_to=message)

    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    answer = capture_mod(BundleFolder(tmp_path))(messages(strategy)[0], None, empty)
    assert answer.has_error()
    assert not list(tmp_path.iterdir())


def test_what_is_no_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="strategy"):
        capture_strategy(object(), BundleFolder(tmp_path))

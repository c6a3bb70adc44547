"""NVFlare's own objects through the filter; no run over the network."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare", reason="NVFlare is an optional extra: pip install 'seepage[nvflare]'")

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.filter import FilterChainType, FilterContextKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.shareable import Shareable

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.gate import LeakGate
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.nvflare import CaptureFilter
from seepage.federated.rules import FedSGD
from seepage.federated.storage import UpdateKind, read_capture
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch

NETWORK = build_network("mlp:100", input_shape=(1, 8, 8), classes=10, seed=3)
GATES = "gates_of_this_test"  # a module as a job would name it
FACTS = {"learning_rate": 1.0, "local_steps": 1, "rule": "sgd", "input_shape": [1, 8, 8], "classes": 10}


def make_gate() -> LeakGate:
    attack = SPEAR(budget=Budget(samples=20_000))
    return LeakGate(audit=CapturedAudit(network=NETWORK, input_shape=(1, 8, 8), classes=10, attack=attack))


def broken_gate() -> Any:
    def sink(_: object) -> None:
        raise ZeroDivisionError("planted")

    return sink


@pytest.fixture(autouse=True)
def _gates_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(GATES)
    vars(module).update(make_gate=make_gate, broken_gate=broken_gate)
    monkeypatch.setitem(sys.modules, GATES, module)


def context() -> Any:
    return FLContextManager(engine=None, identity_name="site-1", job_id="job").new_context()


def weights() -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in NETWORK.state_dict().items()}


def result(kind: str) -> Shareable:
    dataset = load_dataset("digits", normalize="none")
    batch = PrivateBatch(inputs=dataset.inputs[:4].clone(), labels=dataset.labels[:4].clone())
    step = {name: -tensor.numpy() for name, tensor in FedSGD()(NETWORK, batch, torch.Generator()).items()}
    whole = {name: value + step[name] for name, value in weights().items()}
    return DXO(data_kind=kind, data=step if kind == DataKind.WEIGHT_DIFF else whole).to_shareable()


def through(kind: str, *, with_data: bool = True, **options: Any) -> Any:
    tested, fl_ctx = CaptureFilter(**FACTS, **options), context()
    if with_data:
        sent = DXO(data_kind=DataKind.WEIGHTS, data=weights()).to_shareable()
        sent.set_header("current_round", 5)
        tested.set_prop(FilterContextKey.CHAIN_TYPE, FilterChainType.TASK_DATA_CHAIN)
        assert tested.process(sent, fl_ctx) is sent
    tested.set_prop(FilterContextKey.CHAIN_TYPE, FilterChainType.TASK_RESULT_CHAIN)
    return tested.process(result(kind), fl_ctx)


@pytest.mark.parametrize(
    ("kind", "written"), [(DataKind.WEIGHT_DIFF, UpdateKind.DELTA), (DataKind.WEIGHTS, UpdateKind.PAIR)]
)
def test_a_result_is_captured_and_its_batch_recovered(kind: str, written: UpdateKind, tmp_path: Path) -> None:
    assert through(kind, folder=str(tmp_path)).get_return_code() == ReturnCode.OK
    (path,) = tmp_path.iterdir()
    capture = read_capture(path)
    assert (capture.header.kind, capture.header.round) == (written, 5)
    assert make_gate().audit(capture).certified == 4


@pytest.mark.parametrize("kind", [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS])
def test_a_leak_becomes_an_error_reply(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = through(kind, gate=f"{GATES}:make_gate")
    assert "4 examples certified" in caplog.text
    assert answer.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert "DXO" not in answer


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (DataKind.WEIGHT_DIFF, {"gate": f"{GATES}:broken_gate"}, "planted"),
        (DataKind.WEIGHT_DIFF, {"gate": "no_such_module:gate"}, "no_such_module"),
        (DataKind.WEIGHT_DIFF, {"gate": f"{GATES}:make_gate", "with_data": False}, "sent out"),
        (DataKind.ANALYTIC, {"gate": f"{GATES}:make_gate"}, "ANALYTIC"),
    ],
)
def test_whatever_cannot_be_judged_is_held_back(
    kind: str, options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert through(kind, **options).get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert words in caplog.text


def test_one_sink_is_needed() -> None:
    with pytest.raises(InputError, match="folder"):
        CaptureFilter()

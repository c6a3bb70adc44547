"""What is said of a captured client's rule is a claim: what the bundle or a replay contradicts certifies nothing."""

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.captures.attacked import Attacked
from seepage.audit.captures.claimed import Guess, claimed_rule
from seepage.audit.catalogue import build_rule
from seepage.audit.record import Verdict
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind
from seepage.networks.layers import read_layers
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch, Traces

DIGITS = load_dataset("digits", normalize="none")
NETWORK = build_network("mlp:100,60", input_shape=DIGITS.input_shape, classes=10, seed=3).double()
GUESSED = "a client whose rule nobody stated"
BATCH = PrivateBatch(inputs=DIGITS.inputs[:4].double(), labels=DIGITS.labels[:4].clone())


def header(kind: UpdateKind = UpdateKind.DELTA, **fields: object) -> CaptureHeader:
    sign = Sign.UPHILL if kind is UpdateKind.GRADIENT else Sign.BEFORE_MINUS_AFTER
    return CaptureHeader.model_validate({"kind": kind, "sign": sign, **fields})


def attacked(true: str, stated: str | None, *, inner: bool = False, **fields: object) -> Attacked:
    update = build_rule(true)(NETWORK, BATCH, torch.Generator().manual_seed(0))
    layers = read_layers(NETWORK, DIGITS.input_shape).layers
    audit = CapturedAudit(
        network=NETWORK,
        input_shape=DIGITS.input_shape,
        classes=10,
        attack=SPEAR(layer=layers[1].name if inner else None, budget=Budget(samples=30_000)),
        rule=None if stated is None else build_rule(stated),
    )
    return audit(Capture(header=header(**fields), update=update, before=NETWORK.state_dict()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"rule": "sgd", "learning_rate": 0.5, "local_steps": 1}, "fedavg:lr=0.5"),
        ({"rule": "sgd", "learning_rate": 0.5, "local_steps": 3}, "fedavg:epochs=3,lr=0.5"),
        ({"rule": "sgd", "learning_rate": 0.5, "local_steps": 10**9}, None),
        ({"rule": "sgd with momentum", "learning_rate": 0.5, "local_steps": 3}, GUESSED),
        ({"rule": "sgd with momentum", "local_steps": 3}, None),
        ({"rule": "adam", "learning_rate": 0.5, "local_steps": 3}, "fedavg:epochs=3,lr=0.5,optimizer=adam"),
        ({"rule": "fedavg:epochs=3,momentum=0.9"}, "fedavg:epochs=3,momentum=0.9"),
        ({"rule": "fedavg:epochs=1000000000"}, None),
        ({"rule": "round: the seventh", "learning_rate": 0.5, "local_steps": 1}, GUESSED),
        ({"learning_rate": 0.5, "local_steps": 1}, GUESSED),
        ({"learning_rate": 0.5, "local_steps": 2}, GUESSED),
        ({"kind": UpdateKind.GRADIENT, "rule": "fedsgd"}, "fedsgd"),
        ({"kind": UpdateKind.GRADIENT}, GUESSED),
        ({"kind": UpdateKind.GRADIENT, "rule": "dpsgd:clip=2,noise=0.5"}, "dpsgd:clip=2.0,noise=0.5"),
        ({"kind": UpdateKind.GRADIENT, "rule": "fedsgd", "secure_aggregation": True}, None),
    ],
)
def test_a_bundle_says_what_its_header_says(said: dict[str, object], name: str | None) -> None:
    rule = claimed_rule(header(**said))  # type: ignore[arg-type]
    assert (None if rule is None else rule.name) == name


@pytest.mark.parametrize(
    ("said", "stated", "word"),
    [
        ({"learning_rate": 0.5}, "fedavg:lr=0.1", "learning rate is 0.5"),
        ({"local_steps": 4}, "fedavg:epochs=2", "took 4 local steps"),
        ({"local_steps": 4, "batch_size": 8}, "fedavg:epochs=1,local_batch=4", "took 4 local steps"),
        ({"rule": "adam"}, "fedavg:epochs=2", "rule is 'adam'"),
        ({"rule": "sgd"}, "fedavg:momentum=0.9", "rule is 'sgd'"),
        ({"rule": "fedavg:epochs=2"}, "fedavg:epochs=3", "rule is fedavg:epochs=2"),
        ({}, "fedsgd", "difference of weights and no gradient"),
        ({"kind": UpdateKind.GRADIENT}, "sum:2,of=fedavg:lr=0.1", "gradient and no difference"),
        ({"kind": UpdateKind.GRADIENT, "rule": "fedsgd"}, "dpsgd:noise=0", "rule is 'fedsgd'"),
        ({"kind": UpdateKind.GRADIENT, "secure_aggregation": True}, "fedsgd", "several clients"),
    ],
)
def test_a_contradiction_names_both(said: dict[str, object], stated: str, word: str) -> None:
    rule = build_rule(stated)
    with pytest.raises(InputError, match="--rule") as refused:
        claimed_rule(header(**said), rule)  # type: ignore[arg-type]
    assert word in str(refused.value)
    assert f"found {rule.name}" in str(refused.value)


def test_a_bundle_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match=r"learning rate is 0\.5; found fedavg:lr=0\.1"):
        claimed_rule(header(rule="fedavg:lr=0.1", learning_rate=0.5))


@pytest.mark.parametrize(
    ("said", "stated"),
    [
        ({"rule": "sgd with momentum", "local_steps": 2}, "fedavg:epochs=2,momentum=0.9"),
        ({"rule": "sgd", "learning_rate": 0.01}, "fedavg:local_batch=4"),
        ({"rule": "adam"}, "fedavg:optimizer=adam"),
        ({"secure_aggregation": True}, "sum:2,of=fedavg:lr=0.1"),
    ],
)
def test_what_fits_is_taken(said: dict[str, object], stated: str) -> None:
    assert claimed_rule(header(**said), build_rule(stated)) == build_rule(stated)  # type: ignore[arg-type]


def test_a_stated_rule_scales_the_update_and_certificates_name_it() -> None:
    true = "fedavg:epochs=2,lr=0.0005,momentum=0.9"
    found = attacked(true, true)
    assert found.certified == 4
    assert found.claim == build_rule(true).name
    assert "as is claimed" in found.describe()
    silent = attacked(true, None, rule="sgd with momentum", learning_rate=0.0005, local_steps=2)
    assert (silent.certified, silent.uncertified) == (0, 4)  # nobody says how much momentum
    assert silent.verdict(0.0) is Verdict.NOT_AUDITED


@pytest.mark.parametrize("said", [{}, {"rule": "sgd with weight_decay"}])
def test_silence_about_a_client_whose_rule_nobody_stated_is_inconclusive(said: dict[str, object]) -> None:
    true = "fedavg:lr=0.1,weight_decay=0.01"
    silent = attacked(true, None, learning_rate=0.1, local_steps=1, **said)
    assert silent.silent
    assert silent.control is not None
    assert silent.control.passed
    assert silent.verdict(0.0) is Verdict.INCONCLUSIVE
    assert "Nobody stated" in silent.describe()
    assert attacked(true, true).certified == 4


def test_a_replay_holds_a_false_claim_against_the_update() -> None:
    true = "fedavg:epochs=4,lr=0.05"
    assert attacked(true, "fedavg:lr=0.05").certified == 0
    assert attacked("fedavg:lr=0.05", "fedavg:lr=0.05").claim == ""  # replayed: no word is needed


def test_a_guess_certifies_by_a_replay_alone() -> None:
    assert Guess(of=build_rule("fedsgd"), is_gradient=True).traces is Traces.NONE
    gradient = {"kind": UpdateKind.GRADIENT}
    assert attacked("fedsgd", None, **gradient).certified == 4
    assert attacked("fedsgd", None, inner=True, **gradient).certified == 0
    assert attacked("fedsgd", "fedsgd", inner=True, **gradient).certified == 4

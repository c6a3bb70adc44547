"""Findings on labels alone: scored as a collection, judged without luck, certified only with a certificate."""

import pytest
import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import ATTACKS, build_attack
from seepage.audit.findings import ControlCase, Finding
from seepage.audit.labelcatalogue import LABEL_ATTACKS
from seepage.audit.record import Verdict, verdict
from seepage.audit.run import Audit
from seepage.audit.scores.labelscoring import certified_examples, label_numbers
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel


def labels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def finding_of(attack: str, *, batch_size: int = 4, known: bool = True) -> Finding:
    digits = load_dataset("digits")
    audit = Audit(
        network=build_network("mlp:100", input_shape=digits.input_shape, classes=digits.classes, seed=0),
        network_name="mlp:100",
        dataset=digits,
        rule=FedSGD(),
        attack=build_attack(attack, budget=Budget(samples=1)),
        batch_size=batch_size,
        threat_model=ThreatModel(batch_size=known),
    )
    return next(iter(audit())).finding


@pytest.mark.parametrize("name", sorted(LABEL_ATTACKS))
def test_a_label_attack_carries_numbers_and_no_psnr(name: str) -> None:
    finding = finding_of(name)
    assert finding.outcome is not None, finding.obstacles
    assert {"leacc", "lnacc", "exact_vector", "l1_half", "wrong_certified"} == set(finding.scores)
    assert all(isinstance(value, float) for value in finding.scores.values())
    assert finding.restores_labels
    assert finding.exact_examples == 0
    assert finding.true_labels is not None
    assert len(finding.true_labels) == len(finding.certified) == 4
    assert finding.stats["confidence"] in ("certified", "estimated", "guess")


def test_certified_labels_are_a_leak_and_are_the_true_ones() -> None:
    assert finding_of("labels").outcome == "exact"
    finding = finding_of("labels", known=False)
    assert finding.outcome == "approximate"  # the batch may be several copies of these
    assert finding.labels == sorted(finding.true_labels or [])
    assert finding.certified == [True] * 4
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.LEAKED
    assert verdict([finding], batches=1, threshold=1.0) is Verdict.NOTHING_LEAKED


def test_an_unknown_batch_size_beyond_the_rank_is_an_obstacle_and_not_silence() -> None:
    finding = finding_of("labels", batch_size=32, known=False)
    assert finding.outcome is None
    assert "--knows batch-size" in finding.obstacles[0]
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.NOT_AUDITED


def test_an_estimate_says_its_expected_error() -> None:
    finding = finding_of("pooled", batch_size=32)
    assert finding.stats["confidence"] == "estimated"
    assert 0 <= float(finding.stats["expected_error"]) <= 1
    assert "expected to be wrong" in finding.reason
    assert not any(finding.certified)


def changed(
    finding: Finding, restored: list[int], true: list[int], sure: list[bool], numbers: dict[str, float]
) -> Finding:
    scores = {**finding.scores, **numbers}
    return finding.model_copy(
        update={"labels": restored, "true_labels": true, "certified": sure, "scores": scores, "batch_size": len(true)}
    )


def test_estimates_count_only_where_every_class_is_right() -> None:
    base = finding_of("pooled")
    nearly = changed(base, [0, 1, 1, 2], [0, 1, 2, 2], [False] * 4, {"exact_vector": 0.0})
    right = changed(base, [0, 1, 2, 2], [0, 1, 2, 2], [False] * 4, {"exact_vector": 1.0})
    assert (nearly.right_labels, nearly.leaked_labels) == (3, 0)
    assert (right.right_labels, right.leaked_labels) == (4, 4)
    assert verdict([nearly], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    passed = ControlCase(batch_size=1, rule="fedsgd", outcome="exact", exact=1, recovered=1, passed=True, seconds=0.1)
    nearly = nearly.model_copy(update={"control": passed})
    assert verdict([nearly], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
    assert verdict([right], batches=1, threshold=0.0) is Verdict.LEAKED


def test_a_certificate_on_some_labels_counts_those() -> None:
    some = changed(finding_of("pooled"), [0, 1, 1, 2], [0, 1, 2, 2], [True, True, False, False], {"exact_vector": 0.0})
    assert some.leaked_labels == 2
    assert verdict([some], batches=1, threshold=0.5) is Verdict.NOTHING_LEAKED
    assert verdict([some], batches=1, threshold=0.25) is Verdict.LEAKED


def test_a_label_certified_once_too_often_is_a_wrong_certificate() -> None:
    truth, sure = labels(3, 1, 1), labels(1, 1, 1)
    assert label_numbers(sure, sure, truth, 5)["wrong_certified"] == 1.0
    assert label_numbers(truth, truth, truth, 5)["wrong_certified"] == 0.0
    assert certified_examples(sure, truth) == [False, True, True]
    assert certified_examples(labels(1), truth) == [False, True, False]


def test_labels_that_the_server_knows_are_not_restored() -> None:
    digits = load_dataset("digits")
    audit = Audit(
        network=build_network("mlp:20", input_shape=digits.input_shape, classes=digits.classes, seed=0),
        network_name="mlp:20",
        dataset=digits,
        rule=FedSGD(),
        attack=build_attack("labels", budget=Budget(samples=1)),
        batch_size=3,
        threat_model=ThreatModel(labels=True),
    )
    assert "nothing to restore" in next(iter(audit())).finding.obstacles[0]


def test_label_attacks_take_no_layer() -> None:
    assert set(LABEL_ATTACKS) <= set(ATTACKS)
    with pytest.raises(InputError, match="--layer"):
        build_attack("ilrg", budget=Budget(samples=1), layer="3")

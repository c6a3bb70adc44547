"""A capture's verdict: silence counts beside a passed control only, and what is in doubt is never "nothing leaked"."""

from collections.abc import Callable, Sequence

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.captures.noisecontrol import control_on_noise
from seepage.audit.captures.observed import observe
from seepage.audit.catalogue import build_attack
from seepage.audit.gate import LeakGate
from seepage.audit.record import Verdict
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind
from seepage.networks.zoo import build_network
from seepage.types import Attack, GradientUpdate, Observation, Obstacle, PrivateBatch, Progress, Reconstruction, go_on

DIGITS = load_dataset("digits", normalize="none")
NETWORK = build_network("mlp:100", input_shape=DIGITS.input_shape, classes=10, seed=3)
Plant = Callable[..., Attack]


def capture(b: int = 4, *, noise: float = 0.0, **fields: object) -> Capture:
    header = CaptureHeader.model_validate(
        {"kind": UpdateKind.GRADIENT, "sign": Sign.UPHILL, "rule": "fedsgd", **fields}
    )
    update = FedSGD()(NETWORK, DIGITS.batch(torch.arange(b)), torch.Generator())
    if noise:
        chance = torch.Generator().manual_seed(0)
        update = GradientUpdate({k: v + noise * torch.randn(v.shape, generator=chance) for k, v in update.items()})
    return Capture(header=header, update=update, before=NETWORK.state_dict())


def audit(attack: Attack) -> CapturedAudit:
    return CapturedAudit(network=NETWORK, input_shape=DIGITS.input_shape, classes=10, attack=attack)


class OfOneSize:
    """An attack that takes batches of one size only, which the rank of the first layer's gradient tells it."""

    name = "of one size"

    def __init__(self, size: int, attack: Attack) -> None:
        self.size, self.attack = size, attack

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        rank = int(torch.linalg.matrix_rank(observation.latest.update["1.weight"].double(), rtol=1e-5))
        return [] if rank == self.size else [Obstacle(where="batch size", reason=f"takes {self.size}; found {rank}.")]

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        return self.attack(observation, generator=generator, progress=progress)


def test_silence_beside_a_failed_control_is_inconclusive(plant: Plant) -> None:
    found = audit(plant())(capture())
    assert found.control is not None
    assert not found.control.passed
    assert found.verdict(0.0) is Verdict.INCONCLUSIVE
    assert "inconclusive" in found.describe()


def test_silence_beside_a_passed_control_is_nothing_leaked() -> None:
    found = audit(SPEAR(budget=Budget(samples=3_000)))(capture(60, noise=1.0))
    assert found.silent
    assert found.control is not None
    assert found.control.recovered == found.control.batch_size
    assert found.verdict(0.0) is Verdict.NOTHING_LEAKED
    assert "passed" in found.describe()


def test_an_attack_that_could_not_begin_was_not_run(plant: Plant) -> None:
    found = audit(plant(lacks="The batch size could not be restored."))(capture())
    assert found.obstacles == ("planted: The batch size could not be restored.",)
    assert found.control is None
    assert found.verdict(0.0) is Verdict.NOT_AUDITED


def test_an_example_that_is_a_row_of_the_update_is_no_silence() -> None:
    found = audit(SPEAR(budget=Budget(samples=3_000)))(capture(60))
    assert (found.certified, found.uncertified, found.silent) == (0, 1, False)
    assert found.examples > 1
    assert found.verdict(0.0) is Verdict.NOT_AUDITED
    assert "1 row of the update is an input" in found.describe()


def test_a_leak_needs_no_control() -> None:
    found = audit(SPEAR())(capture())
    assert found.control is None
    assert found.verdict(0.0) is Verdict.LEAKED


def test_labels_in_doubt_are_not_nothing_leaked(plant: Plant) -> None:
    attack = plant(labels=(0, 1, 2, 3))
    found = audit(attack)(capture())
    assert (found.certified, found.uncertified, found.silent) == (0, 4, False)
    assert found.verdict(0.0) is Verdict.NOT_AUDITED
    assert found.verdict(0.9) is Verdict.NOT_AUDITED
    decision = LeakGate(audit=audit(attack))(capture())
    assert not decision.release
    assert "4 uncertified" in decision.reason


@pytest.mark.parametrize("name", ["pooled", "labels"])
def test_a_label_attack_is_held_back_whatever_it_proves(name: str) -> None:
    decision = LeakGate(audit=audit(build_attack(name, budget=Budget(samples=1))))(capture(batch_size=4))
    assert not decision.release


def test_the_control_counts_labels_and_a_crash_fails_it(plant: Plant) -> None:
    seen = observe(capture(), NETWORK, input_shape=DIGITS.input_shape, classes=10)
    labels = control_on_noise(build_attack("labels", budget=Budget(samples=1)), seen, batch_size=8, seed=0)
    assert (labels.batch_size, labels.recovered, labels.passed) == (4, 4, True)
    broke = control_on_noise(plant(breaks=True), seen, batch_size=8, seed=0)
    assert (broke.batch_size, broke.passed) == (1, False)  # the easiest case of all is tried last
    assert "ZeroDivisionError" in broke.reason


@pytest.mark.parametrize("name", ["labels", "ilrg", "vit-patches", "solved-git", "exact-labels"])
def test_advice_names_the_option_of_seepage_attack(name: str) -> None:
    found = audit(build_attack(name, budget=Budget(samples=100)))(capture(8, noise=1e-3))
    assert "--knows" not in found.describe()


def test_a_batch_size_that_is_lacking_is_asked_for_by_its_own_option() -> None:
    assert "`--batch-size`" in audit(build_attack("ilrg", budget=Budget(samples=100)))(capture(8)).describe()


def dark(scale: float, b: int = 6) -> Capture:
    """Inputs of ``scale``, whose gradient the network's biases alone decide."""
    chance = torch.Generator().manual_seed(0)
    inputs = scale * torch.rand(b, *DIGITS.input_shape, generator=chance)
    batch = PrivateBatch(inputs=inputs, labels=torch.randint(10, (b,), generator=chance))
    header = CaptureHeader(kind=UpdateKind.GRADIENT, sign=Sign.UPHILL, rule="fedsgd")
    return Capture(header=header, update=FedSGD()(NETWORK, batch, chance), before=NETWORK.state_dict())


@pytest.mark.parametrize("scale", [1e-6, 1e-30])
def test_one_example_is_too_easy_a_control_beside_inputs_too_small_to_tell_apart(scale: float) -> None:
    seen = observe(dark(scale), NETWORK, input_shape=DIGITS.input_shape, classes=10)
    case = control_on_noise(SPEAR(budget=Budget(samples=3_000)), seen, batch_size=6, seed=0)
    assert (case.batch_size, case.recovered, case.passed) == (1, 1, False)
    assert "hardly apart" in case.reason


def test_one_example_of_any_size_comes_out() -> None:
    assert audit(SPEAR(budget=Budget(samples=3_000)))(dark(1e-30, b=1)).certified == 1


def test_an_attack_for_one_size_gets_a_control_of_that_size(plant: Plant) -> None:
    seen = observe(capture(8), NETWORK, input_shape=DIGITS.input_shape, classes=10)
    for_eight = OfOneSize(8, build_attack("spearpp", budget=Budget(samples=20_000)))
    case = control_on_noise(for_eight, seen, batch_size=8, seed=0)
    assert (case.batch_size, case.passed) == (8, True)
    broke = control_on_noise(OfOneSize(8, plant(breaks=True)), seen, batch_size=8, seed=0)
    assert (broke.batch_size, broke.passed) == (8, False)

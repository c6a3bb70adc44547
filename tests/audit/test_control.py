"""Silence counts only beside the same attack succeeding where it must: a planted failing attack is inconclusive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from seepage.attacks.auto import Auto
from seepage.attacks.budget import Budget
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.audit.control import run_control, with_control
from seepage.audit.record import Verdict, verdict
from seepage.audit.run import Audit
from seepage.data.sources import InputKind, load_dataset
from seepage.federated.noising import GaussianNoise
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.report.summary import Verdict as Said
from seepage.report.summary import summarize
from seepage.types import (
    Attack,
    GradientUpdate,
    Observation,
    Obstacle,
    Outcome,
    Progress,
    Reconstruction,
    ThreatModel,
    go_on,
)

Plant = Callable[..., Attack]


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A defense that sends zeros: nothing can be found behind it."""

    @property
    def name(self) -> str:
        return "silence"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        return GradientUpdate({name: torch.zeros_like(value) for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRule(FedSGD):
    """A rule that refuses to give anything away."""

    @property
    def is_gradient(self) -> bool:
        return False

    def __call__(self, network: torch.nn.Module, batch: object, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        return GradientUpdate({name: torch.zeros_like(value) for name, value in network.named_parameters()})


@dataclass(frozen=True, slots=True)
class WholeOrNothing:
    """SPEAR, but what is not exact as a whole it does not hand out."""

    name: str = "whole or nothing"
    search: SPEAR = SPEAR(budget=Budget(samples=20_000))  # noqa: RUF009 - frozen

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        return self.search.obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        found = self.search(observation, generator=generator, progress=progress)
        return found if found.outcome is Outcome.EXACT else Reconstruction(outcome=Outcome.FAILED, reason="Not whole.")


def audit(attack: Attack, *, batch_size: int = 60, batches: int = 1) -> Audit:
    dataset = load_dataset("digits")
    return Audit(
        network=build_network("mlp:100,50", input_shape=dataset.input_shape, classes=dataset.classes, seed=0),
        network_name="mlp:100,50",
        dataset=dataset,
        rule=FedSGD(),
        attack=attack,
        batch_size=batch_size,
        batches=batches,
    )


def test_a_planted_failing_attack_is_inconclusive(plant: Plant) -> None:
    findings = [audited.finding for audited in with_control(audit(plant(), batches=2))]
    for finding in findings:
        assert finding.control is not None
        assert not finding.control.passed
    assert verdict(findings, batches=2, threshold=0.0) is Verdict.INCONCLUSIVE
    assert summarize(findings).verdict is Said.INCONCLUSIVE


@pytest.mark.parametrize("change", [{"defenses": (Silence(),)}, {"rule": ZeroRule()}, {"batch_size": 90, "seed": 2}])
def test_an_attack_that_works_but_not_here_passes_its_control(change: dict[str, object]) -> None:
    plan = replace(audit(SPEAR(budget=Budget(samples=20_000)), batch_size=4), **change)  # type: ignore[arg-type]
    findings = [audited.finding for audited in with_control(plan)]
    (finding,) = findings
    assert finding.silent or finding.obstacles
    if finding.silent:
        assert finding.control is not None
        assert finding.control.passed
        assert finding.control.exact == finding.control.batch_size
        assert verdict(findings, batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED
    else:
        assert verdict(findings, batches=1, threshold=0.0) is Verdict.NOT_AUDITED


def test_a_failure_that_overlooks_rows_of_the_update_is_inconclusive_although_the_control_passed() -> None:
    """Sixty examples are too many for SPEAR here, but one switches on a unit of its own: its row is the example."""
    (audited,) = with_control(audit(WholeOrNothing()))
    finding = audited.finding
    assert finding.outcome == "failed"
    assert finding.control is not None
    assert finding.control.passed
    assert finding.overlooked == 1
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    assert verdict([finding], batches=1, threshold=1 / 60) is Verdict.NOTHING_LEAKED
    assert summarize([finding]).verdict is Said.INCONCLUSIVE


def test_a_search_that_fails_takes_the_row_and_that_is_a_leak() -> None:
    (audited,) = with_control(audit(SPEAR(budget=Budget(samples=20_000))))
    finding = audited.finding
    assert finding.outcome == "approximate"
    assert not any(finding.certified)
    assert finding.exact_examples == 1
    assert finding.overlooked == 0
    assert "1 row of the update" in finding.reason
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.LEAKED


def test_a_failure_behind_noise_is_inconclusive_where_rows_show_their_pictures() -> None:
    """At 5 % no row is an example to 1 %, but whoever draws the rows as pictures reads digits off them."""
    wide = replace(
        audit(SPEAR(budget=Budget(samples=2_000)), batch_size=8),
        network=build_network("mlp:200", input_shape=(1, 8, 8), classes=10, seed=0),
        defenses=(GaussianNoise(sigma=0.05, relative=True),),
    )
    (audited,) = with_control(wide)
    finding = audited.finding
    assert finding.outcome == "failed"
    assert finding.control is not None
    assert finding.control.passed
    assert (finding.held(exactly=True), finding.overlooked) == (0, 7)
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    (hidden,) = with_control(replace(wide, defenses=(GaussianNoise(sigma=1.0, relative=True),)))
    assert hidden.finding.overlooked == 0
    assert verdict([hidden.finding], batches=1, threshold=0.0) is Verdict.NOTHING_LEAKED


def test_an_attack_that_could_not_begin_was_not_run(plant: Plant) -> None:
    (audited,) = with_control(audit(plant(lacks="The batch size could not be restored.")))
    assert audited.finding.obstacles == ["planted: The batch size could not be restored."]
    assert audited.finding.outcome is None
    assert audited.finding.complete
    assert verdict([audited.finding], batches=1, threshold=0.0) is Verdict.NOT_AUDITED


def test_a_control_that_the_network_does_not_take_is_no_crash(plant: Plant) -> None:
    """Batch norm in training mode takes no batch of one."""
    normed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.BatchNorm1d(20))
    normed.append(torch.nn.Linear(20, 10))
    (audited,) = with_control(replace(audit(plant(), batch_size=2), network=normed))
    assert audited.finding.control is not None
    assert "Expected more than 1 value per channel" in audited.finding.control.reason
    assert verdict([audited.finding], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE
    (audited,) = with_control(replace(audit(plant(), batch_size=6), network=normed))
    assert audited.finding.control is not None
    assert audited.finding.control.reason == "It looked away."


def test_silence_without_a_control_is_never_nothing_leaked(plant: Plant) -> None:
    findings = [audited.finding for audited in audit(plant())()]
    assert findings[0].control is None
    assert verdict(findings, batches=1, threshold=0.0) is Verdict.INCONCLUSIVE


def test_a_leak_needs_no_control() -> None:
    (audited,) = with_control(audit(SPEAR(), batch_size=3))
    assert audited.finding.exact_examples == 3
    assert audited.finding.control is None


def test_the_same_seed_gives_the_same_control_and_it_is_run_once() -> None:
    plan = audit(WholeOrNothing(), batches=2)
    first, second = (run_control(plan).model_dump(exclude={"seconds"}) for _ in range(2))
    assert first == second
    found = [audited.finding.control for audited in with_control(plan)]
    assert found[0] is found[1]


def test_an_interrupted_control_is_tried_again(plant: Plant) -> None:
    calls = 0

    def stop_at_the_control(done: int, total: int | None, note: str) -> bool:
        nonlocal calls
        calls += 1
        return calls == 1

    (audited,) = with_control(audit(plant()), progress=stop_at_the_control)
    finding = audited.finding
    assert finding.ended
    assert finding.control is not None
    assert finding.control.interrupted
    assert not finding.complete
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE


def test_an_attack_that_cannot_run_on_a_plain_gradient_fails_its_control(plant: Plant) -> None:
    def only_averaged(observation: Observation) -> str | None:
        plain = observation.rule is not None and observation.rule.is_gradient
        return "is a plain gradient." if plain else None

    plan = replace(audit(plant(obstacle=only_averaged), batch_size=4), rule=ZeroRule())
    (audited,) = with_control(plan)
    assert audited.finding.control is not None
    assert "could not run" in audited.finding.control.reason


def test_an_attack_for_one_batch_size_gets_a_control_of_that_size(plant: Plant) -> None:
    def other_than_three(observation: Observation) -> str | None:
        return None if observation.latest.batch_size == 3 else "was trained for 3."

    plan = replace(audit(plant(obstacle=other_than_three), batch_size=3), threat_model=ThreatModel(batch_size=True))
    (audited,) = with_control(plan)
    assert audited.finding.control is not None
    assert audited.finding.control.batch_size == 3
    assert audited.finding.control.reason == "It looked away."


@dataclass(frozen=True, slots=True, kw_only=True)
class Grey:
    """An attack that looks at nothing and hands back flat pictures."""

    name: str = "grey"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:  # noqa: ARG002
        return []

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002
        progress: Progress = go_on,  # noqa: ARG002
    ) -> Reconstruction:
        flat, unsure = torch.full((8, *observation.input_shape), 0.5), torch.zeros(8, dtype=torch.bool)
        return Reconstruction(outcome=Outcome.APPROXIMATE, inputs=flat, certified=unsure, reason="A guess.")


def test_a_flat_guess_at_flat_pictures_passes_no_control() -> None:
    """20 dB from a picture without contrast is what any guess of its colour reaches."""
    dataset = load_dataset("digits", normalize="none")
    pale = replace(dataset, inputs=0.5 + 0.05 * (dataset.inputs - 0.5))
    findings = [audited.finding for audited in with_control(replace(audit(Grey(), batch_size=8), dataset=pale))]
    decibels = findings[0].scores["psnr"]
    assert isinstance(decibels, list)
    assert min(value for value in decibels if value is not None) > 20
    assert findings[0].control is not None
    assert not findings[0].control.passed
    assert verdict(findings, batches=1, threshold=0.0) is Verdict.INCONCLUSIVE


def test_where_auto_matched_gradients_the_control_does_too() -> None:
    """Noise leaves matching alone; the control's plain gradient would be inverted at the first layer."""
    dataset = load_dataset("digits")
    plan = Audit(
        network=build_network("mlp:40,40:gelu", input_shape=dataset.input_shape, classes=10, seed=0),
        network_name="mlp:40,40:gelu",
        dataset=dataset,
        attack=Auto(budget=Budget(samples=40)),
        rule=FedSGD(),
        defenses=(GaussianNoise(sigma=1.0, relative=True),),
        threat_model=ThreatModel(batch_size=True),
        batch_size=6,
        seed=0,
    )
    (audited,) = with_control(plan)
    control = audited.finding.control
    assert audited.finding.stats["chosen"] == "ig"
    assert control is not None
    assert control.exact == 0
    assert run_control(plan).exact == 4  # by the layer that matching does not use


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_one_example_is_too_easy_a_control_where_the_network_tells_none_apart(activation: str) -> None:
    digits = load_dataset("digits", normalize="none")
    tiny = replace(
        audit(SPEAR(budget=Budget(samples=3_000)) if activation == "relu" else PRISM(budget=Budget(samples=200))),
        dataset=replace(digits, kind=InputKind.OTHER, inputs=digits.inputs * 1e-30),
        network=build_network(f"mlp:100:{activation}", input_shape=digits.input_shape, classes=10, seed=0),
        batch_size=6,
    )
    (audited,) = with_control(tiny)
    finding = audited.finding
    assert finding.silent
    assert finding.control is not None
    assert not finding.control.passed
    assert verdict([finding], batches=1, threshold=0.0) is Verdict.INCONCLUSIVE

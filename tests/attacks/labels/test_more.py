"""RLG, and labels between two states: what the single-gradient methods do not cover."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelattack import Question
from seepage.attacks.labels.labelrounds import labels_of_rounds
from seepage.attacks.labels.labelsbetween import restore_between
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.labels.rlg import RLG
from seepage.audit.catalogue import build_rule
from seepage.audit.findingsfile import read_findings
from seepage.cli import main
from seepage.data.sources import draw_batch, load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.label_scores import l1_half
from seepage.types import Attack, GradientUpdate, Observation, Outcome, PrivateBatch, Reconstruction, Round, ThreatModel


def draw(examples: int, generator: torch.Generator) -> PrivateBatch:
    """Of 30 clusters in 12 dimensions."""
    centres = torch.rand(30, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(30, (examples,), generator=generator)
    return PrivateBatch(inputs=centres[labels] + 0.2 * torch.randn(examples, 12, generator=generator), labels=labels)


def clusters(seed: int, steps: int) -> nn.Sequential:
    """A small network, trained so many steps on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 30))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = draw(64, generator)
        optimizer.zero_grad()
        cross_entropy(net(batch.inputs), batch.labels).backward()
        optimizer.step()
    return net


def network(classes: int = 30, *, bias: bool = True, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes, bias=bias))


def observed(net: nn.Sequential, labels: Tensor, seed: int = 1) -> Observation:
    inputs = torch.randn(len(labels), 64, generator=torch.Generator().manual_seed(seed))
    update = FedSGD()(net, PrivateBatch(inputs=inputs, labels=labels), torch.Generator())
    one = Round(network=net, update=update)
    return Observation(rounds=(one,), input_shape=(64,), classes=net[-1].out_features)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_rlg_says_which_classes_are_there(seed: int, *, bias: bool) -> None:
    labels = torch.randint(30, (8,), generator=torch.Generator().manual_seed(seed))
    view = observed(network(bias=bias, seed=seed), labels, seed)
    assert not RLG().obstacles(view)
    found = RLG()(view, generator=torch.Generator())
    assert found.labels is not None
    assert found.labels.tolist() == torch.unique(labels).tolist()
    assert not bool(found.certified.any())


def test_rlg_calls_every_class_present_once_the_rank_is_full() -> None:
    labels = torch.tensor([0, 1] * 30)
    found = RLG()(observed(network(), labels), generator=torch.Generator())
    assert found.labels is not None
    assert len(found.labels) == 30


def trained_locally(net: nn.Sequential, x: Tensor, y: Tensor, *, rate: float, epochs: int) -> nn.Sequential:
    client = copy.deepcopy(net)
    optimizer = torch.optim.SGD(client.parameters(), lr=rate)
    for _ in range(epochs):
        for part, labels in zip(x.split(16), y.split(16), strict=True):
            optimizer.zero_grad()
            cross_entropy(client(part), labels).backward()
            optimizer.step()
    return client


@pytest.mark.parametrize("epochs", [1, 5])
def test_labels_of_a_client_that_took_several_steps(epochs: int) -> None:
    digits = load_dataset("digits", normalize="none")
    right = 0
    for seed in range(5):
        chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))[:64]
        batch = digits.batch(chosen)
        net = nn.Sequential(nn.Flatten(), network(10, seed=seed))
        after = trained_locally(net, batch.inputs, batch.labels, rate=0.01, epochs=epochs)
        found = restore_between(
            net,
            after,
            input_shape=digits.input_shape,
            classes=10,
            examples=64,
            travelled=0.01 * 4 * epochs,
        )
        assert found.labels is not None
        assert found.outcome is Outcome.APPROXIMATE
        right += int(found.labels.equal(batch.labels.sort().values))
    assert right >= 4


def test_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="after"):
        restore_between(network(), network(10), input_shape=(64,), classes=30, examples=4, travelled=0.1)
    with pytest.raises(InputError, match="travelled"):
        restore_between(network(), network(), input_shape=(64,), classes=30, examples=4, travelled=0.0)
    with pytest.raises(InputError, match="bias"):
        restore_between(
            network(bias=False), network(bias=False, seed=1), input_shape=(64,), classes=30, examples=4, travelled=0.1
        )


def test_a_client_that_did_not_move_tells_nothing() -> None:
    net = network()
    found = restore_between(net, net, input_shape=(64,), classes=30, examples=4, travelled=0.1)
    assert found.outcome is Outcome.FAILED


def test_an_update_without_the_bias_gradient_is_an_obstacle() -> None:
    view = observed(network(), torch.tensor([1, 2]))
    kept = GradientUpdate({name: value for name, value in view.latest.update.items() if name != "2.bias"})
    withheld = Observation(
        rounds=(Round(network=view.latest.network, update=kept),), input_shape=(64,), classes=view.classes
    )
    assert "withheld" in str(RLG().obstacles(withheld)[0])


def counted(
    attack: Attack, rule: str, examples: int, *, seed: int = 0, known: bool = True
) -> tuple[Reconstruction, float]:
    """What an attack says of digits under a rule, and half the L1 distance to the truth over K."""
    digits = load_dataset("digits")
    batch, _ = draw_batch(digits, batch_size=examples, generator=torch.Generator().manual_seed(seed))
    net = nn.Sequential(nn.Flatten(), network(10, seed=seed))
    client = build_rule(rule)
    view = ThreatModel(batch_size=known).view(
        network=net,
        update=client(net, batch, torch.Generator().manual_seed(seed)),
        batch=batch,
        rule=client,
        classes=10,
    )
    assert not attack.obstacles(view)
    result = attack(view, generator=torch.Generator().manual_seed(0))
    assert result.labels is not None
    return result, l1_half(result.labels, batch.labels, 10)


@pytest.mark.parametrize("rule", ["fedavg:epochs=4,lr=0.01", "fedavg:epochs=2,local_batch=8,lr=0.02,momentum=0.5"])
def test_a_known_rule_of_several_steps_is_averaged_along_the_way_and_never_certified(rule: str) -> None:
    for attack, most in ((RestoreLabels(), 0.04), (PooledEmbedding(), 0.04), (ILRG(), 0.15)):
        errors = []
        for seed in range(3):
            result, error = counted(attack, rule, 32, seed=seed)
            assert result.outcome is Outcome.APPROXIMATE
            assert not bool(result.certified.any())
            errors.append(error)
        assert sum(errors) / 3 <= most, attack.name


def test_states_along_the_way_beat_the_first_one_where_the_steps_are_large() -> None:
    rule = "fedavg:epochs=8,lr=0.1"
    errors = {"along": 0.0, "first": 0.0}
    for seed in range(5):
        errors["along"] += counted(PooledEmbedding(), rule, 48, seed=seed)[1]
        errors["first"] += counted(AtTheStart(), rule, 48, seed=seed)[1]
    assert errors["along"] < errors["first"]


class AtTheStart(PooledEmbedding):
    """As if the probabilities stayed those of the state sent out."""

    def counts(self, question: Question) -> Tensor:
        return PooledEmbedding.counts(self, replace(question, layer=replace(question.layer, after=None)))


def test_adam_is_an_obstacle_since_it_keeps_no_sizes() -> None:
    digits = load_dataset("digits")
    batch, _ = draw_batch(digits, batch_size=8, generator=torch.Generator().manual_seed(0))
    net, client = nn.Sequential(nn.Flatten(), network(10)), build_rule("fedavg:epochs=2,optimizer=adam")
    view = ThreatModel(batch_size=True).view(
        network=net, update=client(net, batch, torch.Generator()), batch=batch, rule=client, classes=10
    )
    for attack in (RestoreLabels(), PooledEmbedding(), ILRG()):
        assert "sizes" in str(attack.obstacles(view)[0])


@pytest.mark.parametrize("attack", ["labels", "ilrg"])
def test_the_command_line_restores_labels_of_a_client_of_several_steps(tmp_path: Path, attack: str) -> None:
    given = ["--data", "digits", "--network", "mlp:100", "--attack", attack, "--knows", "batch-size"]
    rule, out = "fedavg:epochs=4,lr=0.01", tmp_path / "run"
    with pytest.raises(SystemExit):
        main(["audit", *given, "--rule", rule, "--batch-size", "24", "--batches", "2", "--out", str(out)])
    findings = read_findings(out / "findings.jsonl")
    assert [finding.outcome for finding in findings] == ["approximate"] * 2
    for finding in findings:
        assert not any(finding.certified)
        assert finding.stats["confidence"] in {"estimated", "guess"}
        assert isinstance(finding.scores["l1_half"], float)
        assert finding.scores["l1_half"] <= (0.1 if attack == "labels" else 0.3)


def under(
    attack: Attack, rule: str, examples: int, *, seed: int, steps: int = 0, known: bool = True
) -> tuple[Reconstruction, PrivateBatch]:
    """30 classes, clusters; what an attack says under a rule."""
    batch = draw(examples, torch.Generator().manual_seed(seed))
    net, client = clusters(1, steps), build_rule(rule)
    view = ThreatModel(batch_size=known).view(
        network=net,
        update=client(net, batch, torch.Generator().manual_seed(seed)),
        batch=batch,
        rule=client,
        classes=30,
    )
    assert not attack.obstacles(view)
    return attack(view, generator=torch.Generator().manual_seed(0)), batch


@pytest.mark.parametrize("steps", [0, 60])
def test_under_known_noise_nothing_is_certified_and_errors_grow_with_it(steps: int) -> None:
    errors = []
    for noise in ("0", "1e-6", "1e-3", "1e-2", "1"):
        total = 0.0
        for seed in range(4):
            result, batch = under(RestoreLabels(), f"dpsgd:clip=50,noise={noise}", 5, seed=seed, steps=steps)
            assert result.labels is not None
            if noise == "0":  # clipping alone, if any, hides nothing
                assert bool(result.certified.all())
            else:
                assert not bool(result.certified.any())
            total += l1_half(result.labels, batch.labels, 30) / 4
        errors.append(total)
    assert errors[0] <= errors[1] + 0.1 <= errors[3] + 0.2
    assert errors[1] == 0.0
    assert errors[-1] > 0.5


def test_noise_that_covers_an_example_is_named_and_the_estimate_knows_of_it() -> None:
    result, _ = under(ExactLabels(), "dpsgd:clip=50,noise=1", 5, seed=0)
    assert result.outcome is Outcome.FAILED
    assert "noise" in result.reason
    quiet, _ = under(PooledEmbedding(), "dpsgd:clip=50,noise=1e-5", 5, seed=0)
    loud, _ = under(PooledEmbedding(), "dpsgd:clip=50,noise=1", 5, seed=0)
    assert quiet.stats["confidence"] == "estimated"
    assert loud.stats["confidence"] == "guess"
    assert loud.stats["noise_on_counts"] == pytest.approx(50.0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("steps", [0, 60])
def test_examples_clipped_each_by_itself_are_certified_and_right(steps: int, known: bool) -> None:
    exact = 0
    for attack in (RestoreLabels(), ExactLabels()):
        for seed in range(4):
            result, batch = under(attack, "dpsgd:clip=0.5,noise=0", 6, seed=seed, steps=steps, known=known)
            if bool(result.certified.all()):
                exact += 1
                assert result.labels is not None
                assert torch.equal(result.labels, batch.labels.sort().values)
    assert exact >= 6


def test_several_rounds_are_read_one_by_one() -> None:
    first, second = torch.tensor([1, 2, 2]), torch.tensor([7, 9, 11, 13])
    rounds = (observed(network(), first).rounds[0], observed(network(seed=2), second, seed=2).rounds[0])
    view = Observation(rounds=rounds, input_shape=(64,), classes=30)
    results = labels_of_rounds(RestoreLabels(), view, generator=torch.Generator().manual_seed(0))
    assert [one.labels.tolist() for one in results if one.labels is not None] == [first.tolist(), second.tolist()]
    refused = labels_of_rounds(ILRG(), view, generator=torch.Generator())
    assert [one.outcome for one in refused] == [Outcome.FAILED] * 2
    assert "batch_size" in refused[0].reason

"""ExactLabels: what is certified is right, K comes out, and what it cannot know it refuses with a reason."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exactlabels import ExactLabels, RestoredExamples, restore_examples
from seepage.attacks.labels.lastlayer import usable
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.federated.rules import FedSGD
from seepage.types import GradientUpdate, Observation, Outcome, PrivateBatch, Reconstruction, Round

CLASSES = 30


def network(seed: int, steps: int, activation: type[nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Sequential:
    """Freshly drawn, or trained a little on clusters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(12, 48), activation(), nn.Linear(48, CLASSES, bias=bias))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        private = draw(64, generator)
        optimizer.zero_grad()
        cross_entropy(net(private.inputs), private.labels).backward()
        optimizer.step()
    return net


def draw(examples: int, generator: torch.Generator) -> PrivateBatch:
    centres = torch.rand(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    return PrivateBatch(inputs=centres[labels] + 0.2 * torch.randn(examples, 12, generator=generator), labels=labels)


def observe(net: nn.Module, private: PrivateBatch, smoothing: float = 0.0, known: bool = False) -> Observation:
    names, values = zip(*net.named_parameters(), strict=True)
    loss = cross_entropy(net(private.inputs), private.labels, label_smoothing=smoothing)
    update = GradientUpdate(dict(zip(names, torch.autograd.grad(loss, values), strict=True)))
    one = Round(network=net, update=update, batch_size=len(private) if known else None)
    return Observation(rounds=(one,), input_shape=(12,), classes=CLASSES, rule=FedSGD())


def run(observation: Observation) -> Reconstruction:
    return ExactLabels()(observation, generator=torch.Generator().manual_seed(0))


def wrong(result: Reconstruction, private: PrivateBatch) -> int:
    """How many certified labels the batch does not have."""
    assert result.labels is not None
    certified = torch.bincount(result.labels[result.certified], minlength=CLASSES)
    return int((certified - torch.bincount(private.labels, minlength=CLASSES)).clamp_min(0).sum())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.LeakyReLU])
@pytest.mark.parametrize("steps", [0, 60, 300])
def test_certified_means_right_and_most_batches_are_certified(steps: int, activation: type[nn.Module]) -> None:
    net = network(1, steps, activation)
    exact = 0
    for seed in range(16):
        private = draw(1 + seed % 10, torch.Generator().manual_seed(seed))
        result = run(observe(net, private))
        if result.labels is None:
            continue
        assert wrong(result, private) == 0
        assert result.outcome is Outcome.APPROXIMATE  # the batch size is unknown: it may be several times these
        if bool(result.certified.all()):
            exact += 1
            assert torch.equal(result.labels, private.labels.sort().values)
            assert result.stats["examples"] == len(private)
    assert exact >= 12


def restore(net: nn.Module, private: PrivateBatch) -> RestoredExamples:
    found = restore_examples(usable(observe(net, private)), ExactLabels(), generator=torch.Generator().manual_seed(0))
    assert isinstance(found, RestoredExamples)
    return found


def test_embeddings_are_the_last_layers_inputs() -> None:
    net, private = network(2, 60), draw(6, torch.Generator().manual_seed(3))
    found = restore(net, private)
    with torch.no_grad():
        truth = net[:2](private.inputs).double()
    assert bool(found.certified.all())
    distances = torch.cdist(found.embeddings, truth)
    assert float(distances.amin(1).max()) < 1e-3 * float(truth.norm(dim=1).mean())
    assert torch.equal(private.labels[distances.argmin(1)], found.labels)


def test_repeated_labels_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(4)
    private = PrivateBatch(inputs=torch.rand(6, 12, generator=generator), labels=torch.tensor([7, 7, 7, 7, 2, 2]))
    result = run(observe(network(3, 20), private, known=True))
    assert result.outcome is Outcome.EXACT
    assert result.labels is not None
    assert result.labels.tolist() == [2, 2, 7, 7, 7, 7]


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
@pytest.mark.parametrize("steps", [0, 60])
def test_label_smoothing_is_named_and_solved(smoothing: float, steps: int) -> None:
    private = draw(6, torch.Generator().manual_seed(0))
    result = run(observe(network(1, steps), private, smoothing=smoothing, known=True))
    assert result.outcome is Outcome.EXACT
    assert "label smoothing" in result.reason
    assert result.stats["smoothing"] == pytest.approx(smoothing, abs=1e-3)
    assert torch.equal(result.labels, private.labels.sort().values)


@pytest.mark.parametrize(("classes", "examples"), [(5, 3), (8, 6)])
def test_hard_labels_are_not_called_smoothed_where_there_are_too_few_equations(classes: int, examples: int) -> None:
    for seed in range(8):  # half of these batches have a root with soft labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = (nn.Linear(12, 16), nn.LayerNorm(16), nn.SiLU())
            net = nn.Sequential(*body, nn.Linear(16, classes))
            private = PrivateBatch(inputs=torch.randn(examples, 12), labels=torch.randint(classes, (examples,)))
        seen = replace(observe(net, private, known=True), classes=classes)
        result = ExactLabels(rounds=2, starts=20)(seen, generator=torch.Generator().manual_seed(0))
        assert "smoothing" not in result.reason
        assert "smoothing" not in result.stats


def test_soft_labels_noise_and_two_steps_are_never_certified_wrong() -> None:
    net = network(1, 60)
    for seed in range(12):
        private = draw(6, torch.Generator().manual_seed(seed))
        for observation in (mixed(net, private), noisy(observe(net, private), 1e-4), two_steps(net, private)):
            result = run(observation)
            assert result.labels is None or wrong(result, private) == 0


def mixed(net: nn.Module, private: PrivateBatch) -> Observation:
    targets = nn.functional.one_hot(private.labels, CLASSES).float()
    loss = cross_entropy(net(private.inputs), 0.6 * targets + 0.4 * targets.flip(0))
    return with_gradients(observe(net, private), torch.autograd.grad(loss, list(net.parameters())))


def noisy(observation: Observation, share: float) -> Observation:
    generator = torch.Generator().manual_seed(1)
    values = list(observation.latest.update.values())
    return with_gradients(
        observation, [g + share * float(g.abs().max()) * torch.randn(g.shape, generator=generator) for g in values]
    )


def two_steps(net: nn.Module, private: PrivateBatch) -> Observation:
    first = observe(net, private)
    moved = network(1, 0)
    moved.load_state_dict({name: p - 0.1 * first.latest.update[name] for name, p in net.state_dict().items()})
    second = observe(moved, private).latest.update
    return with_gradients(first, [first.latest.update[name] + second[name] for name in second])


def with_gradients(observation: Observation, gradients: list[Tensor] | tuple[Tensor, ...]) -> Observation:
    update = GradientUpdate(dict(zip(observation.latest.update, gradients, strict=True)))
    one = Round(network=observation.latest.network, update=update)
    return Observation(rounds=(one,), input_shape=(12,), classes=CLASSES)


def test_too_many_examples_fail_with_a_reason_and_the_entry_says_guess_or_estimate() -> None:
    net, private = network(1, 60), draw(100, torch.Generator().manual_seed(0))
    assert run(observe(net, private)).outcome is Outcome.FAILED
    result = RestoreLabels()(observe(net, private, known=True), generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.APPROXIMATE
    assert result.stats["method"] in {"pooled", "noise-prior", "class-means", "present-classes"}
    unknown = RestoreLabels()(observe(net, private), generator=torch.Generator().manual_seed(0))
    assert unknown.outcome is Outcome.FAILED
    assert "batch size" in unknown.reason


def test_the_entry_says_certified_where_it_is() -> None:
    private = draw(5, torch.Generator().manual_seed(0))
    for known, outcome in ((True, Outcome.EXACT), (False, Outcome.APPROXIMATE)):
        view = observe(network(1, 60), private, known=known)
        result = RestoreLabels()(view, generator=torch.Generator().manual_seed(0))
        assert result.outcome is outcome
        assert result.stats["confidence"] == "certified"
        assert bool(result.certified.all())


def test_a_seed_decides_everything_and_the_observation_stays() -> None:
    private = draw(9, torch.Generator().manual_seed(0))
    observation = observe(network(1, 300), private)
    before = {name: g.clone() for name, g in observation.latest.update.items()}
    first, second = run(observation), run(observation)
    assert first.labels is not None
    assert second.labels is not None
    assert torch.equal(first.labels, second.labels)
    assert dict(first.stats) == dict(second.stats)
    assert all(torch.equal(before[name], g) for name, g in observation.latest.update.items())


def stop(done: int, total: int | None, note: str) -> bool:
    return False


def test_float64_gradients_and_progress_that_stops() -> None:
    private = draw(8, torch.Generator().manual_seed(0))
    double = PrivateBatch(inputs=private.inputs.double(), labels=private.labels)
    observation = observe(network(1, 60).double(), double)
    assert bool(run(observation).certified.all())
    stopped = ExactLabels()(observation, generator=torch.Generator(), progress=stop)
    assert stopped.outcome is Outcome.FAILED


@pytest.mark.parametrize("steps", [0, 60, 200])
def test_without_bias_certified_means_right_as_well(steps: int) -> None:
    net = network(1, steps, bias=False)
    exact = 0
    for seed in range(10):
        private = draw(1 + seed, torch.Generator().manual_seed(seed))
        result = run(observe(net, private, known=bool(seed % 2)))
        if result.labels is None:
            continue
        assert wrong(result, private) == 0
        exact += int(bool(result.certified.all()))
        assert (result.outcome is Outcome.EXACT) == (bool(result.certified.all()) and seed % 2 == 1)
    assert exact >= 8


def test_embeddings_come_out_without_bias() -> None:
    net, private = network(2, 60, bias=False), draw(6, torch.Generator().manual_seed(3))
    found = restore(net, private)
    with torch.no_grad():
        truth = net[:2](private.inputs).double()
    assert bool(found.certified.all())
    assert found.embeddings.shape == truth.shape
    assert float(torch.cdist(found.embeddings, truth).amin(1).max()) < 1e-3 * float(truth.norm(dim=1).mean())

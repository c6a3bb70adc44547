"""DP-SGD against a loop over examples, its own noise law, and Opacus where it is installed."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.client import BatchNorm
from seepage.federated.dpsgd import DPSGD
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch, Traces


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting(spec: str = "mlp:30", count: int = 6) -> tuple[nn.Module, PrivateBatch]:
    digits = load_dataset("digits")
    batch = digits.batch(torch.arange(count) * 31)
    network = build_network(spec, input_shape=digits.input_shape, classes=10, seed=0).double()
    return network, PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)


def lengths(network: nn.Module, batch: PrivateBatch) -> list[float]:
    found = []
    for image, label in zip(batch.inputs, batch.labels, strict=True):
        each = torch.autograd.grad(cross_entropy(network(image[None]), label[None]), list(network.parameters()))
        found.append(math.sqrt(sum(float(value.square().sum()) for value in each)))
    return found


@pytest.mark.parametrize("spec", ["mlp:30", "lenet", "vit"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_clipping_is_that_of_a_loop_over_examples(spec: str, chunk: int | None) -> None:
    network, batch = setting(spec)
    network.eval()
    sizes = lengths(network, batch)
    clip = sorted(sizes)[3]  # some examples are cut, some are not
    total = [torch.zeros_like(value) for value in network.parameters()]
    for image, label, size in zip(batch.inputs, batch.labels, sizes, strict=True):
        each = torch.autograd.grad(cross_entropy(network(image[None]), label[None]), list(network.parameters()))
        factor = min(1.0, clip / (size + 1e-6))  # Opacus' own guard against a length of zero
        total = [whole + factor * part for whole, part in zip(total, each, strict=True)]
    update = DPSGD(clip=clip, noise=0.0, chunk=chunk)(network, batch, chance())
    for (name, _), whole in zip(network.named_parameters(), total, strict=True):
        torch.testing.assert_close(update[name], whole / len(batch), rtol=1e-8, atol=1e-13)


def test_a_generous_clip_without_noise_is_fedsgd() -> None:
    network, batch = setting()
    plain, update = FedSGD()(network, batch, chance()), DPSGD(clip=1e6, noise=0.0)(network, batch, chance())
    for name in plain:
        torch.testing.assert_close(update[name], plain[name])


def test_noise_has_the_length_that_was_asked_for_and_the_generator_decides_it() -> None:
    network, batch = setting("mlp:300")
    clean = DPSGD(clip=0.5, noise=0.0)(network, batch, chance())
    noised, again = (DPSGD(clip=0.5, noise=3.0)(network, batch, chance(1)) for _ in range(2))
    draws = torch.cat([(noised[name] - clean[name]).flatten() for name in clean])
    wanted = 3.0 * 0.5 / len(batch)
    assert float(draws.std()) == pytest.approx(wanted, rel=0.03)
    assert abs(float(draws.mean())) < 4 * wanted / math.sqrt(len(draws))
    assert all(torch.equal(noised[name], again[name]) for name in noised)


def test_what_it_promises_depends_on_the_noise() -> None:
    assert DPSGD(noise=1.0).traces is Traces.NONE
    assert DPSGD(noise=0.0).traces is Traces.AT_START
    assert not DPSGD(noise=0.0).is_gradient


def test_batch_norm_on_the_batchs_statistics_is_refused_and_on_running_ones_is_not() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)).double()
    _, batch = setting()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match="batch_norm=eval"):
        DPSGD()(network, batch, chance())
    plain = FedSGD(batch_norm=BatchNorm.EVAL)(network, batch, chance())
    update = DPSGD(clip=1e6, noise=0.0, batch_norm=BatchNorm.EVAL)(network, batch, chance())
    for name in plain:
        torch.testing.assert_close(update[name], plain[name])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_noise_costs_infinitely_much() -> None:
    assert math.isinf(DPSGD(noise=0.0).epsilon(sample_rate=0.01, steps=10, delta=1e-5))


def test_epsilon_without_opacus_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(InputError, match=r"seepage\[dp\]"):
        DPSGD(noise=1.0).epsilon(sample_rate=0.01, steps=10, delta=1e-5)


@pytest.mark.parametrize(("option", "value"), [("clip", 0.0), ("noise", -1.0), ("chunk", 0)])
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{option}`"):
        DPSGD(**{option: value})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_clipping_and_epsilon_are_those_of_opacus() -> None:
    opacus = pytest.importorskip("opacus", reason="Opacus is an extra: pip install 'seepage[dp]'")
    network, batch = setting()
    clip = sorted(lengths(network, batch))[3]
    client = opacus.GradSampleModule(copy.deepcopy(network), loss_reduction="sum")
    optimizer = opacus.optimizers.DPOptimizer(
        torch.optim.SGD(client.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=len(batch),
        loss_reduction="mean",
    )
    cross_entropy(client(batch.inputs), batch.labels, reduction="sum").backward()
    optimizer.pre_step()
    update = DPSGD(clip=clip, noise=0.0)(network, batch, chance())
    for name, value in client.named_parameters():
        torch.testing.assert_close(update[name.removeprefix("_module.")], value.grad, rtol=1e-7, atol=1e-12)
    accountant = opacus.accountants.RDPAccountant()
    for _ in range(30):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = accountant.get_epsilon(1e-5)
        assert DPSGD(noise=1.1).epsilon(sample_rate=0.02, steps=30, delta=1e-5) == pytest.approx(wanted)

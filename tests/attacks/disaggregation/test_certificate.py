"""Replay: labels and weights come out of the network itself, and only where the update is a plain gradient."""

import dataclasses

import pytest
import torch
from torch.nn.functional import avg_pool2d

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.replay import Replay, replay
from seepage.attacks.spear import SPEAR
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import GradientUpdate, Observation, PrivateBatch, Reconstruction, ThreatModel


def round_of(indices: list[int]) -> tuple[Observation, AttackedLayer, PrivateBatch]:
    dataset = load_dataset("digits")
    batch = dataset.batch(torch.tensor(indices))
    network = build_network("mlp:60,40", input_shape=dataset.input_shape, classes=10, seed=0).double()
    batch = PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)
    rule = FedSGD()
    update = rule(network, batch, torch.Generator().manual_seed(0))
    seen = ThreatModel().view(network=network, update=update, batch=batch, rule=rule, classes=10)
    layer = find_relu_layer(seen)
    assert isinstance(layer, AttackedLayer)
    return seen, layer, batch


def errors_of(seen: Observation, layer: AttackedLayer, batch: PrivateBatch, shares: list[float]) -> torch.Tensor:
    """Each example's own part of the bias gradient, ``[k, m]``."""
    rows = []
    for index, share in enumerate(shares):
        one = PrivateBatch(inputs=batch.inputs[index : index + 1], labels=batch.labels[index : index + 1])
        rows.append(share * FedSGD()(seen.latest.network, one, torch.Generator().manual_seed(0))[layer.bias_name])
    return torch.stack(rows)


def test_replay_restores_labels_and_weights_of_a_duplicated_example_too() -> None:
    seen, layer, batch = round_of([5, 17, 100, 5])
    errors = errors_of(seen, layer, batch, [0.5, 0.25, 0.25])
    found = replay(seen, layer, batch.inputs[:3].flatten(1), errors, generator=torch.Generator().manual_seed(0))
    assert isinstance(found, Replay)
    assert found.labels.equal(batch.labels[:3])
    torch.testing.assert_close(found.weights, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert float(found.residual.max()) < 1e-10
    assert found.update_residual < 1e-10


def test_a_missing_example_shows_in_the_update() -> None:
    seen, layer, batch = round_of([5, 17, 100, 900])
    errors = errors_of(seen, layer, batch, [0.25, 0.25, 0.25])
    found = replay(seen, layer, batch.inputs[:3].flatten(1), errors, generator=torch.Generator().manual_seed(0))
    assert isinstance(found, Replay)
    assert found.update_residual > 1e-2


def test_replay_says_why_it_is_not_possible() -> None:
    seen, layer, batch = round_of([5, 17])
    errors = errors_of(seen, layer, batch, [0.5, 0.5])
    inputs = batch.inputs.flatten(1)
    chance = torch.Generator().manual_seed(0)
    unknown = dataclasses.replace(seen, rule=None)
    assert "plain gradient" in str(replay(unknown, layer, inputs, errors, generator=chance))
    inner = dataclasses.replace(layer, reads_input=False)
    assert "not the first" in str(replay(seen, inner, inputs, errors, generator=chance))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("factor", [1.2, None])
def test_a_bias_gradient_of_another_scale_certifies_nothing(size: int, factor: float | None) -> None:
    """Two classes, one hidden layer, no bias: patterns and errors are the same at any scale of the input."""
    photos = load_dataset("photos")
    dataset = dataclasses.replace(photos, inputs=avg_pool2d(photos.inputs, 4))
    network = build_network("mlp:200", input_shape=dataset.input_shape, classes=2, seed=0)
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            value.data.zero_()
    chance = torch.Generator().manual_seed(3)
    batch, rule = dataset.batch(torch.randperm(120, generator=chance)[:size]), FedSGD()
    sent = rule(network, batch, chance)
    found = disaggregate(GradientUpdate(sent), network, batch)
    assert bool(found.certified.any())
    clipped = {
        name: value / value.norm() if factor is None else value * (factor if name == "1.bias" else 1.0)
        for name, value in sent.items()
    }
    found = disaggregate(GradientUpdate(clipped), network, batch)
    assert not bool(found.certified.any())
    assert "scale" in found.reason


def disaggregate(update: GradientUpdate, network: torch.nn.Module, batch: PrivateBatch) -> Reconstruction:
    knows = ThreatModel(batch_size=True)
    seen = knows.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=2)
    return SPEAR(budget=Budget(samples=200_000))(seen, generator=torch.Generator().manual_seed(0))

"""A network that a user wrote by hand gives as much away as the same network made of modules, and is told so."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seepage
from seepage.attacks.auto import Auto
from seepage.attacks.matching import ig
from seepage.attacks.spear import SPEAR
from seepage.audit.preflight import inspect_network
from seepage.audit.record import Verdict
from seepage.data.sources import draw_batch, load_dataset
from seepage.errors import InputError
from seepage.types import ThreatModel

PHOTOS = load_dataset("photos")
UNITS = 120


class Sums(nn.Module):
    """Products and sums of parameters, ReLUs written out."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (math.prod(PHOTOS.input_shape), UNITS, UNITS, PHOTOS.classes)
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise(sizes)]
        self.W1, self.W2, self.W3 = (nn.Parameter(layer.weight.detach()) for layer in layers)
        self.b1, self.b2, self.b3 = (nn.Parameter(layer.bias.detach()) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.flatten(1) @ self.W1.T + self.b1).clamp_min(0)
        x = torch.addmm(self.b2, x, self.W2.T)
        x = torch.where(x > 0, x, 0)
        return x @ self.W3.T + self.b3


class Turned(Sums):
    """Weights as ``[inputs, outputs]``."""

    def __init__(self) -> None:
        super().__init__()
        for parameter in (self.W1, self.W2, self.W3):
            parameter.data = parameter.data.T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.maximum(x.flatten(1) @ self.W1 + self.b1, torch.zeros(()))
        x = self.b2 + x @ self.W2
        return torch.addmm(self.b3, x * (x > 0), self.W3)


class Opaque(Sums):
    """The same numbers by a function that nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bi,oi->bo", x.flatten(1), self.W1).add(self.b1).relu()
        x = torch.addmm(self.b2, x, self.W2.T).sigmoid()
        return x @ self.W3.T + self.b3


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    batch, _ = draw_batch(PHOTOS, batch_size=size, generator=torch.Generator().manual_seed(1))
    return batch.inputs, batch.labels


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def modules() -> nn.Module:
    own = dict(made(Sums).named_parameters())
    network = nn.Sequential(nn.Flatten(), nn.Linear(own["W1"].shape[1], UNITS), nn.ReLU())
    network.extend([nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, PHOTOS.classes)])
    for number, place in enumerate((1, 3, 5), start=1):
        network[place].weight, network[place].bias = own[f"W{number}"], own[f"b{number}"]
    return network


@pytest.mark.parametrize("rule", ["fedsgd", "fedavg:epochs=2,lr=0.01"])
def test_a_network_written_by_hand_gives_away_what_the_same_of_modules_does(rule: str) -> None:
    expected = seepage.audit(modules(), batch_of(4), rule=rule).finding
    assert expected.exact_examples == 4
    for kind in (Sums, Turned):
        found = seepage.audit(made(kind), batch_of(4), rule=rule).finding
        for word in ("outcome", "exact_examples", "certified"):
            assert getattr(found, word) == getattr(expected, word)
        assert found.scores["rows"] == expected.scores["rows"]


@pytest.mark.parametrize("kind", [Sums, Turned])
def test_so_are_the_inputs_of_its_inner_layer(kind: type[nn.Module]) -> None:
    expected = seepage.audit(modules(), batch_of(4), attack=Auto(layer="3")).finding
    found = seepage.audit(made(kind), batch_of(4), attack=Auto(layer="W2")).finding
    assert (found.exact_examples, found.layer) == (4, "W2")
    assert (found.outcome, found.certified) == (expected.outcome, expected.certified)


def test_what_is_not_understood_is_named_and_leaves_silence_inconclusive() -> None:
    refused = seepage.audit(made(Opaque), batch_of(4), attack="spear")
    assert refused.verdict is Verdict.NOT_AUDITED
    assert "W1: not understood" in " ".join(refused.finding.obstacles)
    ran = seepage.audit(made(Opaque), batch_of(4), attack=ig(iterations=2), threat_model=ThreatModel(batch_size=True))
    assert ran.finding.unread == ["W1"]
    assert ran.verdict is Verdict.INCONCLUSIVE
    assert inspect_network(made(Opaque), input_shape=PHOTOS.input_shape, classes=2).reading.unaccounted == ("W1",)


class InPlace(nn.Module):
    """Scales its input where it lies, as code that saves memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = modules()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mul_(2.0))


@pytest.mark.parametrize("rule", ["fedsgd", "fedavg:lr=0.01", "dpsgd:clip=1e9,noise=0"])
def test_a_network_that_works_in_place_changes_no_batch_and_no_score(rule: str) -> None:
    torch.manual_seed(0)
    inputs, labels = batch_of(4)
    before = inputs.clone()
    found = seepage.audit(InPlace(), (inputs, labels), rule=rule, seconds=5).finding
    assert torch.equal(inputs, before)
    assert found.exact_examples == 4
    assert found.wrong_certified == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack": SPEAR}, "`attack` should be .* found the class SPEAR"),
        ({"rule": None}, "`rule` should be .* found NoneType"),
        ({"defenses": [3]}, "`defenses` should be .* found int"),
        ({"threat_model": "batch-size"}, "`threat_model` should be a ThreatModel"),
        ({"seed": 1.5}, "`seed` should be a whole number"),
    ],
)
def test_what_is_handed_over_in_place_of_something_else_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        seepage.audit(modules(), batch_of(2), **options)

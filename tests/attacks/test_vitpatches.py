"""One image of a vision transformer: solved for, certified only where rounding allows, refused where it cannot be."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.auto import Auto
from seepage.attacks.budget import Budget
from seepage.attacks.recursion.patchsystem import PatchSystem, find_patch_system
from seepage.attacks.vitpatches import ViTPatches
from seepage.data.sources import load_dataset
from seepage.federated.fedavg import FedAvg
from seepage.federated.rules import FedSGD
from seepage.metrics import psnr
from seepage.networks.zoo import build_network
from seepage.types import GradientUpdate, Observation, Outcome, PrivateBatch, ThreatModel

SHAPE = (3, 16, 16)
CLASSES = 10


class Cut(nn.Module):
    """``[b, c, h, w]`` into rows of 4 x 4 patches ``[b, 16, 48]``."""

    def forward(self, x: Tensor) -> Tensor:
        b = len(x)
        return x.reshape(b, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, 16, 48)


class Users(nn.Module):
    """Vision transformers as users build them: a convolution or a linear layer on patches, positions in some place."""

    def __init__(self, *, linear: bool = False, last: bool = False, width: int = 32, norm: bool = False) -> None:
        super().__init__()
        self.cut: nn.Module = Cut() if linear else nn.Identity()
        self.embed: nn.Module = nn.Linear(48, width) if linear else nn.Conv2d(3, width, 4, stride=4)
        self.norm: nn.Module = nn.LayerNorm(width) if norm else nn.Identity()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.cut(x))
        rows = self.norm(x if x.ndim == 3 else x.flatten(2).transpose(1, 2))
        token = self.cls_token.expand(len(rows), -1, -1)
        parts = [rows, token] if self.last else [token, rows]
        out: Tensor = self.head(self.encoder(torch.cat(parts, dim=1) + self.pos_embed)[:, -1 if self.last else 0])
        return out


class OnTheMap(nn.Module):
    """Positions stored as a map ``[1, d, h, w]``, overlapping patches, no class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 5, stride=4, padding=1)
        self.absolute = nn.Parameter(0.1 * torch.randn(1, 32, 4, 4))
        self.mixer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = (self.embed(x) + self.absolute).flatten(2).transpose(1, 2)
        out: Tensor = self.head(self.mixer(rows).mean(dim=1))
        return out


class Loud(nn.Module):
    """A parameter whose gradient dwarfs all others, and hardly depends on the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.loud = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 1e-2 * self.inner(x) + 1e5 * self.loud
        return out


def made(kind: str) -> nn.Module:
    if kind == "zoo":
        return build_network("vit", input_shape=SHAPE, classes=CLASSES, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if kind == "map":
            return OnTheMap()
        options = {word: word in kind for word in ("linear", "last", "norm")}
        return Users(**options, width=12 if "narrow" in kind else 32)


def photo(count: int = 1) -> PrivateBatch:
    return load_dataset("photos", size=16, normalize="none").batch(torch.arange(count))


def observe(network: nn.Module, batch: PrivateBatch, *, known: bool = True, noise: float = 0.0) -> Observation:
    dtype = next(network.parameters()).dtype
    batch = PrivateBatch(inputs=batch.inputs.to(dtype), labels=batch.labels)
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    sent = {
        name: value + noise * value.std() * torch.randn(value.shape, generator=draw).to(dtype)
        for name, value in update.items()
    }
    return ThreatModel(batch_size=known).view(
        network=network,
        update=GradientUpdate(sent) if noise else update,
        batch=batch,
        rule=FedSGD(),
        classes=CLASSES,
        bounds=(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
    )


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", ["zoo", "conv", "conv last", "linear", "map"])
def test_one_image_is_solved_for_and_certified_in_float64(kind: str) -> None:
    network, batch = made(kind).double(), photo()
    observation = observe(network, batch)
    assert not ViTPatches().obstacles(observation)
    found = ViTPatches()(observation, generator=chance())
    assert found.outcome is Outcome.EXACT, found.reason
    assert found.inputs is not None
    assert found.labels is not None
    assert float((found.inputs - batch.inputs).abs().max()) < 1e-4
    assert found.labels.equal(batch.labels)


@pytest.mark.parametrize("kind", ["zoo", "conv", "linear"])
def test_in_float32_what_is_certified_is_exact(kind: str) -> None:
    for seed in range(6):
        batch = load_dataset("photos", size=16, normalize="none").batch(torch.tensor([seed * 7]))
        found = ViTPatches()(observe(made(kind), batch), generator=chance())
        assert found.inputs is not None
        assert float(psnr(found.inputs, batch.inputs)) > 50
        error, spread = (found.inputs - batch.inputs).abs().max(), batch.inputs.max() - batch.inputs.min()
        assert not bool(found.certified.all()) or float(error / spread) < 1e-3
        # The deviation that it tells is that of its errors.
        assert float(error / spread) < 6 * float(found.stats["deviation"])


@pytest.mark.parametrize("kind", ["zoo", "conv"])
def test_a_defended_update_is_never_certified(kind: str) -> None:
    network = made(kind).double()
    plain = observe(network, photo())
    changes = {
        "noise": observe(network, photo(), noise=1e-6).latest.update,
        "sign": GradientUpdate({name: value.sign() for name, value in plain.latest.update.items()}),
        "half": GradientUpdate({name: value.half().double() for name, value in plain.latest.update.items()}),
        "clip": GradientUpdate({name: 0.1 * value for name, value in plain.latest.update.items()}),
    }
    for update in changes.values():
        seen = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.latest, update=update),))
        found = ViTPatches()(seen, generator=chance())
        wrong = found.inputs is None or float((found.inputs - photo().inputs).abs().max()) > 1e-3
        assert not (wrong and bool(found.certified.any()))
        assert update is changes["noise"] or found.outcome is not Outcome.EXACT
    unknown = dataclasses.replace(plain, rule=None)
    assert ViTPatches()(unknown, generator=chance()).outcome is Outcome.APPROXIMATE


@pytest.mark.parametrize("name", ["inner.embed.weight", "inner.pos_embed"])
def test_a_tensor_too_small_to_count_in_the_whole_is_held_against_its_own_replay(name: str) -> None:
    network = Loud(made("conv")).double()
    plain = observe(network, photo())
    assert ViTPatches()(plain, generator=chance()).outcome is Outcome.EXACT
    update = GradientUpdate(
        {word: 0.9 * value if word == name else value for word, value in plain.latest.update.items()}
    )
    seen = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.latest, update=update),))
    found = ViTPatches()(seen, generator=chance())
    assert float(found.stats["residual"]) < 1e-3
    assert found.outcome is Outcome.APPROXIMATE


def test_strong_noise_falls_back_to_the_middle_of_the_bounds() -> None:
    found = ViTPatches()(observe(made("conv"), photo(), noise=1.0), generator=chance())
    if found.inputs is not None:
        assert float(psnr(found.inputs, photo().inputs)) > 6
        assert found.outcome is Outcome.APPROXIMATE


@pytest.mark.parametrize(
    ("kind", "word"),
    [("conv narrow", "infinitely many"), ("conv norm", "nothing shows"), ("linear norm", "nothing shows")],
)
def test_networks_without_the_system_are_obstacles(kind: str, word: str) -> None:
    reasons = [each.reason for each in ViTPatches().obstacles(observe(made(kind), photo()))]
    assert any(word in reason for reason in reasons), reasons


@pytest.mark.parametrize("spec", ["lenet", "resnet20", "mlp:20"])
def test_other_networks_are_obstacles(spec: str) -> None:
    network = build_network(spec, input_shape=SHAPE, classes=CLASSES, seed=0)
    assert ViTPatches().obstacles(observe(network, photo(2 if spec == "resnet20" else 1)))


def test_several_examples_or_an_unknown_number_are_obstacles() -> None:
    network = made("conv")
    for seen in (observe(network, photo(2)), observe(network, photo(), known=False)):
        assert [each.where for each in ViTPatches().obstacles(seen)] == ["batch size"]
    local = dataclasses.replace(observe(network, photo()), rule=FedAvg(epochs=2))
    assert ViTPatches().obstacles(local)


def test_a_frozen_copy_of_the_network_does_not_matter() -> None:
    seen = observe(made("conv").double(), photo())
    seen.latest.network.requires_grad_(False)
    assert not ViTPatches().obstacles(seen)
    assert ViTPatches()(seen, generator=chance()).outcome is Outcome.EXACT


def test_patches_and_images_are_each_others_inverse() -> None:
    for kind in ("conv", "linear", "map"):
        system = find_patch_system(made(kind), SHAPE)
        assert isinstance(system, PatchSystem)
        image = photo().inputs[0].double()
        torch.testing.assert_close(system.inputs(system.patches(image)), image)


def test_auto_takes_it_and_matches_where_there_is_noise() -> None:
    network = made("conv").double()
    found = Auto()(observe(network, photo()), generator=chance())
    assert found.outcome is Outcome.EXACT
    assert found.stats["chosen"] == "vit-patches"
    noised = Auto(budget=Budget(samples=2))(observe(network, photo(), noise=0.3), generator=chance())
    assert noised.stats["chosen"] == "vit-patches+ig"

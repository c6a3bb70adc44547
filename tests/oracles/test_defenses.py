"""Every defense against its definition, and what all of them promise."""

import math

import pytest
import torch

from seepage.audit.catalogue import DEFENSES, build_defense
from seepage.errors import InputError
from seepage.federated.defenses import (
    Clip,
    Drop,
    GaussianNoise,
    LaplaceNoise,
    Quantise,
    RandomSparse,
    RoundBF16,
    RoundFP16,
    Sign,
    TopK,
)
from seepage.types import Defense, GradientUpdate

EXAMPLES = {
    "noise": "noise:0.1",
    "laplace": "laplace:0.1,relative=true",
    "clip": "clip:1.0",
    "topk": "topk:0.1",
    "random": "random:0.1",
    "sign": "sign",
    "quantise": "quantise:4",
    "fp16": "fp16",
    "bf16": "bf16",
    "drop": "drop:0",
}
DRAWS = ("noise", "laplace", "random", "quantise")


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update(dtype: torch.dtype = torch.float64) -> GradientUpdate:
    drawn = chance(9)
    return GradientUpdate(
        {
            "0.weight": torch.randn(300, 200, generator=drawn, dtype=dtype),
            "0.bias": 3 * torch.randn(300, generator=drawn, dtype=dtype),
            "1.weight": 0.1 * torch.randn(10, 300, generator=drawn, dtype=dtype),
        }
    )


def flat(values: GradientUpdate) -> torch.Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def test_every_defense_is_asked() -> None:
    assert set(EXAMPLES) == set(DEFENSES)


@pytest.mark.parametrize("text", EXAMPLES.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_defense_is_pure_and_the_generator_decides_everything(text: str, dtype: torch.dtype) -> None:
    defense, given = build_defense(text), update(dtype)
    before, state = {name: value.clone() for name, value in given.items()}, torch.get_rng_state()
    first, again, other = defense(given, chance(1)), defense(given, chance(1)), defense(given, chance(2))
    assert all(torch.equal(given[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(first[name].dtype == dtype and first[name].shape == given[name].shape for name in first)
    same = all(torch.equal(first[name], other[name]) for name in first)
    assert same is not (text.partition(":")[0] in DRAWS)


@pytest.mark.parametrize("text", EXAMPLES.values())
def test_nothing_breaks_on_zeros_and_a_single_number(text: str) -> None:
    given = GradientUpdate({"0.weight": torch.zeros(4, 3), "0.bias": torch.zeros(1), "scale": torch.tensor(0.5)})
    assert set(build_defense(text)(given, chance())) <= set(given)


@pytest.mark.parametrize("kind", [GaussianNoise, LaplaceNoise])
def test_noise_has_the_spread_that_was_asked_for(kind: type[GaussianNoise | LaplaceNoise]) -> None:
    given = update()
    noise = flat(kind(sigma=0.2)(given, chance())) - flat(given)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert abs(float(noise.mean())) < 4 * 0.2 / math.sqrt(len(noise))
    # Mean absolute value: sigma sqrt(2 / pi) of a normal, sigma / sqrt(2) of a Laplace distribution.
    mean = math.sqrt(2 / math.pi) if kind is GaussianNoise else 1 / math.sqrt(2)
    assert float(noise.abs().mean()) == pytest.approx(0.2 * mean, rel=0.02)


@pytest.mark.parametrize("kind", [GaussianNoise, LaplaceNoise])
def test_relative_noise_is_as_long_as_that_share_of_the_update(kind: type[GaussianNoise | LaplaceNoise]) -> None:
    for factor in (1.0, 1e-6):
        given = GradientUpdate({name: factor * value for name, value in update().items()})
        noise = flat(kind(sigma=0.2, relative=True)(given, chance())) - flat(given)
        assert float(noise.norm() / flat(given).norm()) == pytest.approx(0.2, rel=0.02)


def test_clipping_cuts_the_whole_update_and_keeps_its_direction() -> None:
    given = update()
    long = float(flat(given).norm())
    cut = Clip(norm=1.5)(given, chance())
    assert float(flat(cut).norm()) == pytest.approx(1.5)
    for name in given:
        torch.testing.assert_close(cut[name], given[name] * 1.5 / long)
    left = Clip(norm=2 * long)(given, chance())
    assert all(torch.equal(left[name], given[name]) for name in given)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_top_k_keeps_the_largest_of_each_tensor(share: float) -> None:
    given = update()
    kept = TopK(share=share)(given, chance())
    for name, value in given.items():
        count = max(1, math.ceil(round(share * value.numel(), 6)))
        least = value.abs().flatten().sort(descending=True).values[count - 1]
        assert torch.equal(kept[name], torch.where(value.abs() >= least, value, 0.0))


def test_top_k_of_equal_entries_keeps_as_many_as_asked() -> None:
    kept = TopK(share=0.3)(GradientUpdate({"a": torch.ones(10)}), chance())["a"]
    assert int(kept.count_nonzero()) == 3


@pytest.mark.parametrize("unbiased", [False, True])
def test_random_sparsification_keeps_that_share_anywhere(unbiased: bool) -> None:
    given = update()
    kept = RandomSparse(share=0.25, unbiased=unbiased)(given, chance())
    for name, value in given.items():
        places = kept[name] != 0
        assert int(places.sum()) == math.ceil(0.25 * value.numel())
        torch.testing.assert_close(kept[name][places], value[places] * (4.0 if unbiased else 1.0))
    places = (kept["0.weight"] != 0).double()
    assert float(places.mean(dim=0).std()) < 0.05  # no column is favoured


def test_the_sign_is_the_sign() -> None:
    given = GradientUpdate({"a": torch.tensor([-3.0, 0.0, 1e-30])})
    assert Sign()(given, chance())["a"].tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantisation_stays_on_the_grid_next_to_the_value_and_has_no_bias(bits: int) -> None:
    given = update()
    levels = 2 ** (bits - 1) - 1
    rounded = Quantise(bits=bits)(given, chance())
    for name, value in given.items():
        step = float(value.abs().max()) / levels
        places = rounded[name] / step
        torch.testing.assert_close(places, places.round(), atol=1e-6, rtol=0)
        assert float((rounded[name] - value).abs().max()) < step * (1 + 1e-9)
        assert len(rounded[name].unique()) <= 2**bits
    few = GradientUpdate({"a": torch.linspace(-1, 1, 41, dtype=torch.float64)})
    drawn = chance()
    mean = torch.stack([Quantise(bits=bits)(few, drawn)["a"] for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(mean, few["a"], atol=5 / levels / math.sqrt(4 * 4000), rtol=0)


def test_rounding_is_that_of_the_format_and_half_precision_clamps() -> None:
    given = GradientUpdate({"a": torch.tensor([0.1, 1 + 2**-12, 1e-9, -7e4])})
    assert RoundFP16()(given, chance())["a"].tolist() == [0.0999755859375, 1.0, 0.0, -65504.0]
    assert RoundBF16()(given, chance())["a"].tolist() == [0.10009765625, 1.0, pytest.approx(1e-9, rel=4e-3), -70144.0]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("0", ["1.weight"]), ("0.bias", ["0.weight", "1.weight"]), ("*.weight", ["0.bias"]), ("*", [])],
)
def test_dropped_tensors_are_gone(pattern: str, left: list[str]) -> None:
    assert list(Drop(tensors=pattern)(update(), chance())) == left


def test_a_name_that_nothing_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"0\.weight.*'head'"):
        Drop(tensors="head")(update(), chance())


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianNoise(sigma=-1.0),
        lambda: LaplaceNoise(sigma=math.nan),
        lambda: Clip(norm=0.0),
        lambda: TopK(share=0.0),
        lambda: TopK(share=1.5),
        lambda: RandomSparse(share=-0.1),
        lambda: Quantise(bits=1),
    ],
)
def test_an_option_out_of_range_is_refused(make: type[Defense]) -> None:
    with pytest.raises(InputError, match="should be"):
        make()

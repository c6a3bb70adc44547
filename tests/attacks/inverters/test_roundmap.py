"""Maps fitted at the weights of the round: noise and later rounds do not take them below the public mean."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.inverter import Inverter
from seepage.attacks.inverterfile import load_inverter, save_inverter
from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.inverters.gradientviews import GradientViews, ViewReader, channel_products
from seepage.attacks.inverters.pairs import Pairs
from seepage.attacks.inverters.ridge import centred, products, ridge
from seepage.attacks.inverters.roundmap import row_noise
from seepage.attacks.inverters.weighing import weighed
from seepage.attacks.training import Training, train_inverter
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.metrics import match
from seepage.networks.zoo import build_network
from seepage.types import INTERRUPTED, GradientUpdate, Observation, Outcome, PrivateBatch, ThreatModel

SHAPE = (1, 8, 8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Module:
    return build_network("mlp:32:sigmoid", input_shape=SHAPE, classes=10, seed=0)


def digits(first: int, count: int) -> PrivateBatch:
    return load_dataset("digits").batch(torch.arange(first, first + count))


def trained(examples: int = 1) -> Inverter:
    network, given = net(), digits(0, 400)
    blueprint = draw_blueprint(
        network, kind=InverterKind.COARSE_GIT, input_shape=SHAPE, examples=examples, width=16, buckets=32
    )
    return train_inverter(network, blueprint, given.inputs, given.labels, training=Training(epochs=1)).inverter


def moved(steps: int = 30) -> nn.Module:
    network, given = net(), digits(400, 300)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network(given.inputs), given.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return network


def observe(network: nn.Module, batch: PrivateBatch, noise: float = 0.0) -> Observation:
    sent = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    size = sum(float(value.square().sum()) for value in sent.values()) / sum(value.numel() for value in sent.values())
    noised = {name: value + noise * size**0.5 * drawn(*value.shape) for name, value in sent.items()}
    return ThreatModel(batch_size=True).view(
        network=network, update=GradientUpdate(noised), batch=batch, rule=FedSGD(), classes=10
    )


def stop(done: int, total: int | None, note: str) -> bool:
    return False


def error(attack: Inverter, network: nn.Module, *, noise: float = 0.0, batches: int = 4) -> float:
    b = attack.blueprint.examples
    errors = []
    for first in range(900, 900 + batches * b, b):
        batch = digits(first, b)
        found = attack(observe(network, batch, noise), generator=torch.Generator().manual_seed(0)).inputs
        assert found is not None
        errors.append(float((found[match(found, batch.inputs)] - batch.inputs).square().mean()))
    return sum(errors) / len(errors)


def mean_error(batches: int = 4) -> float:
    truth = digits(900, batches).inputs
    return float((truth - digits(0, 400).inputs.mean(dim=0)).square().mean())


def test_later_rounds_and_noise_spoil_the_attack_network_but_not_the_map() -> None:
    attack = trained()
    alone = dataclasses.replace(attack, public=None)
    for network, noise in ((moved(), 0.0), (net(), 0.3)):
        assert error(attack, network, noise=noise) < 0.8 * mean_error()
        assert error(attack, network, noise=noise) < 0.8 * error(alone, network, noise=noise)
    assert error(attack, net()) < 1.02 * error(alone, net())


def test_batches_are_mapped_at_later_rounds_too() -> None:
    assert error(trained(2), moved(), batches=2) < 0.8 * mean_error(4)


def test_convolutions_are_mapped_by_their_channels_too() -> None:
    network, given = build_network("lenet", input_shape=SHAPE, classes=10, seed=0), digits(0, 70)
    blueprint = draw_blueprint(network, kind=InverterKind.COARSE_GIT, input_shape=SHAPE, width=8, buckets=16)
    training = Training(epochs=1)
    attack = train_inverter(network, blueprint, given.inputs, given.labels, training=training).inverter
    found = attack(observe(network, digits(900, 1)), generator=torch.Generator().manual_seed(0))
    assert 0 <= float(found.stats["weight of channels"]) <= 1
    assert float(found.stats["held-out error"]) < float(found.stats["held-out error of the mean"])


def test_where_noise_covers_everything_the_mean_is_answered() -> None:
    found = error(trained(), net(), noise=100.0)
    assert found == pytest.approx(mean_error(), rel=0.05)


def test_noise_is_read_off_the_sums_of_the_last_layers_rows() -> None:
    last = FedSGD()(net(), digits(0, 4), torch.Generator().manual_seed(0))["3.weight"]
    assert row_noise(last) < 1e-7
    big = last.repeat(1, 50)
    assert row_noise(big + 0.01 * drawn(*big.shape)) == pytest.approx(0.01, rel=0.1)


def test_a_clipped_update_is_brought_to_scale() -> None:
    attack, plain = trained(), observe(net(), digits(900, 1))
    small = GradientUpdate({name: 0.01 * value for name, value in plain.latest.update.items()})
    clipped = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.latest, update=small, labels=None),))
    known = dataclasses.replace(clipped, rounds=(dataclasses.replace(clipped.latest, labels=digits(900, 1).labels),))
    found = attack(known, generator=torch.Generator().manual_seed(0)).inputs
    assert found is not None
    assert float((found - digits(900, 1).inputs).square().mean()) < 0.7 * mean_error(1)


def test_an_interruption_leaves_the_attack_networks_own_answer() -> None:
    attack, seen = trained(), observe(net(), digits(900, 1))
    found = attack(seen, generator=torch.Generator().manual_seed(0), progress=stop)
    alone = dataclasses.replace(attack, public=None)(seen, generator=torch.Generator())
    assert found.stats["stopped"] == INTERRUPTED
    assert found.inputs is not None
    assert alone.inputs is not None
    assert found.inputs.equal(alone.inputs)


@pytest.mark.parametrize(("rows", "columns"), [(60, 20), (20, 60)])
def test_a_ridge_finds_a_linear_map_and_gives_up_on_noise(rows: int, columns: int) -> None:
    # Rows of rank 5: few enough for either form.
    basis, map_ = drawn(5, columns, seed=1), drawn(columns, 3, seed=2)
    x, judges, asked = (drawn(count, 5, seed=seed) @ basis for count, seed in ((rows, 3), (30, 4), (7, 5)))
    center = x.mean(dim=0)
    targets, truth, wanted = ((each - center) @ map_ for each in (x, judges, asked))
    seen, found = ridge(x, targets, judges, truth, asked)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(seen, truth, atol=1e-3, rtol=1e-3)
    _, nothing = ridge(x, drawn(rows, 3, seed=6), judges, drawn(30, 3, seed=7), asked)
    assert float(nothing.square().mean()) < 0.2


def test_inner_products_give_what_the_rows_would() -> None:
    rows, others = drawn(300, 9, seed=1) + 5, drawn(4, 9, seed=2) + 5
    gram, across = centred(*products(rows, others))
    apart, besides = (rows - rows.mean(dim=0)).double(), (others - rows.mean(dim=0)).double()
    torch.testing.assert_close(gram, apart @ apart.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(across, besides @ apart.T, atol=1e-4, rtol=1e-4)


def test_two_measures_of_likeness_come_from_one_pass() -> None:
    whole, other = drawn(20, 10, seed=3), drawn(3, 10, seed=4)
    whole[:, :4] = 0  # a tensor without gradient
    views = [
        GradientViews(
            whole=each,
            lengths=[4, 6],
            channels=torch.zeros(len(each), 0),
            channel_lengths=[],
            embeddings=drawn(1, 1, 1),
        )
        for each in (whole, other)
    ]
    found = views[0].products(views[1])
    directions = [
        torch.cat([unit(part) for part in torch.split(each, [4, 6], dim=1)], dim=1) for each in (whole, other)
    ]
    for word, (rows, others) in {"gradient": (whole, other), "directions": directions}.items():
        apart, besides = rows - rows.mean(dim=0), others - rows.mean(dim=0)
        torch.testing.assert_close(found[word][0].float(), apart @ apart.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[word][1].float(), besides @ apart.T, atol=1e-4, rtol=1e-4)


def test_products_of_channels_say_what_a_layer_has_seen_whatever_the_errors_are() -> None:
    # gW = sum_p d_p x_p^T with errors d that know nothing of x: gW^T gW is sum_p x_p x_p^T in the mean.
    x = drawn(200, 6, seed=1) @ drawn(6, 6, seed=2)  # [p, c]
    seen = channel_products(torch.stack([drawn(400, 200, seed=seed) @ x for seed in (3, 4)]))
    truth = x.T @ x / x.square().sum()
    torch.testing.assert_close(seen[0], truth, atol=0.05, rtol=0)
    torch.testing.assert_close(seen[1], truth, atol=0.05, rtol=0)


def test_products_of_channels_take_a_convolution_place_by_place_and_know_no_scale() -> None:
    gradient = drawn(2, 5, 3, 2, 2, seed=1)
    found = channel_products(gradient)
    places = [gradient[..., i, j] for i in range(2) for j in range(2)]
    whole = torch.stack([place.mT @ place for place in places]).sum(dim=0)
    torch.testing.assert_close(found, whole / whole.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None])
    torch.testing.assert_close(channel_products(1e-3 * gradient), found)
    assert not bool(channel_products(0 * gradient).any())


def test_products_of_channels_are_a_measure_of_likeness_where_layers_see_more_than_one_row() -> None:
    layers = [drawn(20, 9, seed=3), 100 * drawn(20, 4, seed=4), torch.ones(20, 2)]  # the last never varies
    views = GradientViews(
        whole=drawn(20, 4),
        lengths=[4],
        channels=torch.cat(layers, dim=1),
        channel_lengths=[9, 4, 2],
        embeddings=drawn(1, 1, 1),
    )
    gram, across = views.products(views)["channels"]
    torch.testing.assert_close(gram, across)
    each = [rows - rows.mean(dim=0) for rows in layers[:2]]
    wanted = sum(20 * (rows @ rows.T) / rows.square().sum() for rows in each)
    torch.testing.assert_close(gram.float(), wanted, atol=1e-4, rtol=1e-4)
    blueprint = trained().blueprint  # linear layers alone: what they were given is known better
    reader = ViewReader(blueprint, torch.zeros(1, dtype=torch.int64), {"1.weight": 2048, "3.weight": 320})
    gradients = {"1.weight": drawn(2, 32, 64), "3.weight": drawn(2, 10, 32), "3.bias": drawn(2, 10)}
    assert "channels" not in reader(gradients).products(reader(gradients))


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def test_answers_are_weighed_by_what_they_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, asked = drawn(50, 8, seed=1), drawn(1, 8, seed=2)
    answers = {"half": (2 * truth, 2 * asked), "wrong": (-truth, -asked), "noise": (drawn(50, 8, seed=3), asked)}
    answer, stats = weighed(answers, truth)
    torch.testing.assert_close(answer, asked[0], atol=1e-3, rtol=1e-3)
    assert stats["weight of half"] == pytest.approx(0.5, abs=1e-3)
    monkeypatch.setattr("seepage.attacks.inverters.weighing._ENTRIES", 7)  # a few rows at a time
    torch.testing.assert_close(weighed(answers, truth)[0], answer)
    assert not bool(weighed({"noise": answers["noise"]}, truth)[0].any())


def test_pairs_do_not_depend_on_how_many_are_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = digits(0, 12), torch.arange(12).reshape(6, 2)
    whole = Pairs(net(), given.inputs, given.labels, 2)
    monkeypatch.setattr("seepage.attacks.inverters.pairs._EXAMPLES", 4)
    parts = Pairs(net(), given.inputs, given.labels, 2, names=["3.bias"])
    torch.testing.assert_close(parts.pair(rows)[0]["3.bias"], whole.pair(rows)[0]["3.bias"])
    torch.testing.assert_close(parts.predictions(rows), whole.predictions(rows))
    assert parts.names == ["3.bias"]


def test_progress_is_asked_of_every_stage() -> None:
    asked: list[tuple[int, int | None, str]] = []

    def note(*said: object) -> bool:
        asked.append(said)  # type: ignore[arg-type]
        return True

    trained()(observe(net(), digits(900, 1)), generator=torch.Generator().manual_seed(0), progress=note)
    assert all(total is not None and done <= total for done, total, _ in asked)
    words = " ".join(said for _, _, said in asked)
    assert all(word in words for word in ("pairs", "map of the gradient", "map of the embeddings"))


def test_a_frozen_copy_of_the_network_does_not_matter() -> None:
    attack, frozen = trained(), net().requires_grad_(False)
    plain = observe(net(), digits(900, 1))
    seen = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.latest, network=frozen),))
    one, other = (attack(each, generator=torch.Generator().manual_seed(0)).inputs for each in (plain, seen))
    torch.testing.assert_close(one, other)


def test_an_update_of_zeros_fails_with_a_reason() -> None:
    plain = observe(net(), digits(900, 1))
    zero = GradientUpdate({name: 0 * value for name, value in plain.latest.update.items()})
    seen = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.latest, update=zero),))
    found = trained()(seen, generator=torch.Generator())
    assert found.outcome is Outcome.FAILED
    assert "zero everywhere" in found.reason


def test_a_file_takes_the_public_inputs_along_and_bad_ones_are_refused(tmp_path: Path) -> None:
    attack, path = trained(), tmp_path / "git.safetensors"
    save_inverter(attack, path)
    back = load_inverter(path)
    assert attack.public is not None
    assert back.public is not None
    assert back.public.inputs.equal(attack.public.inputs)
    assert back.public.labels.equal(attack.public.labels)
    assert back.public.held_out == attack.public.held_out > 0
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, header | {"held_out": "9999"})
    with pytest.raises(InputError, match="held out"):
        load_inverter(path)
    inputs, labels = attack.public.inputs, attack.public.labels
    for change, word in (
        ({"public.inputs": inputs[:, :, :4].contiguous()}, "should hold inputs"),
        ({"public.inputs": torch.full_like(inputs, torch.nan)}, "finite"),
        ({"public.labels": labels[1:].contiguous()}, "should hold inputs"),
        ({"public.labels": labels + 99}, "whole numbers"),
    ):
        save_file(tensors | change, path, header)
        with pytest.raises(InputError, match=word):
            load_inverter(path)

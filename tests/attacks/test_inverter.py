"""Attack networks: the recursion is exact at the true weights, training repeats and resumes, files are refused well."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.inverterfile import load_inverter, save_inverter
from seepage.attacks.inverters.blueprint import Blueprint, InverterKind, draw_blueprint, read_blueprint
from seepage.attacks.inverters.matchederror import matched_error
from seepage.attacks.matching import ig, refined
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.training import Trained, Training, train_inverter
from seepage.audit.catalogue import build_attack
from seepage.cli import main
from seepage.cli.show import Watch
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import GradientUpdate, Observation, Outcome, PrivateBatch, ThreatModel

SHAPE = (1, 8, 8)


def observe(network: nn.Module, batch: PrivateBatch) -> Observation:
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    return ThreatModel(batch_size=True).view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def net(spec: str = "mlp:32:sigmoid", seed: int = 0) -> nn.Module:
    return build_network(spec, input_shape=SHAPE, classes=10, seed=seed)


def public(count: int = 300) -> PrivateBatch:
    return load_dataset("digits").batch(torch.arange(count))


def trained(
    network: nn.Module,
    kind: InverterKind = InverterKind.COARSE_GIT,
    *,
    examples: int = 1,
    epochs: int = 2,
    **paths: Path,
) -> Trained:
    blueprint = draw_blueprint(network, kind=kind, input_shape=SHAPE, examples=examples, width=32, buckets=64)
    given = public()
    training = Training(epochs=epochs, seed=4)
    return train_inverter(
        network, blueprint, given.inputs, given.labels, training=training, checkpoint=paths.get("checkpoint")
    )


def state(done: Trained) -> dict[str, Tensor]:
    return done.inverter.module.state_dict()


@pytest.mark.parametrize("spec", ["mlp:32:sigmoid", "mlp:32,24:tanh", "mlp:32,24"])
def test_the_recursion_is_exact_at_the_true_weights(spec: str) -> None:
    network, batch = net(spec).double(), load_dataset("digits").batch(torch.tensor([7]))
    batch = PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)
    blueprint = draw_blueprint(network, kind=InverterKind.EXACT_GIT, input_shape=SHAPE)
    module = build_module(blueprint).double()
    assert isinstance(module, ExactGIT)
    update = observe(network, batch).latest.update
    gradients = {name: value[None] for name, value in update.items()}
    assert float((module(gradients)[0] - batch.inputs).detach().abs().max()) > 1e-2
    module.start_from(network)
    assert module.distance_to(network) == 0.0
    torch.testing.assert_close(module(gradients)[0], batch.inputs, atol=1e-8, rtol=0)


@pytest.mark.parametrize("spec", ["lenet", "mlp:32:gelu"])
def test_exact_git_refuses_what_it_cannot_invert(spec: str) -> None:
    with pytest.raises(InputError, match="Exact-GIT"):
        draw_blueprint(net(spec), kind=InverterKind.EXACT_GIT, input_shape=SHAPE)
    with pytest.raises(InputError, match="batches of 1"):
        draw_blueprint(net(), kind=InverterKind.EXACT_GIT, input_shape=SHAPE, examples=2)


@pytest.mark.parametrize("spec", ["mlp:16", "lenet", "resnet18", "vit"])
@pytest.mark.parametrize("kind", [InverterKind.COARSE_GIT, InverterKind.LTI])
def test_every_network_of_the_zoo_gets_an_attack_network(spec: str, kind: InverterKind) -> None:
    network = net(spec)
    blueprint = draw_blueprint(network, kind=kind, input_shape=SHAPE, examples=2, width=16, buckets=32)
    module = build_module(blueprint).eval()
    observation = observe(network, public(2))
    attack = Inverter(blueprint=blueprint, module=module)
    assert not attack.obstacles(observation)
    found = attack(observation, generator=torch.Generator())
    assert found.outcome is Outcome.APPROXIMATE
    assert found.inputs is not None
    assert found.inputs.shape == (2, *SHAPE)
    assert not bool(found.certified.any())


@pytest.mark.parametrize("examples", [3, 5])
def test_the_error_of_a_batch_knows_no_order(examples: int) -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(6, examples, 1, 2, 2, generator=draw)
    found = truth + 0.01 * torch.rand(truth.shape, generator=draw)
    order = torch.randperm(examples, generator=draw)
    torch.testing.assert_close(matched_error(found, truth), matched_error(found[:, order], truth))
    assert float(matched_error(found, truth).max()) < 2e-4


def test_git_learns_what_the_mean_does_not_know() -> None:
    done = trained(net(), epochs=4)
    given = public()
    mean_error = float((given.inputs - given.inputs.mean(0)).square().mean())
    assert min(done.held_out_errors) < 0.2 * mean_error
    assert done.held_out_errors[done.best_epoch] == min(done.held_out_errors)


def test_a_training_ends_when_its_time_is_over_within_an_epoch_too() -> None:
    network, given = net(), public()
    blueprint = draw_blueprint(network, kind=InverterKind.LTI, input_shape=SHAPE, width=32, buckets=64)
    training = Training(epochs=10**6, patience=10**6, group=1, seconds=1e-6)
    done = train_inverter(network, blueprint, given.inputs, given.labels, training=training)
    assert len(done.held_out_errors) - len(done.train_errors) == 1  # what it ended with was looked at
    assert len(done.train_errors) <= 1
    with pytest.raises(InputError, match="`seconds`"):
        Training(seconds=0)


def test_the_closed_map_is_fitted_under_the_eyes_of_progress_and_ends_when_told() -> None:
    network, given, notes = net(), public(), []
    blueprint = draw_blueprint(network, kind=InverterKind.COARSE_GIT, input_shape=SHAPE, width=32, buckets=64)

    def stop_soon(done: int, total: int | None, note: str) -> bool:
        notes.append((done, total, note))
        return len(notes) < 2

    training = Training(group=32)
    done = train_inverter(network, blueprint, given.inputs, given.labels, training=training, progress=stop_soon)
    assert [note[:2] for note in notes] == [(1, 9), (2, 9), (0, 40 * 9)]  # 270 pairs; then the first step
    assert not done.train_errors
    assert done.held_out_errors[0] < float(given.inputs.var(dim=0).mean())  # 64 pairs tell something too


def test_a_seed_decides_the_training() -> None:
    network = net()
    before = torch.get_rng_state()
    one, other = state(trained(network)), state(trained(network))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_attack_network_to_begin_with_is_left_as_it_was() -> None:
    network, given = net("mlp:8:sigmoid"), public(60)
    blueprint = draw_blueprint(network, kind=InverterKind.EXACT_GIT, input_shape=SHAPE)
    module = build_module(blueprint)
    assert isinstance(module, ExactGIT)
    module.start_from(net("mlp:8:sigmoid", seed=1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    training = Training(epochs=1)
    done = train_inverter(network, blueprint, given.inputs, given.labels, training=training, module=module)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert any(not value.equal(before[name]) for name, value in state(done).items())


def test_a_training_taken_up_ends_like_one_that_was_not_interrupted(tmp_path: Path) -> None:
    network, checkpoint = net(), tmp_path / "half.safetensors"
    whole = trained(network, epochs=3)
    blueprint, given = whole.inverter.blueprint, public()
    training = Training(epochs=3, seed=4)

    def halfway(done: int, total: int | None, note: str) -> bool:
        return done < 6  # five steps an epoch

    train_inverter(
        network, blueprint, given.inputs, given.labels, training=training, checkpoint=checkpoint, progress=halfway
    )
    assert checkpoint.is_file()
    again = trained(network, epochs=3, checkpoint=checkpoint)
    assert again.held_out_errors == whole.held_out_errors
    assert all(torch.equal(value, state(again)[name]) for name, value in state(whole).items())
    with pytest.raises(InputError, match=r"same training .*other epochs\)"):
        trained(network, epochs=5, checkpoint=checkpoint)


def test_a_file_gives_the_attack_back(tmp_path: Path) -> None:
    network = net()
    done = trained(network, epochs=1)
    save_inverter(done.inverter, tmp_path / "git.safetensors")
    back = load_inverter(tmp_path / "git.safetensors")
    observation = observe(network, public(1))
    one = done.inverter(observation, generator=torch.Generator()).inputs
    other = back(observation, generator=torch.Generator()).inputs
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
    assert back.blueprint == done.inverter.blueprint
    (tmp_path / "git.safetensors").rename(tmp_path / "two.safetensors")
    assert load_inverter(tmp_path / "two.safetensors").name == "git-two"  # findings tell files apart


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    with pytest.raises(InputError, match="no file"):
        load_inverter(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="safetensors"):
        load_inverter(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="seepage train"):
        load_inverter(path)
    blueprint = draw_blueprint(net(), kind=InverterKind.LTI, input_shape=SHAPE, width=16, buckets=32)
    header = {"format": "seepage-inverter-1", "blueprint": blueprint.to_json()}
    save_file({"module.network.0.weight": torch.ones(2)}, path, header)
    with pytest.raises(InputError, match="should have shape"):
        load_inverter(path)
    broken = build_module(blueprint).state_dict()
    broken["network.0.bias"] = torch.full_like(broken["network.0.bias"], torch.nan)
    save_file({f"module.{name}": value for name, value in broken.items()}, path, header)
    with pytest.raises(InputError, match="finite"):
        load_inverter(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"examples": 1', '"examples": 99999999'), ("[32, 64]", "[320000, 640000]"), ('"lti"', '"else"'), ("{", "[")],
)
def test_a_header_cannot_ask_for_anything(old: str, new: str) -> None:
    text = draw_blueprint(net(), kind=InverterKind.LTI, input_shape=SHAPE).to_json()
    assert old in text
    assert isinstance(read_blueprint(text), Blueprint)
    with pytest.raises(InputError):
        read_blueprint(text.replace(old, new, 1))


def test_an_update_of_another_network_is_an_obstacle() -> None:
    done = trained(net(), epochs=1)
    other = observe(net("mlp:33:sigmoid"), public(2))
    places = [obstacle.where for obstacle in done.inverter.obstacles(other)]
    assert "1.weight" in places
    assert "batch size" in places


def test_an_update_unlike_those_of_the_training_is_said_to_be_so() -> None:
    network, given = net(), load_dataset("digits").batch(torch.tensor([900]))
    attack = dataclasses.replace(trained(network, epochs=1).inverter, public=None)  # it answers alone
    bounds = (given.inputs.min(), given.inputs.max())
    plain = dataclasses.replace(observe(network, given), bounds=bounds)
    update = plain.latest.update
    noise = {name: value + value.std() * torch.randn(value.shape, generator=chance()) for name, value in update.items()}
    noised = dataclasses.replace(plain.latest, update=GradientUpdate(noise))
    like = attack(plain, generator=chance())
    unlike = attack(dataclasses.replace(plain, rounds=(noised,)), generator=chance())
    assert float(like.stats["out of range"]) < 0.1 < float(unlike.stats["out of range"])
    assert "unlike" not in like.reason
    assert "unlike" in unlike.reason


def test_labels_come_in_the_order_of_the_inputs_and_matching_keeps_them_so() -> None:
    network, batch = net(), load_dataset("digits").batch(torch.tensor([903, 901, 900]))
    start = trained(network, epochs=1, examples=3).inverter
    found = start(observe(network, batch), generator=chance())
    assert found.inputs is not None
    assert found.labels is not None
    assert found.labels.equal(batch.labels.sort().values)
    matched = ig(iterations=2, step=1e-6, start=start)(observe(network, batch), generator=chance())
    assert matched.labels is not None
    assert matched.labels.equal(found.labels)


def test_git_is_the_start_of_matching() -> None:
    network, batch = net(), load_dataset("digits").batch(torch.tensor([900]))
    start = trained(network, epochs=4).inverter
    observation = observe(network, batch)
    found = refined(start, iterations=30)(observation, generator=torch.Generator().manual_seed(0))
    alone = ig(iterations=60)(observation, generator=torch.Generator().manual_seed(0))
    assert found.stats["start"] == "git"
    assert float(found.stats["loss"]) < float(alone.stats["loss"])


def test_the_baselines_need_no_training() -> None:
    network, given = net(), public(50)
    observation = observe(network, load_dataset("digits").batch(torch.tensor([3, 40])))
    mean = PublicMean(inputs=given.inputs)(observation, generator=torch.Generator())
    assert mean.inputs is not None
    torch.testing.assert_close(mean.inputs[1], given.inputs.mean(0))
    near = NearestPublic(inputs=given.inputs, labels=given.labels)(observation, generator=torch.Generator())
    assert near.inputs is not None
    # Examples 3 and 40 are among the public ones: nothing is nearer than themselves.
    assert {int((given.inputs == row).flatten(1).all(1).nonzero()) for row in near.inputs} & {3, 40}


def test_the_baselines_refuse_public_data_that_does_not_fit() -> None:
    given, observation = public(5), observe(net(), public(1))
    with pytest.raises(ValueError, match="one public input at least"):
        PublicMean(inputs=given.inputs[:0])
    with pytest.raises(ValueError, match="one an input"):
        NearestPublic(inputs=given.inputs, labels=given.labels[:2])
    beyond = NearestPublic(inputs=given.inputs, labels=given.labels + 10)
    assert [obstacle.where for obstacle in beyond.obstacles(observation)] == ["public labels"]
    colour = NearestPublic(inputs=given.inputs.expand(-1, 3, -1, -1), labels=given.labels)
    assert [obstacle.where for obstacle in colour.obstacles(observation)] == ["public inputs"]


def test_a_network_of_no_finite_numbers_at_the_round_is_an_obstacle() -> None:
    network = net()
    attack, seen = trained(network, epochs=1).inverter, observe(network, public(1))
    broken = net()
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.nan
    later = dataclasses.replace(seen, rounds=(dataclasses.replace(seen.latest, network=broken),))
    assert [obstacle.where for obstacle in attack.obstacles(later)] == ["network"]
    assert not dataclasses.replace(attack, public=None).obstacles(later)  # it reads no weights


def test_public_inputs_of_another_scaling_are_an_obstacle() -> None:
    network = net()
    attack, seen = trained(network, epochs=1).inverter, observe(network, public(1))  # `public` is scaled by channel
    low, high = public().inputs.min(), public().inputs.max()
    assert not attack.obstacles(dataclasses.replace(seen, bounds=(low, high)))
    (obstacle,) = attack.obstacles(dataclasses.replace(seen, bounds=(torch.zeros(1), torch.ones(1))))
    assert "`--normalize`" in obstacle.reason


def test_public_inputs_as_files_hold_them_are_an_obstacle_where_the_client_scales() -> None:
    network = net()
    attack, seen = trained(network, epochs=1).inverter, observe(network, public(1))
    digits = load_dataset("digits")
    low, high = digits.normalization.bounds()
    scaled = dataclasses.replace(seen, bounds=(low, high))
    assert not attack.obstacles(scaled)
    assert attack.public is not None
    raw = dataclasses.replace(attack.public, inputs=digits.normalization.invert(attack.public.inputs).clamp(0, 1))
    (obstacle,) = dataclasses.replace(attack, public=raw).obstacles(scaled)
    assert "all in [0, 1]" in obstacle.reason
    assert "`--normalize`" in obstacle.reason
    unscaled = dataclasses.replace(seen, bounds=(torch.zeros(1), torch.ones(1)))
    assert not dataclasses.replace(attack, public=raw).obstacles(unscaled)


def test_train_and_audit_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "mine.safetensors")
    options = ["--data", "digits", "--network", "mlp:32:sigmoid"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "git", *options, "--epochs", "2", "--pairs", "300", "--width", "32", "--out", file])
    assert stopped.value.code == 0
    assert "held-out" in capsys.readouterr().out
    for attack in (f"git:{file}", f"git:{file}+ig"):
        folder = str(tmp_path / attack[-3:])
        with pytest.raises(SystemExit) as stopped:
            main(["audit", *options, "--attack", attack, "--batch-size", "1", "--budget", "100", "--out", folder])
        assert stopped.value.code in {0, 1, 4}  # so short a training may fail its positive control
    assert build_attack(f"git:{file}+ig", budget=Budget()).name == "git-mine+ig"
    with pytest.raises(SystemExit) as stopped:
        main(["audit", *options, "--attack", "git:absent.safetensors", "--out", str(tmp_path / "none")])
    assert stopped.value.code == 2
    with pytest.raises(InputError, match=r"\+dlg, \+idlg, \+ig or nothing; found no file '.*\+spear'"):
        build_attack(f"git:{file}+spear", budget=Budget())


@pytest.mark.parametrize(("kind", "code"), [("coarse-git", 0), ("lti", 2)])
def test_interrupted_before_an_epoch_only_what_beats_the_mean_is_written(
    kind: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(watch: Watch, done: int, total: int | None, note: str) -> bool:
        watch.interrupted = True
        return False

    monkeypatch.setattr(Watch, "progress", interrupt)
    out, kept = tmp_path / "git.safetensors", tmp_path / "kept.safetensors"
    options = ["--data", "digits", "--network", "mlp:32:sigmoid", "--pairs", "300", "--width", "8", "--kind", kind]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "git", *options, "--out", str(out), "--checkpoint", str(kept)])
    assert stopped.value.code == code
    assert out.is_file() == (code == 0)
    assert not kept.exists()
    assert "goes on from" not in capsys.readouterr().out


def test_an_interrupted_training_writes_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(watch: Watch, done: int, total: int | None, note: str) -> bool:
        watch.interrupted = note.startswith("epoch 2")  # as the first Ctrl-C does
        return not watch.interrupted

    monkeypatch.setattr(Watch, "progress", interrupt)
    out, kept = tmp_path / "git.safetensors", tmp_path / "kept.safetensors"
    options = ["--data", "digits", "--network", "mlp:8:sigmoid", "--pairs", "100", "--width", "8", "--epochs", "3"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "git", *options, "--out", str(out), "--checkpoint", str(kept)])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("interrupted; held-out")
    assert "of 1 epochs" in said
    assert f"goes on from {kept}" in said.replace("\n", "")
    assert load_inverter(out).blueprint.examples == 1
    monkeypatch.undo()
    with pytest.raises(SystemExit) as stopped:
        main(["train", "git", *options, "--out", str(out), "--checkpoint", str(kept)])
    assert stopped.value.code == 0
    assert not capsys.readouterr().out.startswith("interrupted")

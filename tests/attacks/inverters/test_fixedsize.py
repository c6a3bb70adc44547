"""Attacks for one batch size: an update of another does not begin, and its silence is none."""

from pathlib import Path

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.attacks.inverters.fixedsize import refuse_size
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.matching import dlg, ig, refined
from seepage.attacks.publicdata import PublicMean
from seepage.attacks.solvedgit import SolvedGIT
from seepage.audit.catalogue import build_defense
from seepage.cli import main
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import NOT_BEGUN, Observation, ThreatModel, go_on


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observe(count: int, *, seed: int, defense: str = "", known: bool = False) -> Observation:
    network = build_network("mlp:32:sigmoid", input_shape=(1, 8, 8), classes=10, seed=seed)
    dataset = load_dataset("digits")
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance(seed))[:count])
    update = FedSGD()(network, batch, chance(seed))
    if defense:
        update = build_defense(defense)(update, chance(seed))
    threat = ThreatModel(batch_size=known)
    return threat.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)


@pytest.mark.parametrize("defense", ["", "fp16", "noise:sigma=0.01,relative=true", "topk:share=0.1"])
def test_one_example_is_attacked_under_whatever_defense(defense: str) -> None:
    for seed in range(3):
        found = SolvedGIT()(observe(1, seed=seed, defense=defense), generator=chance())
        assert found.stats.get("stopped") != NOT_BEGUN


@pytest.mark.parametrize(("defense", "says"), [("", "by its labels the update is of 3"), ("fp16", "a rank of")])
def test_more_examples_than_it_takes_are_not_begun_with(defense: str, says: str) -> None:
    seen = observe(3, seed=1, defense=defense)
    assert not SolvedGIT().obstacles(seen)
    for attack in (SolvedGIT(), refined(SolvedGIT(), iterations=3), ig(iterations=3, start=SolvedGIT())):
        found = attack(seen, generator=chance())
        assert found.stats["stopped"] == NOT_BEGUN
        assert found.inputs is None
    assert says in SolvedGIT()(seen, generator=chance()).reason
    assert [one.where for one in SolvedGIT().obstacles(observe(3, seed=1, known=True))] == ["batch size"]


def test_copies_of_all_examples_fit_too() -> None:
    one = observe(1, seed=0)
    for examples in (1, 2, 4):
        assert refuse_size(one, examples, why="it takes so many", generator=chance(), progress=go_on) is None
    two = observe(2, seed=1)
    assert refuse_size(two, 2, why="it takes two", generator=chance(), progress=go_on) is None
    assert refuse_size(two, 3, why="it takes three", generator=chance(), progress=go_on) is not None


def test_two_examples_of_one_class_that_show_one_label_are_walked_from_a_start_of_two() -> None:
    network, dataset = build_network("lenet:sigmoid", input_shape=(1, 8, 8), classes=10, seed=0), load_dataset("digits")
    batch = dataset.batch((dataset.labels == 3).nonzero()[:2, 0])
    update = FedSGD()(network, batch, chance())
    seen = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)
    restored = RestoreLabels()(seen, generator=chance()).labels
    assert restored is not None
    assert restored.tolist() == [3]  # in float32 their embeddings are one
    one = SolvedGIT()(seen, generator=chance())  # an attack on one example gives their mean
    assert one.inputs is not None
    apart = (one.inputs - batch.inputs).square().mean()
    assert float((one.inputs - batch.inputs.mean(0)).square().mean()) < 0.01 * float(apart)
    for examples in (1, 2):
        start = PublicMean(inputs=dataset.inputs, examples=examples)
        found = refined(start, iterations=1)(seen, generator=chance())
        assert found.labels is not None
        assert found.labels.tolist() == [3] * examples
        along = dlg(start=start, budget=Budget(samples=1))(seen, generator=chance())
        assert along.inputs is not None
        assert len(along.inputs) == examples
        assert [f"taken for {examples} of each" in str(one.stats) for one in (found, along)] == [examples == 2] * 2


@pytest.mark.parametrize(("count", "examples"), [(2, 3), (2, 1)])
def test_a_start_of_a_number_that_the_labels_do_not_allow_is_refused(count: int, examples: int) -> None:
    start = PublicMean(inputs=load_dataset("digits").inputs, examples=examples)
    found = refined(start, iterations=1)(observe(count, seed=1), generator=chance())
    assert found.inputs is None
    assert f"The start should be {count} examples by public-mean; it gave {examples}" in found.reason


def test_an_audit_of_more_examples_is_no_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "digits", "--network", "mlp:32:sigmoid", "--seed", "1", "--batch-size", "2"]
    with pytest.raises(SystemExit) as stopped:
        main(["audit", *options, "--attack", "solved-git", "--out", str(tmp_path / "run")])
    assert stopped.value.code == 3
    assert "grant it" in capsys.readouterr().out

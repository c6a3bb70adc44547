"""What label attacks refuse: options out of range, auxiliary labels of other classes, half a layer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.auxiliary import AuxiliaryData
from seepage.attacks.labels.classmeans import ClassMeans
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.labels.rlg import RLG
from seepage.types import Attack, GradientUpdate, Observation, Outcome, Round

CLASSES = 10


def observed(withheld: str = "") -> Observation:
    """Four examples; the gradient of the parameter withheld is zero."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    x, y = torch.rand(4, 6, generator=generator), torch.randint(CLASSES, (4,), generator=generator)
    names, values = zip(*net.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(cross_entropy(net(x), y), values), strict=True))
    if withheld:
        gradients[withheld] = torch.zeros_like(gradients[withheld])
    one = Round(network=net, update=GradientUpdate(gradients), batch_size=4)
    return Observation(rounds=(one,), input_shape=(6,), classes=CLASSES)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: ExactLabels(rounds=0), "rounds"),
        (lambda: ExactLabels(reach=1.5), "reach"),
        (lambda: ExactLabels(precision=float("nan")), "precision"),
        (lambda: NoisePrior(noises=0), "noises"),
        (lambda: NoisePrior(strengths=()), "strengths"),
        (lambda: NoisePrior(shift=0.0), "shift"),
        (lambda: ClassMeans(draws=0), "draws"),
        (lambda: ILRG(alpha=0.0), "alpha"),
        (lambda: RLG(rank_tol=0.0), "rank_tol"),
        (lambda: RestoreLabels(noises=0), "noises"),
    ],
)
def test_options_out_of_range_are_refused_by_name(build: Callable[[], Attack], word: str) -> None:
    with pytest.raises(ValueError, match=rf"`{word}`.* should .*; found"):
        build()


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_auxiliary_labels_of_other_classes_are_an_obstacle(label: int) -> None:
    attack = AuxiliaryData(inputs=torch.rand(3, 6), labels=torch.tensor([0, 1, label]))
    assert [found.where for found in attack.obstacles(observed())] == ["auxiliary labels"]
    assert not replace(attack, labels=torch.tensor([0, 1, 9])).obstacles(observed())


@pytest.mark.parametrize(("withheld", "word"), [("2.bias", "bias"), ("2.weight", "weights")])
@pytest.mark.parametrize("attack", [ExactLabels(), PooledEmbedding(), RestoreLabels()])
def test_half_a_layer_is_named(attack: Attack, withheld: str, word: str) -> None:
    result = attack(observed(withheld), generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.FAILED
    assert f"{word} is all zero, that of its" in result.reason

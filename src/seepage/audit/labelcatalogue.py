"""The label attacks by name, strongest entry first; merged into the catalogue of all attacks."""

from collections.abc import Callable, Mapping

from seepage.attacks.labels.classmeans import ClassMeans
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelbaselines import IDLG, PresentClasses, SignRule, UniformProbabilities
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.labels.rlg import RLG
from seepage.types import Attack

__all__ = ["LABEL_ATTACKS"]

# name: (what makes it, paper, what it needs)
LABEL_ATTACKS: Mapping[str, tuple[Callable[[], Attack], str, str]] = {
    "labels": (RestoreLabels, "seepage", "a last linear layer; beyond C/2 examples, the batch size"),
    "exact-labels": (ExactLabels, "seepage", "a last linear layer, hard labels, K up to about C/2"),
    "ilrg": (ILRG, "Ma et al., ICLR 2023", "a last linear layer, the batch size"),
    "pooled": (PooledEmbedding, "seepage", "a last linear layer, the batch size; an untrained network"),
    "class-means": (ClassMeans, "seepage", "an untrained network that begins with a linear layer; K known; bounds"),
    "noise-prior": (NoisePrior, "seepage", "a last linear layer, the batch size; an untrained network"),
    "present-classes": (PresentClasses, "baseline", "a last linear layer after a ReLU, the batch size"),
    "uniform": (UniformProbabilities, "baseline", "a last linear layer, the batch size"),
    "idlg-labels": (IDLG, "Zhao et al., 2020", "a last linear layer, the batch size"),
    "sign-rule": (SignRule, "Yin et al., CVPR 2021", "a last linear layer, the batch size"),
    "rlg": (RLG, "Dang et al., NeurIPS 2021", "a last linear layer; fewer than C - 1 examples"),
}

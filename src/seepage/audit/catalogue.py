"""Attacks, rules and defenses by the names that the command line and findings use."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seepage.attacks.auto import Auto
from seepage.attacks.budget import Budget
from seepage.attacks.inverterfile import load_inverter
from seepage.attacks.matching import dlg, idlg, ig, refined
from seepage.attacks.prism import PRISM
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.attacks.vitpatches import ViTPatches
from seepage.audit.labelcatalogue import LABEL_ATTACKS
from seepage.errors import InputError
from seepage.federated import defenses
from seepage.federated.aggregate import SummedClients
from seepage.federated.dpsgd import DPSGD
from seepage.federated.fedavg import FedAvg
from seepage.federated.rules import FedSGD
from seepage.federated.wording import read
from seepage.networks.factories import call_factory
from seepage.types import Attack, Defense, UpdateRule

__all__ = [
    "ATTACKS",
    "DEFENSES",
    "RULES",
    "CatalogueEntry",
    "build_attack",
    "build_defense",
    "build_rule",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One line of the catalogue.

    Args:
        build: makes the attack from a budget and the layer to attack.
        paper: where it was published.
        recovers: what it gives back, in a few words.
        needs: what it cannot run without, in a few words.
    """

    build: Callable[[Budget, str | None], Attack]
    paper: str
    recovers: str
    needs: str


def _labels_only(make: Callable[[], Attack], paper: str, needs: str) -> CatalogueEntry:
    def build(budget: Budget, layer: str | None) -> Attack:
        del budget  # they end in seconds
        if layer is not None:
            raise InputError(f"`--layer` should be left out: {make().name} reads the last layer; found {layer!r}.")
        return make()

    return CatalogueEntry(build=build, paper=paper, recovers="how many examples of each class", needs=needs)


ATTACKS: Mapping[str, CatalogueEntry] = {
    "auto": CatalogueEntry(
        build=lambda budget, layer: Auto(budget=budget, layer=layer),
        paper="SPEAR, SPEAR++ or PRISM, whichever fits; else vit-patches or IG",
        recovers="whole batches, exactly, with labels and a certificate; without a ReLU layer, an approximation",
        needs="a linear layer with bias into a ReLU; else the batch size, known or restored",
    ),
    "spear": CatalogueEntry(
        build=lambda budget, layer: SPEAR(budget=budget, layer=layer),
        paper="Dimitrov et al., NeurIPS 2024",
        recovers="whole batches, exactly, with labels and a certificate",
        needs="a linear layer with bias into a ReLU; b up to about 20",
    ),
    "spearpp": CatalogueEntry(
        build=lambda budget, layer: SPEARPlusPlus(budget=budget, layer=layer),
        paper="SPEAR++, 2025",
        recovers="whole batches, exactly, with labels and a certificate",
        needs="a linear layer with bias into a ReLU, 8 units or more an example",
    ),
    "prism": CatalogueEntry(
        build=lambda budget, layer: PRISM(budget=budget, layer=layer),
        paper="this project",
        recovers="whole batches, exactly, with labels and a certificate",
        needs="a linear layer with bias into a ReLU, 4 units or more an example",
    ),
    "dlg": CatalogueEntry(
        build=lambda budget, layer: dlg(budget=budget),  # noqa: ARG005 - matches all layers
        paper="Zhu et al., NeurIPS 2019",
        recovers="an approximation of the batch, with labels; no certificate",
        needs="the batch size, known or restored; small networks and batches",
    ),
    "idlg": CatalogueEntry(
        build=lambda budget, layer: idlg(budget=budget),  # noqa: ARG005
        paper="Zhao et al. 2020",
        recovers="as dlg, from labels restored first",
        needs="as dlg",
    ),
    "ig": CatalogueEntry(
        build=lambda budget, layer: ig(budget=budget),  # noqa: ARG005
        paper="Geiping et al., NeurIPS 2020",
        recovers="an approximation of the batch, from labels restored first; no certificate",
        needs="the batch size, known or restored",
    ),
    "solved-git": CatalogueEntry(
        build=lambda budget, layer: SolvedGIT(),  # noqa: ARG005 - ends in seconds, walks all layers
        paper="GIT (arXiv 2505.20026) and R-GAP (ICLR 2021)",
        recovers="an approximation of one example, often up to rounding; no certificate",
        needs="one example; linear layers and convolutions with sigmoid, tanh or ReLU",
    ),
    "vit-patches": CatalogueEntry(
        build=lambda budget, layer: ViTPatches(),  # noqa: ARG005 - one least-squares problem
        paper="this project, after APRIL (Lu et al., CVPR 2022)",
        recovers="one image, up to rounding, with its label; certified if rounding allows",
        needs="one example; a vision transformer with learned positions, no fewer numbers a token than patches",
    ),
    **{name: _labels_only(*entry) for name, entry in LABEL_ATTACKS.items()},
}

_FROM_FILE = "git:"
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_STARTS: Mapping[str, Callable[[], Attack]] = {"solved-git": SolvedGIT, "vit-patches": ViTPatches}
_FROM_START: Mapping[str, Callable[[Budget, Attack], Attack]] = {
    "dlg": lambda budget, start: dlg(budget=budget, start=start, name=f"{start.name}+dlg"),
    "idlg": lambda budget, start: idlg(budget=budget, start=start, name=f"{start.name}+idlg"),
    "ig": lambda budget, start: refined(start, budget=budget),
}

RULES: Mapping[str, type[UpdateRule]] = {"fedsgd": FedSGD, "fedavg": FedAvg, "dpsgd": DPSGD, "sum": SummedClients}

DEFENSES: Mapping[str, type[Defense]] = {
    "noise": defenses.GaussianNoise,
    "laplace": defenses.LaplaceNoise,
    "clip": defenses.Clip,
    "topk": defenses.TopK,
    "random": defenses.RandomSparse,
    "sign": defenses.Sign,
    "quantise": defenses.Quantise,
    "fp16": defenses.RoundFP16,
    "bf16": defenses.RoundBF16,
    "drop": defenses.Drop,
}

_OF = re.compile(r"(sum(?::.*?)?)[:,]of=(.*)")  # the clients' own rule of a sum is all that follows


def build_attack(name: str, *, budget: Budget, layer: str | None = None, option: str = "--attack") -> Attack:
    """The attack called ``name``; ``option`` is how the user calls it, for errors.

    ``git:FILE`` is an attack network that ``seepage train`` wrote; ``git:FILE+ig`` starts ``ig`` (or ``dlg``, ``idlg``)
    from it, ``solved-git+ig`` from ``solved-git`` and ``vit-patches+ig`` from ``vit-patches``. ``module:factory`` is
    one of the user's own: the factory is called with those of ``budget`` and ``layer`` that its signature names.

    Raises:
        InputError: there is none; the message lists those there are. Or the file is no attack network, or the factory
            makes no attack.
    """
    if name.startswith(_FROM_FILE):
        return _from_file(name.removeprefix(_FROM_FILE), budget, option)
    first, plus, then = name.rpartition("+")
    if plus and first in _STARTS and then in _FROM_START:
        return _FROM_START[then](budget, _STARTS[first]())
    if _OWN.fullmatch(name):
        return _own_attack(name, budget, layer)
    if name not in ATTACKS:
        raise InputError(
            f"`{option}` should be one of {', '.join(ATTACKS)}, git:FILE, or module:factory for one of your own; "
            f"found {name!r}."
        )
    return ATTACKS[name].build(budget, layer)


def _from_file(text: str, budget: Budget, option: str) -> Attack:
    path, plus, then = text.rpartition("+")
    if plus and then in _FROM_START:
        return _FROM_START[then](budget, load_inverter(path))
    if not Path(text).is_file():
        found = repr(text) if text else "nothing"
        ways = ", ".join(f"+{word}" for word in _FROM_START)
        raise InputError(
            f"`{option}` git:FILE should name a file that `seepage train` wrote, after it {ways} or nothing; "
            f"found no file {found}."
        )
    return load_inverter(text)


def _own_attack(spec: str, budget: Budget, layer: str | None) -> Attack:
    attack = call_factory(spec, what="attack", offered={"budget": budget, "layer": layer})
    if not isinstance(attack, Attack) or not isinstance(attack.name, str):
        raise InputError(
            f"The factory `{spec}` should return an attack: `name`, `obstacles(observation)` and "
            f"`__call__(observation, *, generator, progress)`; found {type(attack).__name__}."
        )
    return attack


def build_rule(text: str, *, option: str = "--rule") -> UpdateRule:
    """The rule that ``text`` describes: its ``name``, or ``fedavg:epochs=2,lr=0.01``; ``option`` as above.

    Raises:
        InputError: the name, a key or a value is wrong; it says which, what was expected and what was found.
    """
    of_whom = _OF.fullmatch(text)
    if of_whom is not None:
        clients = read(of_whom[1], {"sum": SummedClients}, option=option).clients
        return SummedClients(clients=clients, of=build_rule(of_whom[2], option=option))
    return read(text, RULES, option=option)


def build_defense(text: str, *, option: str = "--defense") -> Defense:
    """The defense that ``text`` describes: its ``name``, or ``noise:0.01``; ``option`` as above.

    Raises:
        InputError: as for :func:`build_rule`.
    """
    return read(text, DEFENSES, option=option)

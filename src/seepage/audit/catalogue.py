"""Attacks, rules and defenses by the names that the command line and findings use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seepage.attacks.disaggregation import Budget
from seepage.attacks.inverter import load_inverter
from seepage.attacks.matching import dlg, idlg, ig
from seepage.attacks.spear import SPEAR
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.types import Attack, UpdateRule

__all__ = ["ATTACKS", "RULES", "CatalogueEntry", "build_attack", "build_rule"]


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


ATTACKS: Mapping[str, CatalogueEntry] = {
    "spear": CatalogueEntry(
        build=lambda budget, layer: SPEAR(budget=budget, layer=layer),
        paper="Dimitrov et al., NeurIPS 2024",
        recovers="whole batches, exactly, with labels and a certificate",
        needs="a linear layer with bias into a ReLU; b up to about 20",
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
}

_FROM_FILE = "git:"
_FROM_START: Mapping[str, Callable[[Budget, Attack], Attack]] = {
    "dlg": lambda budget, start: dlg(budget=budget, start=start, name=f"{start.name}+dlg"),
    "idlg": lambda budget, start: idlg(budget=budget, start=start, name=f"{start.name}+idlg"),
    "ig": lambda budget, start: ig(budget=budget, start=start, name=f"{start.name}+ig"),
}

RULES: Mapping[str, Callable[[], UpdateRule]] = {"fedsgd": FedSGD}


def build_attack(name: str, *, budget: Budget, layer: str | None = None) -> Attack:
    """The attack called ``name``.

    ``git:FILE`` is an attack network that ``seepage train`` wrote; ``git:FILE+ig`` starts ``ig`` (or ``dlg``, ``idlg``)
    from it.

    Raises:
        InputError: there is none; the message lists those there are. Or the file is no attack network.
    """
    if name.startswith(_FROM_FILE):
        path, plus, then = name.removeprefix(_FROM_FILE).rpartition("+")
        if plus and then in _FROM_START:
            return _FROM_START[then](budget, load_inverter(path))
        return load_inverter(name.removeprefix(_FROM_FILE))
    if name not in ATTACKS:
        raise InputError(f"`--attack` should be one of {', '.join(ATTACKS)}, or git:FILE; found {name!r}.")
    return ATTACKS[name].build(budget, layer)


def build_rule(name: str) -> UpdateRule:
    """The rule called ``name``.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in RULES:
        raise InputError(f"`--rule` should be one of {', '.join(RULES)}; found {name!r}.")
    return RULES[name]()

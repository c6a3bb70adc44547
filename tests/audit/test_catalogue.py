"""Attacks by name, users' own among them."""

from pathlib import Path

import pytest

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.catalogue import build_attack
from seepage.errors import InputError

MODULE = """
from seepage.attacks.spear import SPEAR
def bounded(budget, layer):
    return SPEAR(budget=budget, layer=layer)
def number():
    return 3
def broken():
    raise RuntimeError("not today")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an_attack_of_mine.py").write_text(MODULE, encoding="utf8")
    return "an_attack_of_mine"


def test_ones_own_attack_gets_what_its_factory_names(own: str) -> None:
    attack = build_attack(f"{own}:bounded", budget=Budget(samples=7), layer="3")
    assert attack == SPEAR(budget=Budget(samples=7), layer="3")


def test_a_class_is_a_factory() -> None:
    assert build_attack("seepage.attacks.spear:SPEAR", budget=Budget(samples=7)) == SPEAR(budget=Budget(samples=7))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("number", "should return an attack: `name`.*found int"),
        ("broken", "should return an attack; it failed with RuntimeError: not today"),
        ("absent", "found no `absent`"),
    ],
)
def test_what_makes_no_attack_is_refused(own: str, factory: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_attack(f"{own}:{factory}", budget=Budget())


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="The attack's module `nowhere` should be importable"):
        build_attack("nowhere:make", budget=Budget())


def test_a_file_in_place_of_a_module_is_told_how_to_be_written() -> None:
    with pytest.raises(InputError, match=r"Write `nowhere:make`, without \.py\."):
        build_attack("nowhere.py:make", budget=Budget())


@pytest.mark.parametrize("name", ["magic", "magic:", ":make", "git"])
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(InputError, match=r"one of auto, spear.*module:factory"):
        build_attack(name, budget=Budget())

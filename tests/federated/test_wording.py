"""Rules and defenses as text: what is written reads back, and what is wrong is named."""

import pytest

from seepage.audit.catalogue import DEFENSES, RULES, build_defense, build_rule
from seepage.errors import InputError
from seepage.types import Defense, UpdateRule

RULE_TEXTS = [
    "fedsgd",
    "fedsgd:batch_norm=eval,statistics=true",
    "fedavg",
    "fedavg:epochs=2,local_batch=8,lr=0.003,momentum=0.9,weight_decay=1e-05,accumulate=2,shuffle=false",
    "fedavg:optimizer=adam",
    "dpsgd",
    "dpsgd:clip=0.1,noise=0.0,chunk=16",
    "sum:clients=4",
    "sum:clients=3,of=fedavg:epochs=2,lr=0.1",
    "sum:clients=3,of=sum:clients=2,of=dpsgd:clip=2.0",
]
DEFENSE_TEXTS = [
    "noise:sigma=0.01",
    "noise:sigma=1e-06,relative=true",
    "laplace:sigma=0.5",
    "clip:norm=2.0",
    "topk:share=0.1",
    "random:share=0.3,unbiased=true",
    "sign",
    "quantise:bits=8",
    "fp16",
    "bf16",
    "drop:tensors=layers.0",
]


@pytest.mark.parametrize("text", RULE_TEXTS)
def test_a_rule_is_named_as_it_was_written(text: str) -> None:
    rule = build_rule(text)
    assert isinstance(rule, UpdateRule)
    assert rule.name == text
    assert build_rule(rule.name) == rule


@pytest.mark.parametrize("text", DEFENSE_TEXTS)
def test_a_defense_is_named_as_it_was_written(text: str) -> None:
    defense = build_defense(text)
    assert isinstance(defense, Defense)
    assert defense.name == text
    assert build_defense(defense.name) == defense


def test_every_entry_of_the_catalogue_is_asked() -> None:
    assert {text.partition(":")[0] for text in RULE_TEXTS} == set(RULES)
    assert {text.partition(":")[0] for text in DEFENSE_TEXTS} == set(DEFENSES)


def test_the_first_value_may_stand_without_its_key() -> None:
    assert build_defense("noise:0.01") == build_defense("noise:sigma=0.01")
    assert build_rule("sum:4") == build_rule("sum:clients=4")
    assert build_rule("sum:4,of=fedavg:3") == build_rule("sum:clients=4,of=fedavg:epochs=3")
    assert build_rule("sum:of=fedavg") == build_rule("sum:clients=2,of=fedavg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedmagic", ["--rule", "fedsgd, fedavg, dpsgd, sum", "'fedmagic'"]),
        ("fedavg:speed=3", ["--rule", "fedavg", "epochs", "'speed=3'"]),
        ("fedavg:lr=fast", ["--rule", "fedavg", "`lr`", "a number", "'fast'"]),
        ("fedavg:epochs=1.5", ["`epochs`", "a whole number", "'1.5'"]),
        ("fedavg:lr=0", ["`lr`", "above 0", "found 0.0"]),
        ("fedavg:lr=nan", ["`lr`", "above 0", "found nan"]),
        ("fedavg:lr=0.1,lr=0.2", ["`lr`", "once", "'lr=0.2'"]),
        ("fedavg:optimizer=lion", ["`optimizer`", "sgd, adam", "'lion'"]),
        ("fedavg:shuffle=maybe", ["`shuffle`", "true or false", "'maybe'"]),
        ("fedavg:", ["fedavg", "found ''"]),
        ("fedavg:epochs=2,", ["fedavg", "found ''"]),
        ("sum:clients=2,of=magic", ["--rule", "'magic'"]),
        ("sum:clients=none", ["`clients`", "'none'"]),
        ("dpsgd:noise=-1", ["dpsgd", "`noise`", "-1"]),
    ],
)
def test_a_wrong_rule_says_what_was_expected_and_found(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as said:
        build_rule(text)
    assert all(word in str(said.value) for word in words), said.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blur:3", ["--defense", "noise, laplace", "'blur:3'"]),
        ("noise", ["--defense", "`sigma`", "none"]),
        ("sign:2", ["--defense", "sign", "there are none", "'2'"]),
        ("quantise:64", ["quantise", "`bits`", "at most 16", "64"]),
        ("drop:", ["drop", "`tensors`"]),
    ],
)
def test_a_wrong_defense_says_what_was_expected_and_found(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as said:
        build_defense(text)
    assert all(word in str(said.value) for word in words), said.value

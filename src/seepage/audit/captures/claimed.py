"""What is said of a captured client's rule: by the bundle's header, and by the user who attacks it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage.audit.catalogue import build_rule
from seepage.errors import InputError
from seepage.federated.aggregate import SummedClients
from seepage.federated.fedavg import FedAvg, Optimizer
from seepage.federated.rules import FedSGD
from seepage.federated.storage import CaptureHeader, UpdateKind
from seepage.types import GradientUpdate, PrivateBatch, Traces, UpdateRule

__all__ = ["Guess", "claimed_rule", "contradiction"]

_MOST_STEPS = 10_000  # of a header; a rule goes through its steps one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Where nobody says what the client did: the scale and the rounding are guessed, and nothing is promised.

    Args:
        of: what the figures of the bundle come nearest to.
        is_gradient: whether it may have been one gradient. Then a replay certifies; else nothing does.
    """

    of: UpdateRule
    is_gradient: bool

    @property
    def name(self) -> str:
        """As findings and reasons have it."""
        return "a client whose rule nobody stated"

    @property
    def traces(self) -> Traces:
        """None: nobody promised anything."""
        return Traces.NONE

    def as_gradient(
        self, update: GradientUpdate, *, network: nn.Module, batch_size: int | None = None
    ) -> GradientUpdate:
        """As the guessed rule has it."""
        return self.of.as_gradient(update, network=network, batch_size=batch_size)

    def rounding(self, parameter: Tensor, *, batch_size: int | None = None) -> float:
        """As the guessed rule has it."""
        return self.of.rounding(parameter, batch_size=batch_size)

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """What the guessed rule sends."""
        return self.of(network, batch, generator)


def claimed_rule(header: CaptureHeader, stated: UpdateRule | None = None) -> UpdateRule | None:
    """The rule that the attack is told of; a claim, not a fact.

    A claim that the update is one gradient is held against the update by the certificate's replay: if it is false,
    it costs the certificate. Other claims promise what certificates rest on
    (:mod:`seepage.attacks.disaggregation.warrant`), as the rule that a server prescribes does in an audit.

    Args:
        header: of the bundle. Its ``rule`` may be as the command line takes it, such as ``fedavg:epochs=2,lr=0.01``.
        stated: what the user says.

    Raises:
        InputError: the two contradict each other; the message names both.
    """
    written = _written(header)
    if stated is not None:
        found = contradiction(header, stated) or _other_words(header, written, stated)
        if found is not None:
            raise InputError(f"`--rule` should agree with the bundle, {found}; found {stated.name}.")
        return stated
    if written is not None:
        found = contradiction(header, written)
        if found is not None:
            raise InputError(f"The bundle's rule should agree with the bundle, {found}; found {written.name}.")
        return written
    if header.kind is UpdateKind.GRADIENT:
        if header.rule not in ("fedsgd", "unknown") or header.secure_aggregation:
            return None
        return FedSGD() if header.rule == "fedsgd" else Guess(of=FedSGD(), is_gradient=True)
    rate, steps = header.learning_rate, header.local_steps
    if rate is None or steps is None or steps > _MOST_STEPS:
        return None
    sgd = FedAvg(epochs=steps, lr=rate)
    if header.rule == "adam" and not header.secure_aggregation:
        return FedAvg(epochs=steps, lr=rate, optimizer=Optimizer.ADAM)
    if not header.secure_aggregation and (header.rule == "sgd" or (steps == 1 and header.rule in ("fedsgd", "fedavg"))):
        return sgd
    return Guess(of=sgd, is_gradient=steps == 1 and header.rule == "unknown" and not header.secure_aggregation)


def contradiction(header: CaptureHeader, rule: UpdateRule) -> str | None:
    """What the bundle's figures say that cannot be true under ``rule``; ``None`` if nothing."""
    one = rule.of if isinstance(rule, SummedClients) else rule
    if header.secure_aggregation and not isinstance(rule, SummedClients):
        return "which is a sum over several clients (secure aggregation)"
    if header.kind is UpdateKind.GRADIENT:
        return "which holds a gradient and no difference of weights" if isinstance(one, FedAvg) else None
    if not isinstance(one, FedAvg):
        return "which holds a difference of weights and no gradient"
    rate, steps = header.learning_rate, header.local_steps
    if rate is not None and not math.isclose(rate, one.lr, rel_tol=1e-6):
        return f"whose learning rate is {rate:g}"
    known = one.local_batch is None or header.batch_size is not None
    if steps is not None and known and steps != one.steps(header.batch_size):
        return f"whose client took {steps} local {'step' if steps == 1 else 'steps'}"
    return None


def _other_words(header: CaptureHeader, written: UpdateRule | None, stated: UpdateRule) -> str | None:
    if written is not None:
        return None if written == stated else f"whose rule is {written.name}"
    one = stated.of if isinstance(stated, SummedClients) else stated
    fitting = _optimizers(one) if isinstance(one, FedAvg) else ("fedsgd",) if isinstance(one, FedSGD) else ("dpsgd",)
    return None if header.rule in ("unknown", *fitting) else f"whose rule is {header.rule!r}"


def _optimizers(rule: FedAvg) -> tuple[str, ...]:
    """What :func:`seepage.federated.capture.rule_of` calls the rule's optimizer, and looser words."""
    extras = [name for name in ("momentum", "weight_decay") if getattr(rule, name)]
    word = "adam" if rule.optimizer is Optimizer.ADAM else "sgd"
    return ("fedavg", f"{word} with {', '.join(extras)}" if extras else word)


def _written(header: CaptureHeader) -> UpdateRule | None:
    """The header's rule where it is written out with its options."""
    if ":" not in header.rule:
        return None
    try:
        rule = build_rule(header.rule)
    except InputError:  # words of somebody else's
        return None
    one = rule.of if isinstance(rule, SummedClients) else rule
    endless = isinstance(one, FedAvg) and one.steps(header.batch_size) > _MOST_STEPS
    return None if endless else rule

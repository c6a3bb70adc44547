"""What the server sees, and what it knows besides."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from seepage.errors import InputError
from seepage.types.client import GradientUpdate, PrivateBatch
from seepage.types.rules import UpdateRule

__all__ = [
    "Observation",
    "Round",
    "ThreatModel",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round as the server sees it.

    Args:
        network: the state that the server sent out; attacks call it with tensors of their own and never change it.
        update: what came back, as the estimate of a gradient where the server knows the rule.
        batch_size: the client's batch size, ``None`` when the server does not know it.
        labels: ``[b]`` in no particular order, ``None`` when the server does not know them.
        statistics: what came back of buffers (batch-norm statistics), before minus after; empty if withheld.
    """

    network: nn.Module
    update: GradientUpdate
    batch_size: int | None = None
    labels: Tensor | None = None
    statistics: GradientUpdate = field(default_factory=lambda: GradientUpdate({}))

    @property
    def known_size(self) -> int | None:
        """The batch size as far as the server knows it, be it from the labels."""
        return self.batch_size if self.labels is None else len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that an honest-but-curious server has, and all that an attack gets.

    Args:
        rounds: one or more rounds of one client, oldest first.
        input_shape: the shape of one input, for example ``(3, 32, 32)``.
        classes: how many classes the network tells apart.
        rule: the client's rule where the server knows it, else ``None``. The loss is mean cross-entropy.
        bounds: lowest and highest possible value of each input entry, each broadcastable to ``input_shape``.
    """

    rounds: tuple[Round, ...]
    input_shape: tuple[int, ...]
    classes: int
    rule: UpdateRule | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.rounds:
            raise InputError("`rounds` should hold at least one round; found none.")

    @property
    def latest(self) -> Round:
        """The most recent round."""
        return self.rounds[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """What the server knows besides the network and the update: the one place where knowledge is granted.

    Args:
        batch_size: whether the client announces its batch size.
        labels: whether the server knows the labels (in no order).
        rule: whether the server knows the client's training rule.
        bounds: whether the server knows the range of valid inputs.
    """

    batch_size: bool = False
    labels: bool = False
    rule: bool = True
    bounds: bool = True

    @property
    def name(self) -> str:
        """How it is written in findings: ``honest-but-curious`` and what is granted besides."""
        granted = [word for word in ("batch_size", "labels", "rule", "bounds") if getattr(self, word)]
        return "honest-but-curious: " + (", ".join(granted) if granted else "update only")

    def view(
        self,
        *,
        network: nn.Module,
        update: GradientUpdate,
        batch: PrivateBatch,
        rule: UpdateRule,
        classes: int,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Observation:
        """What the server has of this round. Labels, if granted, are sorted: their order is not known.

        An update of a known rule is brought to the sign and scale of a gradient, which is what attacks work on.
        """
        known = len(batch) if self.batch_size else None
        buffers = {name for name, _ in network.named_buffers()}
        sent = update.only(update.keys() - buffers)
        return Observation(
            rounds=(
                Round(
                    network=network,
                    update=rule.as_gradient(sent, network=network, batch_size=known) if self.rule else sent,
                    batch_size=known,
                    labels=batch.labels.sort().values.clone() if self.labels else None,
                    statistics=update.only(buffers),
                ),
            ),
            input_shape=tuple(batch.inputs.shape[1:]),
            classes=classes,
            rule=rule if self.rule else None,
            bounds=bounds if self.bounds else None,
        )

"""Secure aggregation: several clients' updates, of which the server sees the sum alone."""

from dataclasses import dataclass, field

import torch
from torch import nn

from seepage.errors import InputError
from seepage.federated.client import demand
from seepage.federated.rules import FedSGD
from seepage.types import GradientUpdate, LocalTraining, NoisyRule, PrivateBatch, Traces, UpdateRule

__all__ = ["SummedClients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedClients:
    """The batch is what several clients hold together; each runs the rule on its own part, the server sees the sum.

    Parts are dealt in the order of the batch, as equal as can be. Each client's update weighs as its share of the
    examples, as FedAvg weighs, so that the sum of gradients is the gradient of the whole batch. A certificate speaks
    of the clients' examples together: whose they are stays open.

    Args:
        clients: how many, at least 1 and at most one an example.
        of: what each of them does.

    Reference:
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017.
    """

    clients: int = 2
    of: UpdateRule = field(default_factory=FedSGD)

    def __post_init__(self) -> None:
        demand("clients", self.clients, least=1)

    @property
    def name(self) -> str:
        """``sum:clients=4``, then ``,of=`` and the clients' rule unless it is ``fedsgd``; it takes all that follows."""
        return f"sum:clients={self.clients}" + ("" if self.of.name == "fedsgd" else f",of={self.of.name}")

    @property
    def is_gradient(self) -> bool:
        """As the clients' own rule: gradients weighted by the number of examples add up to a gradient."""
        return self.of.is_gradient

    @property
    def traces(self) -> Traces:
        """As the clients' own, but at the first layer alone: batch norm may run on each client's own statistics."""
        return Traces.NONE if self.of.traces is Traces.NONE else Traces.ALONG_THE_WAY

    def as_gradient(
        self, update: GradientUpdate, *, network: nn.Module, batch_size: int | None = None
    ) -> GradientUpdate:
        """As the clients' own rule has it for a client with the largest part."""
        part = None if batch_size is None else -(-batch_size // self.clients)
        return self.of.as_gradient(update, network=network, batch_size=part)

    def rounding(self, parameter: torch.Tensor, *, batch_size: int | None = None) -> float:
        """As the clients' own: at most that much, since errors of several clients average out."""
        part = None if batch_size is None else -(-batch_size // self.clients)
        return self.of.rounding(parameter, batch_size=part)

    def ended(
        self, start: torch.Tensor, estimate: torch.Tensor, *, batch_size: int | None = None
    ) -> torch.Tensor | None:
        """The weighted mean of where the clients ended, ``None`` if their rule does not move."""
        if not isinstance(self.of, LocalTraining):
            return None
        part = None if batch_size is None else -(-batch_size // self.clients)
        return self.of.ended(start, estimate, batch_size=part)

    def deviation(self, *, batch_size: int | None = None) -> float | None:
        """Of the sum of all clients' noises; zero if their rule adds none."""
        if not isinstance(self.of, NoisyRule):
            return 0.0
        one = self.of.deviation(batch_size=None if batch_size is None else batch_size // self.clients)
        return None if one is None else one / self.clients**0.5

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """The weighted sum.

        Raises:
            InputError: there are more clients than examples.
        """
        if self.clients > len(batch):
            raise InputError(f"`clients` should be at most the {len(batch)} examples of a batch; found {self.clients}.")
        total: dict[str, torch.Tensor] = {}
        parts = zip(batch.inputs.tensor_split(self.clients), batch.labels.tensor_split(self.clients), strict=True)
        for inputs, labels in parts:
            update = self.of(network, PrivateBatch(inputs=inputs, labels=labels), generator)
            share = len(labels) / len(batch)
            for name, value in update.items():
                total[name] = total[name] + share * value if name in total else share * value
        return GradientUpdate(total)

"""What a client does with its batch before anything is sent: one gradient. Other rules have files of their own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.federated.client import BatchNorm, chance, client_copy, statistics_change
from seepage.federated.wording import write
from seepage.types import GradientUpdate, PrivateBatch, Traces

__all__ = ["FedSGD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSGD:
    """One step on the whole batch: the client sends the gradient of the mean cross-entropy.

    The network is run in the mode it is in (training or evaluation), on a copy: its batch-norm statistics and
    gradients stay as they were. Dropout draws from the generator.

    Args:
        batch_norm: whether batch norm runs as sent, on the batch's statistics or on the running ones.
        statistics: whether the change of the running statistics (before minus after) is sent beside the gradient.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017.
    """

    batch_norm: BatchNorm = BatchNorm.AS_SENT
    statistics: bool = False

    @property
    def name(self) -> str:
        """``fedsgd``, with the options that are not at their default."""
        return write("fedsgd", self)

    @property
    def is_gradient(self) -> bool:
        """True: nothing but one gradient is sent."""
        return True

    @property
    def traces(self) -> Traces:
        """At the state sent out; of the first layer alone where batch norm does not run as it was sent."""
        return Traces.AT_START if self.batch_norm is BatchNorm.AS_SENT else Traces.ALONG_THE_WAY

    def as_gradient(
        self,
        update: GradientUpdate,
        *,
        network: nn.Module,  # noqa: ARG002
        batch_size: int | None = None,  # noqa: ARG002
    ) -> GradientUpdate:
        """The update itself."""
        return update

    def rounding(self, parameter: Tensor, *, batch_size: int | None = None) -> float:  # noqa: ARG002
        """Zero: nothing but gradients was rounded."""
        return 0.0

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """The gradient of every trainable parameter that the loss depends on, keyed as ``named_parameters()``."""
        return GradientUpdate(self._send(network, batch, generator))

    def _send(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """What is sent; the client's copy of the network is gone at the end."""
        client = client_copy(network, self.batch_norm)
        trainable = {name: value for name, value in client.named_parameters() if value.requires_grad}
        with chance(generator):
            loss = cross_entropy(client(batch.inputs), batch.labels)
            gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        sent = {name: value for name, value in zip(trainable, gradients, strict=True) if value is not None}
        return {**sent, **(statistics_change(network, client) if self.statistics else {})}

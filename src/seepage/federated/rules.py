"""What a client does with its batch before anything is sent."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.types import GradientUpdate, PrivateBatch

__all__ = ["FedSGD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSGD:
    """One step on the whole batch: the client sends the gradient of the mean cross-entropy.

    The network is run in the mode it is in (training or evaluation), on a copy: its batch-norm statistics and
    gradients stay as they were. Dropout draws from the generator.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017.
    """

    @property
    def name(self) -> str:
        """``fedsgd``."""
        return "fedsgd"

    @property
    def is_gradient(self) -> bool:
        """True: nothing but one gradient is sent."""
        return True

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """The gradient of every trainable parameter that the loss depends on, keyed as ``named_parameters()``."""
        client = copy.deepcopy(network)
        trainable = {name: value for name, value in client.named_parameters() if value.requires_grad}
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            loss = cross_entropy(client(batch.inputs), batch.labels)
            gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        return GradientUpdate(
            {name: value for name, value in zip(trainable, gradients, strict=True) if value is not None}
        )

"""A copy of the audited network that can be run again and again without side effects."""

import copy
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["ClientCopy", "Moments", "client_copy"]

Moments = tuple[Tensor, Tensor]
"""Running mean and variance ``[c]`` of a batch-norm layer."""


class ClientCopy:
    """The network in the client's mode, without dropout and without running statistics to write.

    Args:
        network: a copy, free to be run.
        moments: what its batch-norm layers had gathered, by path.
    """

    __slots__ = ("moments", "network")

    def __init__(self, network: nn.Module, moments: Mapping[str, Moments]) -> None:
        self.network = network
        self.moments = MappingProxyType(dict(moments))


def client_copy(network: nn.Module, *, batch_norm_trains: bool | None = None) -> ClientCopy:
    """Copies the network, which is left as it is; its batch norms in the mode asked for, ``None``: as sent."""
    own = copy.deepcopy(network)
    moments: dict[str, Moments] = {}
    for parameter in own.parameters():
        parameter.grad = None
    for path, module in own.named_modules():
        if isinstance(module, _DropoutNd):
            module.eval()  # which entries the client dropped is not known
        if isinstance(module, _BatchNorm) and batch_norm_trains is not None:
            module.train(batch_norm_trains)
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            moments[path] = (module.running_mean.clone(), module.running_var.clone())
            if module.training:  # the batch's own statistics count; the running ones must not be written
                module.running_mean, module.running_var, module.num_batches_tracked = None, None, None
    return ClientCopy(own, moments)

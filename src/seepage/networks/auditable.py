"""Which of a user's networks can be audited, said before anything runs; and what wrappers of torch hold."""

import copy

from torch import nn

from seepage.errors import InputError

__all__ = ["auditable", "unwrapped"]

_COMPILED = "OptimizedModule"  # by name: torch's own module for it takes a second to import
_ON_SEVERAL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network within ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``: the same parameters under
    their own names, as the server has them.
    """
    while isinstance(network, _ON_SEVERAL) or type(network).__name__ == _COMPILED:
        inner = network.module if isinstance(network, _ON_SEVERAL) else network._orig_mod
        if not isinstance(inner, nn.Module):
            break
        network = inner
    return network


def auditable(network: nn.Module) -> nn.Module:
    """The network without the wrapper of ``torch.compile``, which computes the same and is slow to follow.

    Raises:
        InputError: its parameters are lazy, without numbers (``meta``) or complex; it is wrapped for several devices,
            so that each would see a part of the batch; or it cannot be copied.
    """
    inner = network._orig_mod if type(network).__name__ == _COMPILED else network
    if not isinstance(inner, nn.Module):
        raise InputError(f"`network` should be a torch.nn.Module; found {type(inner).__name__}.")
    for name, parameter in inner.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError("`network` should have all its parameters; found lazy ones: call it on a batch first.")
        if parameter.is_meta:
            raise InputError(f"`network` should have numbers in its parameters; found `{name}` on the meta device.")
        if parameter.is_complex():
            raise InputError(f"`network` should have real parameters; found `{name}` of {parameter.dtype}.")
    for path, module in inner.named_modules():
        if isinstance(module, _ON_SEVERAL):
            where = f" at `{path}`" if path else ""
            raise InputError(
                f"`network` should be the network on one device, `.module` of its wrapper; found "
                f"{type(module).__name__}{where}."
            )
    try:
        copy.deepcopy(inner)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"`network` should be copyable, since it is left as it is; found: {reason}.") from error
    return inner

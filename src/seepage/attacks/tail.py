"""The audited network from the outputs of one layer on, which is cheaper to run than all of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from seepage.attacks.attackedlayer import AttackedLayer
from seepage.types import Observation

__all__ = ["Tail"]


class Tail:
    """Logits, and the inputs of some later layers, as functions of one example's outputs at a layer; float64.

    Runs under ``vmap``, ``jacfwd`` and ``jacrev``. The layer itself does not run: its weights, most of the network's,
    are neither copied nor used.

    Args:
        observation: its latest round gives the network.
        layer: whose outputs are given.
        later: paths of modules, called once each, whose inputs are wanted.

    Raises:
        ValueError: one of them is no module of the network.
    """

    def __init__(self, observation: Observation, layer: AttackedLayer, later: Sequence[str]) -> None:
        self.network = observation.latest.network
        modules = dict(self.network.named_modules())
        if missing := [name for name in (layer.name, *later) if name not in modules]:
            raise ValueError(f"`later` should name modules of the network; found {', '.join(missing)}.")
        self.module, self.later = modules[layer.name], [modules[name] for name in later]
        state = (*self.network.named_parameters(), *self.network.named_buffers())
        own = {id(value) for value in self.module.parameters()}
        self.state = {
            name: value.detach().double() if value.is_floating_point() and id(value) not in own else value.detach()
            for name, value in state
        }
        self.nothing = torch.zeros(1, *observation.input_shape, dtype=layer.weight.dtype, device=layer.weight.device)

    def __call__(self, outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[m]`` to logits ``[C]`` and the inputs ``[w]`` of each later layer.

        Raises:
            RuntimeError: the network cannot be run on one example.
        """
        seen: list[Tensor] = []
        handles = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for module in self.later]
        try:
            with _answering(self.module, outputs[None].clone()):
                logits = functional_call(self.network, self.state, (self.nothing,))
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) != len(self.later):
            raise RuntimeError("a later layer is not called once")
        return logits.flatten(), [value.flatten() for value in seen]

    def errors(self, outputs: Tensor) -> Tensor:
        """``[m]`` to the error there, of cross-entropy, for each label: ``[C, m]``."""

        def twice(z: Tensor) -> tuple[Tensor, Tensor]:
            logits, _ = self(z)
            return logits, logits

        slopes, logits = jacrev(twice, has_aux=True)(outputs)  # [C, m], [C]
        every: Tensor = nn.functional.softmax(logits, dim=0) @ slopes - slopes
        return every


@contextmanager
def _answering(module: nn.Module, answer: Tensor) -> Iterator[None]:
    """``module`` answers whatever it is called on with ``answer``, and does not run."""
    own = vars(module)
    before = own.get("forward")
    own["forward"] = lambda *_, **__: answer
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before

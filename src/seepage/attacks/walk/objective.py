"""The gradient that a candidate batch would have sent, and its distance from what was sent."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from seepage.attacks.walk.distances import Distance
from seepage.attacks.walk.priors import Candidate, Prior, Statistics
from seepage.attacks.walk.unrolling import Unrolled, better_order, steps_of, unrolled
from seepage.networks.calling import call_with
from seepage.networks.clientcopy import Moments, client_copy
from seepage.types import Observation

__all__ = ["Objective", "make_objective", "twice_differentiable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A function of candidates: made by :func:`make_objective`.

    Args:
        network: a copy of the network in the client's mode, without dropout and without side effects.
        parameters: those whose gradients were sent, of the copy.
        target: what was sent, in the same order.
        distance: of gradients.
        priors: added with the weight that the caller gives.
        bounds: valid range of inputs, ``None`` where the server does not know it.
        moments: of the copy's batch-norm layers, by path.
        unrolled: the client's local steps, ``None`` where one gradient was sent.
    """

    network: nn.Module
    parameters: dict[str, Tensor]
    target: tuple[Tensor, ...]
    distance: Distance
    priors: tuple[Prior, ...]
    bounds: tuple[Tensor, Tensor] | None
    moments: dict[str, Moments]
    unrolled: Unrolled | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and sum of the priors, one each for every start.

        Args:
            inputs: ``[s, b, *shape]``.
            labels: ``[s, b]`` classes, or ``[s, b, C]`` probabilities.

        Returns:
            ``[s]`` and ``[s]``.
        """
        if len(inputs) == 1:  # no vmap: half the time for a small network
            distance, prior = self._one(inputs[0], labels[0], self._gradients)
            return distance[None], prior[None]
        function = lambda x, y: self._one(x, y, self._gradients_to_batch)  # noqa: E731 - vmap wants a function
        both: tuple[Tensor, Tensor] = torch.vmap(function, randomness="different")(inputs, labels)
        return both

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """One gradient at the state sent out, for ``inputs [b, *shape]`` and ``labels [b]``."""
        return self._gradients(self.parameters, inputs, labels, [])

    def sent(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """What the client would have sent for ``inputs [b, *shape]`` and ``labels [b]``: its local steps taken."""
        return self._sent(inputs, labels, self._gradients, [])

    def reordered(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> "Objective":
        """With the order of local batches that suits ``inputs [b, *shape]``; itself where none suits better."""
        if self.unrolled is None:
            return self

        def distance(steps: Unrolled) -> float:
            own = replace(self, unrolled=steps, priors=())
            return float(own(inputs[None], labels[None])[0].detach())

        steps = better_order(self.unrolled, len(inputs), distance, generator)
        return self if steps is self.unrolled else replace(self, unrolled=steps)

    def shuffled(self, examples: int, generator: torch.Generator) -> "Objective":
        """With any order of local batches; itself where one gradient was sent."""
        return self if self.unrolled is None else replace(self, unrolled=self.unrolled.shuffled(examples, generator))

    def residual(self, inputs: Tensor, labels: Tensor) -> float:
        """Relative Euclidean distance of what is sent: 0 is a perfect match, 1 is as good as sending nothing."""
        with torch.enable_grad():
            candidate = self.sent(inputs.detach(), labels.detach())
        both = [(c.detach().double(), t.double()) for c, t in zip(candidate, self.target, strict=True)]
        apart = sum(float((c - t).square().sum()) for c, t in both)
        return float((apart / max(1e-300, sum(float(t.square().sum()) for _, t in both))) ** 0.5)

    def _one(self, inputs: Tensor, labels: Tensor, gradients: "_Gradients") -> tuple[Tensor, Tensor]:
        seen: list[Statistics] = []
        distance = self.distance(self._sent(inputs, labels, gradients, seen), self.target)
        candidate = Candidate(inputs=inputs, bounds=self.bounds, statistics=seen)
        return distance, sum((prior(candidate) for prior in self.priors), inputs.new_zeros(()))

    def _sent(
        self, inputs: Tensor, labels: Tensor, gradients: "_Gradients", seen: list[Statistics]
    ) -> tuple[Tensor, ...]:
        if self.unrolled is None:
            return gradients(self.parameters, inputs, labels, seen)
        return self.unrolled(lambda at, x, y: gradients(at, x, y, seen), inputs, labels)

    def _gradients(
        self, parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor, seen: list[Statistics]
    ) -> tuple[Tensor, ...]:
        with self._watching(seen):
            own = parameters is self.parameters  # then the network is called as it is, which is quicker
            said = self.network(inputs) if own else call_with(self.network, parameters, inputs)
            loss = cross_entropy(said, labels)
        found = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
        return tuple(found)

    def _gradients_to_batch(
        self, parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor, seen: list[Statistics]
    ) -> tuple[Tensor, ...]:
        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
            passed: list[Statistics] = []
            with self._watching(passed):
                value = cross_entropy(call_with(self.network, parameters, inputs), labels)
            return value, [(each.entering, each.mean, each.variance) for each in passed]

        found, passed = torch.func.grad(loss, has_aux=True)(parameters)
        seen += [Statistics(entering=x, mean=mean, variance=variance) for x, mean, variance in passed]
        return tuple(found.values())

    def _watching(self, seen: list[Statistics]) -> "_Watching":
        return _Watching(self.network, self.moments if self.priors else {}, seen)


_Gradients = Callable[[dict[str, Tensor], Tensor, Tensor, list[Statistics]], tuple[Tensor, ...]]


def make_objective(
    observation: Observation, *, distance: Distance, priors: Sequence[Prior], dtype: torch.dtype | None = None
) -> Objective:
    """The objective for the latest round, which is left as it is; local steps of a known rule are taken again.

    Args:
        observation: what the server has; its update should hold at least one parameter of the network.
        distance: of gradients.
        priors: added terms.
        dtype: to compute in; the update's, at least single precision, if ``None``.
    """
    latest = observation.latest
    dtype = dtype or torch.promote_types(next(iter(latest.update.values())).dtype, torch.float32)
    steps = steps_of(observation, 1)
    client = client_copy(latest.network, batch_norm_trains=None if steps is None else steps.batch_norm_trains)
    network = client.network.to(dtype)
    parameters: dict[str, Tensor] = {name: value for name, value in network.named_parameters() if name in latest.update}
    for value in parameters.values():
        value.requires_grad_()  # its gradient was sent, even if the server's copy is frozen
    trained: dict[str, Tensor] = {name: value for name, value in network.named_parameters() if value.requires_grad}
    bounds = observation.bounds
    return Objective(
        network=network,
        parameters=parameters,
        target=tuple(latest.update[name].to(dtype) for name in parameters),
        distance=distance,
        priors=tuple(priors),
        bounds=None if bounds is None else (bounds[0].to(dtype), bounds[1].to(dtype)),
        moments={path: (mean.to(dtype), variance.to(dtype)) for path, (mean, variance) in client.moments.items()},
        unrolled=unrolled(observation, trained, tuple(parameters)),
    )


def twice_differentiable() -> AbstractContextManager[None]:
    """Within it, attention has second derivatives: the fast kernels have none."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


class _Watching:
    """Notes what enters each batch-norm layer while the network runs."""

    def __init__(self, network: nn.Module, moments: dict[str, Moments], seen: list[Statistics]) -> None:
        self._places = [(network.get_submodule(path), *both) for path, both in moments.items()]
        self._seen = seen
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for module, mean, variance in self._places:
            self._handles.append(module.register_forward_pre_hook(self._note(mean, variance)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, mean: Tensor, variance: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: self._seen.append(Statistics(entering=given[0], mean=mean, variance=variance))

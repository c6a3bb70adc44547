"""The exact attack that fits: SPEAR, SPEAR++ or PRISM, chosen from the batch size, the layer and the kind of input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from seepage.attacks.directions import Found, Proposals
from seepage.attacks.disaggregation import Budget, invert_layer
from seepage.attacks.mixture import Mixture
from seepage.attacks.prism import PRISM
from seepage.attacks.relulayer import ReLULayer, find_relu_layer
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import LEAST_SHARE, PATIENCE, SPEARPlusPlus
from seepage.types import Observation, Obstacle, Progress, Reconstruction, go_on

__all__ = ["Auto", "choose_attack"]

_FEW = 8  # examples up to which SPEAR is through at its first draws (benchmarks/results/spearpp.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """Looks at the rank of the gradient first, then runs the attack that :func:`choose_attack` names.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        budget: when to stop without a certificate.
    """

    layer: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(seconds=600.0))

    @property
    def name(self) -> str:
        """``auto``."""
        return "auto"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Why no layer of the network fits; empty if one does."""
        layer = find_relu_layer(observation, self.layer)
        return [] if isinstance(layer, ReLULayer) else layer

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """What the chosen attack returns; ``stats`` say which it was (``chosen``) and why (``because``)."""
        choice: list[tuple[str, str]] = []

        def propose(mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
            shape = observation.input_shape if mixture.layer.reads_input else ()
            attack, because = choose_attack(mixture.batch_size, shape, noisy=mixture.noisy)
            choice.append((attack, because))
            proposers = {"spear": SPEAR().propose, "spearpp": SPEARPlusPlus().propose}
            return proposers.get(attack, PRISM().proposer(observation))(mixture, found, generator)

        result = invert_layer(
            observation,
            propose,
            layer=self.layer,
            least_share=lambda _: LEAST_SHARE,
            budget=self.budget,
            generator=generator,
            progress=progress,
            patience=PATIENCE,
        )
        if not choice:  # the gradient could not be factored: nothing was run
            return result
        attack, because = choice[0]
        return replace(result, stats={**result.stats, "chosen": attack, "because": because})


def choose_attack(batch_size: int, shape: tuple[int, ...], *, noisy: bool = False) -> tuple[str, str]:
    """Name of the attack to run, and why.

    Args:
        batch_size: rank of the layer's gradient.
        shape: of one input, ``()`` if the layer's inputs are not the network's.
        noisy: whether the gradient carries noise above rounding.
    """
    if batch_size <= _FEW and not noisy:  # a direction through a few noisy units is off by as much as they are
        return "spear", f"{batch_size} examples are found at once by sampling"
    if len(shape) > 1:
        return "prism", "images and signals can be unmixed by their derivatives"
    return "spearpp", "inputs without neighbours have no image prior: the zeros of the layer have to do"

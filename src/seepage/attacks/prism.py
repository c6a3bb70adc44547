"""PRISM: inputs and directions found together, unmixed or coupled, rounded, deflated. Seepage's own attack."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, product, zip_longest

import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_layer, find_relu_layer
from seepage.attacks.disaggregation.coupled import CoupledSearch
from seepage.attacks.disaggregation.expectederrors import expected_errors
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.layerattack import LayerAttack
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.portfolio import Arm, InTurn, take_turns
from seepage.attacks.disaggregation.spans import Spans, read_spans
from seepage.attacks.disaggregation.spansearch import Guess, SpanSearch, random_guesses
from seepage.attacks.disaggregation.unmixing import Continued, Unmixing
from seepage.attacks.spear import NullSampling
from seepage.attacks.spearpp import (
    SEARCHES,
    Completion,
    Search,
    SphereSearch,
    small_batch_arms,
)
from seepage.linalg.coupling import Coupling
from seepage.linalg.filters import FILTER_BANKS, FilterBank
from seepage.linalg.ica import Contrast, ScaleMixture, SoftSign
from seepage.types import Observation, Obstacle

__all__ = ["COUPLINGS", "PRISM"]

# The second lets runs pass nearer to what is found, for batches whose examples are much alike (8 x 8 digits).
COUPLINGS = (Coupling(), Coupling(spike=(0.7, 0.02), nearest=(0.6, 0.8)))

_EASY = 9.0  # units an example above which the sphere search goes first (benchmarks/results/side-by-side.md)
_LEAST, _SMALL = 2.5, 64  # units an example below which zeros determine few, and examples beyond which trying is dear
_CONTINUED = 3  # kinds of unmixed guesses that spans move
_INPUTS = 16  # of each example: with fewer, pixels hardly tell the examples apart
_ENOUGH = 3.5  # units an example that coupling needs


@dataclass(frozen=True, slots=True, kw_only=True)
class PRISM(LayerAttack):
    """Exact batches at two to five units an example: the zeros of a ReLU layer are where its input switches units off.

    The row space of the gradient holds the batch, mixed by an unknown matrix. *Coupled* runs look for a direction and
    the input behind it at once; each shows what the other is like. *Unmixing* proposes images: their derivatives are
    sparse, and a derivative commutes with mixing; the units that a rough image switches off determine its direction.
    *Spans* move rough inputs until what they leave in later layers lies in the row spaces of those gradients.
    Directions found shrink what is left, exactly. These and sphere searches (SPEAR++) take turns by what they find.
    Where no layer goes into a ReLU, spans alone find the inputs of the first one, whatever its activation.
    Inputs without neighbourhood (tables) and inner layers cannot be unmixed; the rest asks nothing of them.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        filters: tried in turn.
        contrasts: tried in turn.
        couplings: tried in turn.
        searches: of the sphere.
        samples: of filtered pixels that unmixing uses at most.
        spans: whether the gradients of later layers are used, where the update has them.
        budget: when to stop without a certificate; a sample is one start or one guess.

    Reference:
        docs/attacks/prism.md. Unmixing the row space: Kariyappa et al., Cocktail Party Attack, ICML 2023.
    """

    filters: tuple[FilterBank, ...] = FILTER_BANKS
    contrasts: tuple[Contrast, ...] = (ScaleMixture(), SoftSign())
    couplings: tuple[Coupling, ...] = COUPLINGS
    searches: tuple[Search, ...] = SEARCHES
    samples: int = 32_768
    spans: bool = True
    budget: Budget = field(default_factory=lambda: Budget(samples=400_000, seconds=600.0))

    def __post_init__(self) -> None:
        if not (self.filters or self.couplings or self.searches):
            raise ValueError("`filters`, `couplings` or `searches` should name a way to propose; found none.")
        if self.samples < 1:
            raise ValueError(f"`samples` should be at least 1; found {self.samples}.")

    @property
    def name(self) -> str:
        """``prism``."""
        return "prism"

    def find_layer(self, observation: Observation, name: str | None) -> AttackedLayer | list[Obstacle]:
        """A layer that goes into a ReLU, or else the first, whose inputs later layers tell apart."""
        return (find_layer if self.spans else find_relu_layer)(observation, name)

    def proposer(self, observation: Observation) -> Proposer:
        """The way of proposing that fits the inputs of this observation."""

        def propose(mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
            shape = observation.input_shape if mixture.layer.reads_input else ()
            expected = None
            if self.couplings and mixture.layer.relu:
                awake = mixture.awake
                expected = expected_errors(observation, mixture.layer.read, awake=awake, generator=generator)
            spans = cache(partial(read_spans, observation, mixture, generator))
            arms = self._arms(mixture, shape, expected, spans)
            return take_turns(arms, mixture, found, generator)

        return propose

    def _arms(
        self,
        mixture: Mixture,
        shape: tuple[int, ...],
        expected: Tensor | None,
        spans: Callable[[], Spans | None],
    ) -> list[Arm]:
        moved = self._moved(shape, spans)
        if not mixture.layer.relu:
            return [*([NullSampling()] if mixture.batch_size == 1 else []), *moved]
        sphere: list[Arm] = [SphereSearch(search=search) for search in self.searches]
        coupled: list[Arm] = [CoupledSearch(expected=expected, descent=descent) for descent in self.couplings]
        unmixing = self._unmixing(shape)
        few_enough = mixture.layer.weight.shape[1] // _INPUTS
        examples, units = mixture.batch_size, len(mixture.white)
        kinds: list[Sequence[Arm]] = [unmixing, coupled, sphere]
        if units >= _EASY * examples:
            kinds = [sphere, unmixing, coupled]
        elif unmixing and coupled and examples > max(few_enough, _SMALL):
            kinds = [[InTurn(early=coupled[0], late=unmixing[0], most=few_enough)], unmixing, coupled, sphere]
        late: Sequence[Arm] = coupled if unmixing and units < _ENOUGH * examples else []
        turns = chain(*zip_longest(*(kind for kind in kinds if kind is not late)), late)
        arms = [arm for arm in turns if arm is not None]
        few = small_batch_arms(mixture)
        if not moved or (examples > _SMALL and units >= _ENOUGH * examples):
            return [*arms[:1], *few, *arms[1:], Completion(), *moved]
        if examples > _SMALL and spans() is not None:  # too few zeros for some, below ``_LEAST`` for nearly all
            return [*moved, *(arms if units >= _LEAST * examples else []), Completion()]
        doubting = self._moved(shape, spans, doubting=True)
        return [*arms[:1], *few, *moved, *doubting, *arms[1:], Completion()]

    def _moved(
        self, shape: tuple[int, ...], spans: Callable[[], Spans | None], *, doubting: bool = False
    ) -> list[SpanSearch]:
        unmixed = [Continued(way=way) for way in self._unmixing(shape)[:_CONTINUED]]
        guesses: list[Guess] = [*unmixed, random_guesses] if self.spans else []
        return [SpanSearch(spans=spans, guess=guess, doubting=doubting) for guess in guesses]

    def _unmixing(self, shape: tuple[int, ...]) -> list[Unmixing]:
        if len(shape) < 2:
            return []
        ways = product(self.contrasts, self.filters)
        return [Unmixing(bank=bank, contrast=contrast, shape=shape, samples=self.samples) for contrast, bank in ways]

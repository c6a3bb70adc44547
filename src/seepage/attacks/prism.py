"""PRISM: inputs and directions found together, unmixed or coupled, rounded, deflated. Seepage's own attack."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, product, zip_longest

import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_layer, find_relu_layer
from seepage.attacks.disaggregation.coupled import CoupledSearch
from seepage.attacks.disaggregation.directions import round_either, round_ends, round_roughly
from seepage.attacks.disaggregation.expectederrors import expected_errors
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.layerattack import LayerAttack
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.portfolio import Arm, take_turns
from seepage.attacks.disaggregation.spans import Spans, SpanSearch, random_guesses, read_spans
from seepage.attacks.spear import NullSampling
from seepage.attacks.spearpp import (
    SEARCHES,
    Completion,
    Search,
    SphereSearch,
    small_batch_arms,
)
from seepage.linalg.coupling import Coupling
from seepage.linalg.dictionary import LogCosh, sparse_directions
from seepage.linalg.filters import FILTER_BANKS, FilterBank
from seepage.linalg.ica import Contrast, SoftSign, Tanh, unmix
from seepage.linalg.nullspace import merge_directions, zero_mask
from seepage.linalg.sphere import RiemannianAdam
from seepage.types import Observation, Obstacle

__all__ = ["COUPLINGS", "PRISM", "Unmixing"]

# The second lets runs pass nearer to what is found, for batches whose examples are much alike (8 x 8 digits).
COUPLINGS = (Coupling(), Coupling(spike=(0.7, 0.02), nearest=(0.6, 0.8)))

_POLISH = Search(loss=LogCosh(start=0.3), optimizer=RiemannianAdam(steps=150, step_size=0.07))
_ROBUST_BELOW = 9.0  # units an example: with fewer, guesses are also rounded by the robust kernel, which costs more;
_FEW = 128  # so are the guesses of a turn that has no more,
_PLENTY = 64  # but not where the descent alone found as many
_SAME = 1 - 1e-6  # cosine of copies
_EASY = 9.0  # units an example above which the sphere search goes first (benchmarks/results/side-by-side.md)
_MANY, _ENOUGH = 150, 3.5  # examples from which unmixing is late (too few pixels), and units each that coupling needs
_ROWS_AT_ONCE = 32  # mixtures filtered at a time


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
    contrasts: tuple[Contrast, ...] = (SoftSign(), Tanh())
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
        guesses = [*(arm.first_guess for arm in self._unmixing(shape)[:1]), random_guesses] if self.spans else []
        moved = [SpanSearch(spans=spans, guess=guess) for guess in guesses]
        if not mixture.layer.relu:
            return [*([NullSampling()] if mixture.batch_size == 1 else []), *moved]
        sphere: list[Arm] = [SphereSearch(search=search) for search in self.searches]
        coupled: list[Arm] = [CoupledSearch(expected=expected, descent=descent) for descent in self.couplings]
        unmixing = self._unmixing(shape)
        examples, units = mixture.batch_size, len(mixture.white)
        kinds: list[Sequence[Arm]] = [unmixing, coupled, sphere]
        if units >= _EASY * examples:
            kinds = [sphere, unmixing, coupled]
        elif examples >= _MANY and _ENOUGH * examples <= units < _ROBUST_BELOW * examples:
            kinds = [coupled, unmixing, sphere]
        late: Sequence[Arm] = coupled if unmixing and units < _ENOUGH * examples else []
        turns = chain(*zip_longest(*(kind for kind in kinds if kind is not late)), late)
        arms = [arm for arm in turns if arm is not None]
        if units < _ENOUGH * examples:  # too few zeros for all examples
            return [*arms[:1], *small_batch_arms(mixture), *moved, *arms[1:], Completion()]
        return [*arms[:1], *small_batch_arms(mixture), *arms[1:], Completion(), *moved]

    def _unmixing(self, shape: tuple[int, ...]) -> "list[Unmixing]":
        if len(shape) < 2:
            return []
        ways = product(self.contrasts, self.filters)
        return [Unmixing(bank=bank, contrast=contrast, shape=shape, samples=self.samples) for contrast, bank in ways]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmixing:
    """One arm: the mixture that is left, filtered and unmixed; both signs of each guess, rounded.

    Args:
        bank: makes the inputs sparse.
        contrast: tells them from mixtures.
        shape: of one input.
        samples: of filtered pixels at most, drawn anew each turn.
    """

    bank: FilterBank
    contrast: Contrast
    shape: tuple[int, ...]
    samples: int

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; unmixing takes ``effort`` times as many steps."""
        guesses = self.guess(mixture, found, generator, steps=60 * effort)
        rough = round_roughly(mixture, torch.cat([guesses, -guesses]))
        ends = sparse_directions(mixture.white, rough, loss=_POLISH.loss, optimizer=_POLISH.optimizer)
        directions = round_ends(mixture, found, ends)
        b, k = mixture.batch_size, len(rough)
        polish = 2.0 * k * mixture.white.numel() * _POLISH.optimizer.steps
        kernels = 2.0 * k * mixture.L.numel() * b
        tight = len(mixture.L) < _ROBUST_BELOW * b
        if (tight or k <= _FEW) and _count_new(mixture, found, directions) < _PLENTY:
            directions = torch.cat([directions, round_either(mixture, guesses)])
            kernels *= 6
        return Proposals(
            directions=directions, cost=k, work=0.25 * k**2 * self.samples * 60 * effort + polish + kernels
        )

    def guess(self, mixture: Mixture, found: Found, generator: torch.Generator, *, steps: int) -> Tensor:
        """Rough inputs ``[k, b]`` (as ``p`` of ``x = right^T p``) of the ``k`` examples not found yet, up to sign."""
        basis = mixture.missing(found.directions)  # [k, b]
        images = basis.float() @ mixture.factors.right.float()  # [k, n]
        first = self.bank(images[:1], self.shape)
        if first is None:  # no stencil fits into an input this small
            return basis[:0]
        columns = torch.randperm(first.shape[1], generator=generator, device=generator.device)[: self.samples]
        filtered = torch.cat([self._filtered(part, columns) for part in torch.split(images, _ROWS_AT_ONCE)])
        weights = unmix(filtered, contrast=self.contrast, generator=generator, steps=steps)
        guesses = weights.double() @ basis
        size = math.sqrt(mixture.layer.weight.shape[1])  # of normalised inputs; only the bias minds
        scaled: Tensor = guesses * (size / guesses.norm(dim=1, keepdim=True).clamp_min(1e-300))
        return scaled

    def first_guess(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Tensor:
        """As :meth:`guess`, in as many steps as a first turn takes."""
        return self.guess(mixture, found, generator, steps=60)

    def _filtered(self, images: Tensor, columns: Tensor) -> Tensor:
        answers = self.bank(images, self.shape)
        assert answers is not None  # it fitted the first image
        chosen: Tensor = answers[:, columns.to(answers.device)]
        return chosen


def _count_new(mixture: Mixture, found: Found, directions: Tensor) -> int:
    """How many different ones of ``directions [k, b]`` vanish on enough units and are not found yet."""
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.loose_tol).sum(dim=1)
    new = merge_directions(directions[zeros >= mixture.least_zeros], found.directions, coherence=_SAME)
    return int(new.sum())

"""ExactLabels: every label, every embedding and the batch size itself, from the rank of the last layer's gradient."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.clippedrules import clips_only, moves
from seepage.attacks.labels.exact.balancedlabels import RestoredExamples, from_balanced, with_balanced
from seepage.attacks.labels.exact.balancedsearch import MOST_EXAMPLES, Searching
from seepage.attacks.labels.exact.layerbefore import with_layer_before
from seepage.attacks.labels.exact.reading import read_pencil
from seepage.attacks.labels.exact.report import reported
from seepage.attacks.labels.exact.search import Search
from seepage.attacks.labels.exact.terms import Pencil, Terms, offsets, remainder
from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelcounts import round_counts
from seepage.attacks.labels.lastlayer import LastLayer, label_obstacles
from seepage.types import NoisyRule, Observation, Obstacle, Progress, Reconstruction, go_on

__all__ = ["ExactLabels", "RestoredExamples", "restore_examples"]

_ROUNDING = 10.0  # rounding units of a gradient's size that its own rounding has as singular value, at most
_PATIENCE = 3  # rounds without success before a search ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactLabels(LabelAttack):
    """Restores each example's label and embedding for K up to about C/2, at any stage of training.

    An example is a root ``(e, c)`` of ``softmax(W e + b) - onehot(c) in span(U)``, ``e in span(V)``, with U, V the
    singular spaces of ``[gW gb]``: ``C - 1 - K`` equations, ``K - 1`` unknowns. Each root found takes a dimension from
    both spaces, so the search goes past C/2 when it begins well. Roots are then refined together. Certified only if the
    terms reproduce the gradient to its rounding, each far above what is left. Needs one batch with hard labels, or
    with one share of label smoothing for all, which is an unknown like the rest and named only if it proves them all.

    Where that does not restore the whole batch, the gradient's rows and columns are balanced first (``balanced``),
    which shows examples that the network fits all but perfectly. There every example's error as the gradient has it is
    held against its softmax. This needs a bias and knows of no scale, so it serves clipped examples (DP-SGD without
    noise) as well. Where that is no proof either, the layer before the last may give each example entries of its own
    (``layerbefore``), which name labels and certify none. Under noise of known size the first search is tried while
    every example stays above it, and nothing is certified; clipped examples are not found there.

    Args:
        rounds: rounds of search; each starts from the classes that the remainder still shows.
        starts: random starts in a round that follows one without success.
        steps: Levenberg-Marquardt steps of one search.
        reach: not tried where the rank exceeds this share of the classes.
        precision: certify only below so many times the gradient's own floor.
    """

    rounds: int = 12
    starts: int = 200
    steps: int = 50
    reach: float = 0.75
    precision: float = 30.0

    def __post_init__(self) -> None:
        for word in ("rounds", "starts", "steps"):
            if getattr(self, word) < 1:
                raise ValueError(f"`{word}` should be at least 1; found {getattr(self, word)}.")
        if not 0 < self.reach <= 1:
            raise ValueError(f"`reach` should lie in (0, 1]; found {self.reach}.")
        if not self.precision > 0:
            raise ValueError(f"`precision` should be positive; found {self.precision}.")

    @property
    def name(self) -> str:
        """``exact-labels``."""
        return "exact-labels"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs one batch's gradient, with noise of known size at most; the batch size only where that tells it."""
        rule = observation.rule
        one_step = isinstance(rule, NoisyRule) and not moves(rule)
        noisy = isinstance(rule, NoisyRule) and one_step and rule.deviation() is None
        return label_obstacles(observation, bias=False, examples=noisy, gradient=not one_step)

    @property
    def divides_by_bias(self) -> bool:
        """The examples are told from the weights alone if need be."""
        return False

    def restored(self, question: Question) -> Reconstruction:
        """The examples found, and a count of the rest."""
        rule, layer = question.observation.rule, question.layer
        if clips_only(rule):
            return reported(layer, self._of_clipped(question), self.name)
        found = restore_examples(layer, self, generator=question.generator, progress=question.progress)
        if rule is None or rule.is_gradient:
            found = with_layer_before(question.observation, layer, found, generator=question.generator)
        if not isinstance(found, str) and (layer.deviation or not (rule is None or rule.is_gradient)):
            found = replace(found, certified=torch.zeros_like(found.certified))
        return reported(layer, found, self.name)

    def _of_clipped(self, question: Question) -> RestoredExamples | str:
        """From the balanced gradient; where that has no end, what the gradient as it is says of a known batch size."""
        layer, generator, progress = question.layer, question.generator, question.progress
        found = from_balanced(layer, self.searching, generator=generator, clipped=True, progress=progress)
        sized = layer.examples is not None
        if found is not None and (sized or bool(found.certified.all())):
            return replace(found, sized=sized)
        if not sized:
            return "Each example was scaled by a number of its own, which hides the batch size; the rank tells none."
        other = _as_it_is(layer, self, generator, progress, patience=_PATIENCE)
        if isinstance(other, str):
            return "Clipped examples are told apart by a last layer with bias, and while they are few."
        return replace(other, certified=torch.zeros_like(other.certified))

    @property
    def searching(self) -> Searching:
        """The options of the search alone."""
        return Searching(rounds=self.rounds, starts=self.starts, steps=self.steps, reach=self.reach)


def restore_examples(
    layer: LastLayer, options: ExactLabels, *, generator: torch.Generator, progress: Progress = go_on
) -> RestoredExamples | str:
    """The examples behind a last layer's gradient, or a sentence on why it has no room to tell them apart."""
    quick = layer.has_bias and not layer.deviation  # the balanced gradient is next, and better where this one is hard
    first = _as_it_is(layer, options, generator, progress, patience=0 if quick else _PATIENCE)
    if isinstance(first, str) and not quick:
        return first
    found = with_balanced(layer, options.searching, first, generator=generator, progress=progress)
    if not quick or isinstance(found, str) or found.smoothing or len(found.labels) >= found.rank:
        return found
    again = _as_it_is(layer, options, generator, progress, patience=_PATIENCE)
    return found if isinstance(again, str) or len(again.labels) <= len(found.labels) else again


def _as_it_is(
    layer: LastLayer, options: ExactLabels, generator: torch.Generator, progress: Progress, *, patience: int
) -> RestoredExamples | str:
    pencil = read_pencil(layer, reach=options.reach)
    if isinstance(pencil, str):
        return pencil
    return _of_pencil(layer, pencil, options, generator, progress, patience=patience)


def _of_pencil(
    layer: LastLayer,
    pencil: Pencil,
    options: ExactLabels,
    generator: torch.Generator,
    progress: Progress,
    *,
    patience: int,
) -> RestoredExamples:
    tilt = pencil.floor / float(pencil.S[-1]) if layer.deviation else 0.0
    search = Search(pencil=pencil, starts=options.starts, steps=options.steps, precision=options.precision, tilt=tilt)
    terms = Terms(classes=torch.zeros(0, dtype=torch.int64), a=pencil.S.new_zeros(0, pencil.rank))
    examples, barren = float(layer.examples or 0), 0
    for done in range(options.rounds):
        if len(terms) == pencil.rank or barren > patience or not progress(len(terms), pencil.rank, "examples restored"):
            break
        before = len(terms)
        terms, examples = search(terms, examples, barren, generator)
        barren = 0 if len(terms) > before else barren + 1
        if done == 0 and not len(terms) and not pencil.smoothing:
            for share in search.smoothing():
                smooth = replace(pencil, smoothing=share)
                found = _of_pencil(layer, smooth, options, generator, progress, patience=1)
                if len(found.labels) == pencil.rank and bool(found.certified.all()):
                    return found
    if layer.examples is None and examples > MOST_EXAMPLES * layer.classes:
        examples = 0.0  # no solution: the scale of the terms runs away
    return _summary(layer, pencil, terms, round(examples), options.precision)


def _summary(layer: LastLayer, pencil: Pencil, terms: Terms, examples: int, precision: float) -> RestoredExamples:
    """What was found, how far it is proved, and an estimate for what was not."""
    found, r = len(terms), pencil.rank
    certified, left = torch.zeros(found, dtype=torch.bool), remainder(pencil, terms, max(examples, 1))
    values = torch.linalg.svdvals(left)[r - found :]
    beyond, size = float(values.norm()), float(pencil.S.norm())
    missing = max(examples - found, 0)
    loudest = 1e-3 if layer.examples is not None else _ROUNDING * layer.eps  # else the floor may be examples' own
    quiet = pencil.floor < loudest * float(pencil.S[0]) and pencil.floor < 0.1 * float(pencil.S[-1])
    if found and examples >= r and quiet:
        weight = offsets(pencil, terms).norm(dim=1) * terms.a.norm(dim=1) / examples
        floor = precision * pencil.floor * max(1, found) ** 0.5
        room = layer.classes - (0 if layer.has_bias else 1)
        posed = room - r >= 3 if found == r else room - 2 * r >= 10
        if layer.examples is None and found < r:  # most of the terms have to agree on the batch size, and none disagree
            posed = posed and 2 * found > r and not terms.odd
        certified = (weight > 10 * beyond) & (beyond < min(floor, 0.5 * float(pencil.S[-1]))) & posed
    rest = torch.zeros(layer.classes, dtype=torch.int64)
    if missing:
        share = _rest_share(pencil, terms, left)
        p = torch.softmax(pencil.B @ (left.T @ share) / share.square().sum().clamp_min(1e-300), 0)
        rest = round_counts(missing * p - examples * share, missing)
    return RestoredExamples(
        labels=terms.classes,
        embeddings=(terms.a @ pencil.V.T)[:, : layer.W.shape[1]],
        certified=certified,
        examples=examples,
        rank=r,
        residual=beyond / size,
        rest=rest,
        smoothing=pencil.smoothing,
    )


def _rest_share(pencil: Pencil, terms: Terms, left: Tensor) -> Tensor:
    """``[C]``: the bias gradient of the examples not found; without bias as if they lay where those found do."""
    if pencil.one is not None:
        return left @ pencil.one
    middle = terms.a.mean(0) if len(terms) else pencil.S
    return left @ middle / middle.square().sum()

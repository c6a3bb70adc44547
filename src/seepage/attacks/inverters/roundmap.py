"""From an update to its inputs at the weights of the round: pairs with the labels that it shows, and ridges back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.inverters.embeddingmap import read_labels
from seepage.attacks.inverters.gradientviews import GradientViews, ViewReader, joined
from seepage.attacks.inverters.pairs import Pairs, PublicExamples
from seepage.attacks.inverters.ridge import ridge, ridge_of_products
from seepage.attacks.inverters.weighing import weighed
from seepage.types import Progress, Stats

__all__ = ["Mapped", "RoundMap", "row_noise"]

_MOST_PAIRS = 1500
_JUDGES = 150  # held-out batches
_AT_ONCE = 2**26  # numbers in the gradients of one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What a :class:`RoundMap` found.

    Args:
        inputs: ``[b, *shape]``, in the order of ``labels``.
        labels: ``[b]``, ascending.
        stats: numbers worth keeping.
    """

    inputs: Tensor
    labels: Tensor
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundMap:
    """Public examples, given the labels that the update shows, make pairs at the round's weights; ridges map back.

    With the labels fixed, a gradient is a smooth function of its inputs, and a linear map back gives most of what it
    tells. Mapped are the gradient as sent, each tensor's direction, the products of channels that each layer's gradient
    holds (deep networks, whose gradients are not smooth, still give those away), and the embeddings that the last
    layer's holds, each with the damping that suits held-out pairs *under the noise that the update shows*. What they,
    an attack network and the public means of the labels' classes say is then weighed by least squares on the same
    pairs, with weights in [0, 1], as a difference from the public mean. Where that is not clearly better on held-out
    pairs, the mean is answered.

    Args:
        blueprint: of the attack network; its last layer has to be linear with bias.
        public: the held-out ones judge, the others make pairs.
    """

    blueprint: Blueprint
    public: PublicExamples

    def __call__(
        self,
        network: nn.Module,
        update: Mapping[str, Tensor],
        *,
        labels: Tensor | None,
        module: nn.Module,
        generator: torch.Generator,
        progress: Progress,
    ) -> Mapped | None:
        """``None`` if ``progress`` says stop.

        Args:
            network: at the weights of the round.
            update: by name; what the network does not have is not read.
            labels: ``[b]`` where the server knows them.
            module: an attack network, from gradients ``[k, *shape]`` to inputs ``[k, b, *shape]``.
            generator: draws which public examples make a batch, and noise.
            progress: as everywhere.
        """
        examples, bias = self.blueprint.examples, str(self.blueprint.layers[-1].bias)
        pairs = Pairs(network, self.public.inputs, self.public.labels, examples, names=update)
        judges, kept = self._batches(generator)
        ask = _Asking(progress, len(judges) + len(kept), max(1, min(64, _AT_ONCE // pairs.numbers)))
        sent = {name: value[None].float() for name, value in update.items()}
        predictions = pairs.predictions(kept)
        known = labels is not None
        if labels is None:
            labels = read_labels(sent[bias], predictions, examples)[0]
        labels = labels.sort().values
        seen = ViewReader(self.blueprint, labels, {name: sent[name].numel() for name in pairs.names})
        noise = row_noise(update[self.blueprint.layers[-1].weight])
        judged, said, classes = [], [], []
        try:
            for part in ask.parts(judges):
                noised = _noised(pairs.pair(part, labels)[0], noise, generator)
                judged.append(seen(noised))
                said.append(module(noised).flatten(1))
                read = labels if known else read_labels(noised[bias], predictions, examples)
                classes.append(torch.where(read == labels, self.public.labels[part], read))  # what is misread, misleads
            learnt = joined([seen(pairs.pair(part, labels)[0]) for part in ask.parts(kept)])
            judged.append(seen(sent))
            said.append(module(sent).flatten(1))
            means = self._of_classes(torch.cat([*classes, labels[None]]))
            others = {"attack network": torch.cat(said), "class means": means}
            inputs, stats = self._weighed(learnt, joined(judged), others, (kept, judges), ask)
        except _Stopped:
            return None
        stats |= {"pairs at the round": len(kept), "noise seen": noise}
        return Mapped(inputs=inputs, labels=labels, stats=stats)

    def _batches(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows ``[J, b]`` of held-out batches and ``[M, b]`` of others; batches of several are drawn several times."""
        b, held_out = self.blueprint.examples, self.public.held_out

        def drawn(first: int, count: int, batches: int) -> Tensor:
            each = max(1, count // b)
            passes = -(-batches // each) if b > 1 else 1
            device = generator.device
            rows = [torch.randperm(count, generator=generator, device=device)[: each * b] for _ in range(passes)]
            return first + torch.cat(rows).reshape(-1, b)[:batches].to(self.public.inputs.device)

        rest = len(self.public.inputs) - held_out
        return drawn(0, held_out, _JUDGES), drawn(held_out, rest, _MOST_PAIRS)

    def _weighed(
        self,
        learnt: GradientViews,
        judged: GradientViews,
        said: Mapping[str, Tensor],
        rows: tuple[Tensor, Tensor],
        ask: "_Asking",
    ) -> tuple[Tensor, Stats]:
        """Inputs ``[b, *shape]`` from the maps and from what others have ``said [J + 1, b P]``."""
        b, mean = self.blueprint.examples, self._mean()
        inputs, truth = ((self.public.inputs[each] - mean).flatten(1) for each in rows)  # [M, b P], [J, b P]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        ask("what is alike")
        for word, (gram, across) in learnt.products(judged.rescaled(learnt)).items():
            ask(f"map of the {word}")
            found[word] = ridge_of_products(gram, across, inputs, truth)
        ask("map of the embeddings")
        views = (learnt.embeddings, judged.embeddings[:-1], judged.embeddings[-1:])
        apart, seen, asked = (view.flatten(0, 1) for view in views)
        each = ridge(apart, inputs.reshape(len(apart), -1), seen, truth.reshape(len(seen), -1), asked)
        found["embeddings"] = (each[0].reshape(len(truth), -1), each[1].reshape(1, -1))
        for word, answer in said.items():
            own = (answer - mean.flatten().repeat(b)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            found[word] = own[:-1], own[-1:]
        answer, stats = weighed(found, truth)
        return answer.reshape(b, *mean.shape) + mean, stats

    def _mean(self) -> Tensor:
        """``[*shape]`` of the public inputs that are not held out."""
        return self.public.inputs[self.public.held_out :].mean(dim=0)

    def _of_classes(self, labels: Tensor) -> Tensor:
        """``[k, b P]``: the public means of the classes ``labels [k, b]``; of all where a class has none."""
        inputs, own = self.public.inputs[self.public.held_out :].flatten(1), self.public.labels[self.public.held_out :]
        counts = torch.bincount(own, minlength=self.blueprint.layers[-1].shape[0])[:, None]
        sums = torch.zeros(len(counts), inputs.shape[1], device=inputs.device).index_add_(0, own, inputs)
        means = torch.where(counts > 0, sums / counts.clamp_min(1), self._mean().flatten())
        return means[labels].flatten(1)


def row_noise(gradient: Tensor) -> float:
    """Standard deviation of the noise on a last layer's weight gradient ``[C, n]``: without it the rows sum to zero.

    The errors of a softmax with cross-entropy sum to zero for every example. Rounding counts as noise too.
    """
    return float((gradient.double().sum(dim=0).square().mean() / len(gradient)).sqrt())


class _Stopped(Exception):  # noqa: N818 - no error
    """``progress`` said stop."""


class _Asking:
    """Progress through ``total`` batches, ``group`` at a time; raises :class:`_Stopped`."""

    def __init__(self, progress: Progress, total: int, group: int) -> None:
        self._progress, self._total, self._group, self._done = progress, total, group, 0

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """``rows [N, b]`` part by part, counted when the next is asked for."""
        for part in torch.split(rows, self._group):
            yield part
            self._done += len(part)
            self("pairs")

    def __call__(self, note: str) -> None:
        if not self._progress(self._done, self._total, f"{note} at the weights of the round"):
            raise _Stopped


def _noised(gradients: Mapping[str, Tensor], size: float, generator: torch.Generator) -> dict[str, Tensor]:
    """With Gaussian noise of standard deviation ``size``, drawn where the generator is."""
    return {
        name: value + size * torch.randn(value.shape, generator=generator, device=generator.device).to(value)
        for name, value in gradients.items()
    }

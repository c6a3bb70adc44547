"""From an update to its inputs at the weights of the round: pairs with the labels that it shows, and ridges back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from seepage.attacks.blueprint import Blueprint
from seepage.attacks.embeddingmap import read_embeddings, read_labels
from seepage.attacks.gradientfeatures import Hash, Sketch, unit_rows
from seepage.attacks.pairs import Pairs
from seepage.attacks.ridge import ridge
from seepage.networks.layers import Activation
from seepage.types import Progress

__all__ = ["Mapped", "RoundMap", "row_noise"]

_MOST_PAIRS = 1500
_JUDGES = 150  # held-out batches
_LARGEST_EMBEDDING = 1024  # numbers; more are hashed
_AT_ONCE = 2**26  # numbers in the gradients of one pass
_FAR = 2.0  # times beyond the pairs' largest or smallest norm: the update was clipped, or scaled

Stats = dict[str, float | int | str | bool]


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
    tells. Mapped are the gradient as sent, each tensor's direction, and the embeddings that the last layer's gradient
    holds, each with the damping that suits held-out pairs *under the noise that the update shows*. What they and an
    attack network say is then weighed by least squares on the same pairs, with weights in [0, 1], as a difference from
    the public mean: where nothing can be told, the mean is answered.

    Args:
        blueprint: of the attack network; its last layer has to be linear with bias.
        public: ``[N, *shape]``.
        held_out: the first so many of ``public`` judge and make no pairs; no attack network should have seen them.
    """

    blueprint: Blueprint
    public: Tensor
    held_out: int

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
        last = self.blueprint.layers[-1]
        pairs = Pairs(network, self.public, torch.zeros(len(self.public), dtype=torch.long), self.blueprint.examples)
        judges, kept = self._batches(generator)
        sent = {name: update[name][None].float() for name in pairs.names if name in update}
        if labels is None:
            labels = read_labels(sent[str(last.bias)], pairs.predictions(kept), self.blueprint.examples)[0]
        labels = labels.sort().values
        seen = _Reader(self.blueprint, labels, {name: value.numel() for name, value in sent.items()})
        noise = row_noise(update[last.weight])
        group = max(1, min(64, _AT_ONCE // pairs.numbers))
        judged, said, learnt = [], [], []
        for part in torch.split(judges, group):
            clean, _, _ = pairs.pair(part, labels)
            noised = {name: value + noise * _normal(value, generator) for name, value in clean.items()}
            judged.append(seen(noised))
            said.append(module(noised).flatten(1))
        judged.append(seen(sent))
        said.append(module({name: value.float()[None] for name, value in update.items()}).flatten(1))
        for at, part in enumerate(torch.split(kept, group)):
            learnt.append(seen(pairs.pair(part, labels)[0]))
            if not progress(min(len(kept), (at + 1) * group), len(kept), "pairs at the weights of the round"):
                return None
        inputs, stats = self._weighed(_joined(learnt), _joined(judged), torch.cat(said), kept, judges)
        stats |= {"pairs at the round": len(kept), "noise seen": noise}
        return Mapped(inputs=inputs, labels=labels, stats=stats)

    def _batches(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows ``[J, b]`` of held-out batches and ``[M, b]`` of others; batches of several are drawn several times."""
        b = self.blueprint.examples

        def drawn(first: int, count: int, batches: int) -> Tensor:
            each = max(1, count // b)
            passes = -(-batches // each) if b > 1 else 1
            rows = [torch.randperm(count, generator=generator)[: each * b] for _ in range(passes)]
            return first + torch.cat(rows).reshape(-1, b)[:batches]

        return drawn(0, self.held_out, _JUDGES), drawn(self.held_out, len(self.public) - self.held_out, _MOST_PAIRS)

    def _weighed(
        self, learnt: "_Views", judged: "_Views", said: Tensor, kept: Tensor, judges: Tensor
    ) -> tuple[Tensor, Stats]:
        """Inputs ``[b, *shape]`` from the maps and from ``said [J + 1, b P]`` by the attack network."""
        b = self.blueprint.examples
        mean = self.public[self.held_out :].mean(dim=0)
        inputs = (self.public[kept] - mean).flatten(1)  # [M, b P]
        truth = (self.public[judges] - mean).flatten(1)  # [J, b P]
        judged = judged.rescaled(learnt)
        found = {
            "gradient": ridge(learnt.whole, inputs, judged.whole[:-1], truth, judged.whole[-1:]),
            "directions": ridge(learnt.directions(), inputs, judged.directions()[:-1], truth, judged.directions()[-1:]),
        }
        rows = (learnt.embeddings, judged.embeddings[:-1], judged.embeddings[-1:])
        apart, seen, asked = (each.flatten(0, 1) for each in rows)
        each = ridge(apart, inputs.reshape(len(apart), -1), seen, truth.reshape(len(seen), -1), asked)
        found["embeddings"] = (each[0].reshape(len(truth), -1), each[1].reshape(1, -1))
        own = (said - mean.flatten().repeat(b)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        found["attack network"] = own[:-1], own[-1:]
        columns = torch.stack([seen.flatten() for seen, _ in found.values()], dim=1).double()  # [J b P, 4]
        weights = _weights(columns, truth.flatten().double())
        error = float((columns @ weights - truth.flatten()).square().mean())
        answer = torch.cat([asked for _, asked in found.values()], dim=0).T @ weights.to(mean)  # [b P]
        stats: Stats = {f"weight of {word}": round(float(weights[at]), 3) for at, word in enumerate(found)}
        stats |= {"held-out error": error, "held-out error of the mean": float(truth.square().mean())}
        return answer.reshape(b, *mean.shape) + mean, stats


def row_noise(gradient: Tensor) -> float:
    """Standard deviation of the noise on a last layer's weight gradient ``[C, n]``: without it the rows sum to zero.

    The errors of a softmax with cross-entropy sum to zero for every example. Rounding counts as noise too.
    """
    return float((gradient.double().sum(dim=0).square().mean() / len(gradient)).sqrt())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Views:
    """Of ``k`` batches: sketched gradients ``[k, n]``, and what the last layer was given ``[k, b, m]``."""

    whole: Tensor
    embeddings: Tensor
    lengths: list[int]

    def rescaled(self, pairs: "_Views") -> "_Views":
        """The last, which was sent, brought to the pairs' mean norm where it is far from all of them."""
        norms, own = pairs.whole.norm(dim=1), self.whole[-1].norm().clamp_min(1e-30)
        if norms.min() / _FAR <= own <= norms.max() * _FAR:
            return self
        return replace(self, whole=torch.cat([self.whole[:-1], self.whole[-1:] * (norms.mean() / own)]))

    def directions(self) -> Tensor:
        """Each tensor's part of the gradient at unit norm."""
        parts = torch.split(self.whole, self.lengths, dim=1)
        return torch.cat([unit_rows(part) / part.shape[1] ** 0.5 for part in parts], dim=1)


class _Reader:
    """Looks at gradients as :class:`_Views`."""

    def __init__(self, blueprint: Blueprint, labels: Tensor, sizes: Mapping[str, int]) -> None:
        self._last, before = blueprint.layers[-1], blueprint.layers[-2:-1]
        self._activation = Activation(before[0].activation) if before else Activation.NONE
        self._labels, self._names = labels, list(sizes)
        self._sketch = Sketch(sizes)
        self._hash = Hash(self._last.shape[1], _LARGEST_EMBEDDING, blueprint.hash_seed + 1_000_001)

    def __call__(self, gradients: Mapping[str, Tensor]) -> _Views:
        weight, bias = gradients[self._last.weight], gradients[str(self._last.bias)]
        found = read_embeddings(weight, bias, self._labels.expand(len(weight), -1), self._activation)
        k, b, n = found.shape
        embeddings = self._hash(found.float().reshape(k * b, n)).reshape(k, b, -1)
        return _Views(whole=self._sketch(gradients), embeddings=embeddings, lengths=self._sketch.lengths)


def _joined(views: Sequence[_Views]) -> _Views:
    whole, embeddings = (torch.cat([getattr(each, word) for each in views]) for word in ("whole", "embeddings"))
    return _Views(whole=whole, embeddings=embeddings, lengths=views[0].lengths)


def _weights(columns: Tensor, target: Tensor) -> Tensor:
    """``[k]`` in [0, 1], least squares of ``columns [N, k]`` against ``target [N]``."""
    basis, factor = torch.linalg.qr(columns)
    found = lsq_linear(factor.cpu().numpy(), (basis.T @ target).cpu().numpy(), bounds=(0, 1)).x
    return torch.from_numpy(found).to(target)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)

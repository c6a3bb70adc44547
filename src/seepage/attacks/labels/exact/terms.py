"""The rank-one terms of a last-layer gradient, one an example: what they sum to, and all of them refined together.

With the bias appended, ``G [C, m+1] = (1/K) sum_k d_k e_k^T`` has rank K. Letters: ``U [C, r]``, ``S [r]``,
``V [m+1, r]`` its SVD; ``e = V a`` an embedding with last entry 1; ``d = softmax(B a) - onehot(c)`` with
``B = [W b] V [C, r]``. Without bias G is ``gW [C, m]``, and no entry of ``e`` is known.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Pencil", "Space", "Terms", "errors", "excess", "offsets", "refine", "remainder", "slopes", "unmixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pencil:
    """The gradient in its own coordinates, float64.

    Args:
        U: ``[C, r]``.
        S: ``[r]``.
        V: ``[m+1, r]``; ``[m, r]`` for a layer without bias.
        B: ``[C, r]``, logits of a coordinate.
        one: ``[r]``, the row of V whose entry of each embedding is 1; ``None`` without bias.
        floor: the singular value that noise has, where the signal ends.
        smoothing: share of label smoothing in the client's targets.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    B: Tensor
    floor: float
    one: Tensor | None
    smoothing: float = 0.0

    @property
    def free(self) -> Tensor:
        """``[r, q]``: an orthonormal basis of what may change in an embedding's coordinates."""
        if self.one is None:
            return torch.eye(self.rank, dtype=self.S.dtype)
        basis: Tensor = torch.linalg.qr(self.one[:, None], mode="complete").Q[:, 1:]
        return basis

    @property
    def rank(self) -> int:
        """How many terms there are."""
        return len(self.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms found so far.

    Args:
        classes: ``[f]`` int64.
        a: ``[f, r]``.
        odd: whether other roots, as tight, say another batch size: copies of one example, or several batches at once.
    """

    classes: Tensor
    a: Tensor
    odd: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    def joined(self, classes: Tensor, a: Tensor) -> "Terms":
        """These and one or more besides."""
        return replace(self, classes=torch.cat([self.classes, classes]), a=torch.cat([self.a, a]))

    def first(self, count: int) -> "Terms":
        """The first few."""
        return replace(self, classes=self.classes[:count], a=self.a[:count])

    def without(self, index: int) -> "Terms":
        """All but one."""
        keep = torch.arange(len(self)) != index
        return replace(self, classes=self.classes[keep], a=self.a[keep])


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where an example may lie: ``d`` in the span of U, ``a = a0 + N t``.

    Args:
        U: ``[C, k]``.
        a0: ``[r]``.
        N: ``[r, q]``.
    """

    U: Tensor
    a0: Tensor
    N: Tensor


def offsets(pencil: Pencil, terms: Terms) -> Tensor:
    """``[f, C]``: the loss gradients ``d`` of the terms."""
    return errors(pencil.B, terms.a, terms.classes, pencil.smoothing)[1]


def remainder(pencil: Pencil, terms: Terms, examples: float) -> Tensor:
    """``[C, r]``: the gradient in V's coordinates, less the terms."""
    return pencil.U * pencil.S - offsets(pencil, terms).T @ terms.a / examples


def unmixed(pencil: Pencil, terms: Terms, examples: float) -> Space:
    """Where the other examples must lie: ``k = r - f``, ``q = r - f - 1`` (``r - f`` without bias).

    Each term subtracted takes one dimension from both spaces (Wedderburn), so the search is the better posed the more
    terms are found. Subtracting costs no precision once they were refined together.
    """
    free = pencil.rank - len(terms)
    left, _, right = torch.linalg.svd(remainder(pencil, terms, max(examples, 1.0)), full_matrices=False)
    Q = right[:free].T
    if pencil.one is None:
        return Space(U=left[:, :free], a0=torch.zeros_like(pencil.S), N=Q)
    last = (pencil.one @ Q)[:, None]  # the entry that must be 1, in the coordinates of Q
    N = Q @ torch.linalg.qr(last, mode="complete").Q[:, 1:]
    return Space(U=left[:, :free], a0=Q @ last[:, 0] / last.square().sum(), N=N)


def errors(B: Tensor, a: Tensor, classes: Tensor, smoothing: Tensor | float) -> tuple[Tensor, Tensor]:
    """``(p [s, C], d [s, C])``: probabilities, and less the targets, whose share ``smoothing [s]`` is spread evenly."""
    p = torch.softmax(a @ B.T, 1)
    share = torch.as_tensor(smoothing, dtype=a.dtype).expand(len(a))
    d = p - share[:, None] / len(B)
    d[torch.arange(len(a)), classes] -= 1 - share
    return p, d


def slopes(BN: Tensor, p: Tensor) -> Tensor:
    """``[s, C, q]``: the derivative of the softmax along each coordinate."""
    return p[:, :, None] * (BN - (p @ BN)[:, None, :])


def refine(pencil: Pencil, terms: Terms, examples: float, steps: int = 10, most: int = 2500) -> Terms:
    """All terms at once, so that what they leave of the gradient is as near as can be to the rank it must have.

    Gauss-Newton with the other examples projected out (variable projection). Single terms solved in the gradient's own
    spaces are only as good as those spaces, which float32 blurs where examples are weak; together they reach the floor.
    Returned unchanged beyond `most` unknowns.
    """
    N = pencil.free
    if not 0 < len(terms) * N.shape[1] <= most:
        return terms
    damping, beyond = 1e-9, excess(pencil, terms, examples)
    for _ in range(steps):
        if beyond < 2 * pencil.floor:
            break
        H, g = _normal_equations(pencil, terms, examples, N)
        scale = H.diagonal().sqrt().clamp_min(1e-300)
        H = H / scale[:, None] / scale
        before = beyond
        while damping < 1.0:
            damped = H.clone()
            damped.diagonal().add_(damping)
            factor, failed = torch.linalg.cholesky_ex(damped)
            step = torch.cholesky_solve((g / scale)[:, None], factor)[:, 0] / scale
            moved = replace(terms, a=terms.a + step.view(len(terms), -1) @ N.T)
            beyond_new = beyond if failed else excess(pencil, moved, examples)
            if beyond_new < beyond:
                terms, beyond, damping = moved, beyond_new, max(damping * 0.01, 1e-14)
                break
            damping *= 100
        if beyond > 0.9 * before:
            break
    return terms


def excess(pencil: Pencil, terms: Terms, examples: float) -> float:
    """The norm of what the remainder has beyond the rank it must have."""
    values = torch.linalg.svdvals(remainder(pencil, terms, examples))
    return float(values[pencil.rank - len(terms) :].norm())


def _normal_equations(pencil: Pencil, terms: Terms, examples: float, N: Tensor) -> tuple[Tensor, Tensor]:
    """``(J^T J [f q, f q], J^T r [f q])`` of the terms' sum, both sides cleared of the other examples."""
    f, q, free = len(terms), N.shape[1], pencil.rank - len(terms)
    rest = remainder(pencil, terms, examples) * examples
    left, _, right = torch.linalg.svd(rest, full_matrices=False)
    L, Q = left[:, :free], right[:free].T
    p, d = errors(pencil.B, terms.a, terms.classes, pencil.smoothing)
    rest = rest - L @ (L.T @ rest)
    rest = rest - (rest @ Q) @ Q.T
    M = slopes(pencil.B @ N, p).movedim(1, 0).reshape(len(pencil.B), f * q)
    M, d = M - L @ (L.T @ M), d - (d @ L) @ L.T
    a, N = terms.a - (terms.a @ Q) @ Q.T, N - Q @ (Q.T @ N)
    H = (M.T @ M).view(f, q, f, q) * (a @ a.T)[:, None, :, None]
    mixed = (M.T @ d.T).view(f, q, f, 1) * (a @ N).view(f, 1, 1, q)  # [k, i, l, j]
    H += mixed + mixed.permute(2, 3, 0, 1)
    H += (d @ d.T)[:, None, :, None] * (N.T @ N)[None, :, None, :]
    g = (M.view(-1, f, q) * (rest @ a.T)[:, :, None]).sum(0) + d @ rest @ N
    return H.reshape(f * q, f * q), g.reshape(-1)

"""A last-layer gradient with its rows and columns brought to one length, so that faint examples stand out.

Letters as in ``exactterms``. Float32 rounds each entry of ``[gW gb]`` to a share of that entry, so an example that the
network fits well is lost beside others only in rows and columns that the others fill. Divided by their lengths, rows
and columns that only it has count as much as any: the smallest singular value rises by orders of magnitude, the
rounding does not. Each example's embedding then lies in the row space to the rounding; its ``d`` does but for the
label's entry, which the client rounds at the size of 1 (``p - 1``), and is therefore left open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.lastlayer import LastLayer

__all__ = ["Balanced", "among_conjugate", "client_errors", "model_errors", "read_balanced"]

_PASSES = 2  # of dividing rows and columns; more change nothing
_NOISE = 2.0  # times the rounding unit, as a share of the first singular value, below which the rest is rounding
_KNOWN_GAP, _UNKNOWN_GAP = 4.0, 6.0  # singular values above so many times the rounding's count as examples
_ROUNDED = 4.0  # rounding units by which the label's entry of d may be off, since it is 1 less than p


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """The gradient in its own coordinates after balancing, float64: ``rows * G * columns = U S V^T``.

    Args:
        U: ``[C, r]``.
        S: ``[r]``.
        V: ``[m+1, r]``.
        B: ``[C, r]``: the logits of coordinates ``a``.
        one: ``[r]``: ``one @ a`` is the entry of the embedding that is 1.
        rows: ``[C]``, what each row was multiplied by.
        columns: ``[m+1]``, what each column was multiplied by.
        eps: rounding unit of the client's dtype.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    B: Tensor
    one: Tensor
    rows: Tensor
    columns: Tensor
    eps: float

    @property
    def rank(self) -> int:
        """How many examples are seen."""
        return len(self.S)

    def embeddings(self, a: Tensor) -> Tensor:
        """``[f, m]``: the last layer's inputs at coordinates ``a [f, r]``."""
        return (a @ self.V.T / self.columns)[:, :-1]


def read_balanced(layer: LastLayer, *, reach: float) -> Balanced | None:
    """The balanced gradient at its numerical rank, ``None`` where that tells nothing or the layer has no bias."""
    G, W = layer.joined
    if not layer.has_bias or not bool(G.isfinite().all()) or min(G.shape) < 2:
        return None
    if layer.examples is not None and layer.examples > layer.room:
        return None
    A, rows, columns = G, torch.ones_like(G[:, 0]), torch.ones_like(G[0])
    for _ in range(_PASSES):
        lengths = A.norm(dim=1)
        rows = rows / torch.where(lengths > 0, lengths, 1.0)
        lengths = (G * rows[:, None] * columns).norm(dim=0)
        columns = columns / torch.where(lengths > 0, lengths, 1.0)
        A = G * rows[:, None] * columns
    if not bool(A.isfinite().all()):
        return None
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    rank = _rank(layer, S)
    if not 0 < rank <= reach * layer.classes:
        return None
    V = Vh[:rank].T
    B = (W / columns) @ V
    one = V[-1] / columns[-1]
    return Balanced(U=U[:, :rank], S=S[:rank], V=V, B=B, one=one, rows=rows, columns=columns, eps=layer.eps)


def _rank(layer: LastLayer, S: Tensor) -> int:
    """How many singular values stand above the rounding, 0 if that cannot be told."""
    level = _NOISE * layer.eps * float(S[0])
    if layer.examples is not None:
        if float(S[layer.examples]) > level:
            return 0
        return int((S[: layer.examples] > _KNOWN_GAP * S[layer.examples]).sum())
    tail = S[3 * len(S) // 4 :].median()
    rank = int((_UNKNOWN_GAP * tail < S).sum())
    return rank if rank <= layer.room and float(S[rank]) < level else 0


def model_errors(pencil: Balanced, classes: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """``(p [s, C], d [s, C])``: probabilities at ``a [s, r]``, and balanced errors without the label's entry."""
    p = torch.softmax(a @ pencil.B.T, 1)
    d = pencil.rows * p
    d[torch.arange(len(a)), classes] = 0.0
    return p, d


def client_errors(pencil: Balanced, classes: Tensor, a: Tensor) -> Tensor:
    """``[s, r]``: balanced errors in U's coordinates, the label's entry moved towards U by what rounding may do."""
    p, d = model_errors(pencil, classes, a)
    every = torch.arange(len(a))
    d[every, classes] = pencil.rows[classes] * (p[every, classes] - 1)
    off = -pencil.U[classes] @ pencil.U.T
    off[every, classes] += 1.0  # the label's direction less its part in U
    needed = -(off * d).sum(1) / off.square().sum(1).clamp_min(1e-12)
    most = _ROUNDED * pencil.eps * pencil.rows[classes]
    d[every, classes] += needed.clamp(-most, most)
    return d @ pencil.U


def among_conjugate(pencil: Balanced, errors: Tensor) -> tuple[Tensor, Tensor]:
    """``(a0 [r], N [r, q])``: where the other examples' coordinates ``a0 + N t`` must lie beside those found.

    Two examples' ``d`` and ``a`` are conjugate, ``u_j^T S^-1 a_k = 0`` (Wedderburn), whatever each was scaled by.

    Args:
        pencil: the gradient.
        errors: ``[f, r]`` of the examples found.
    """
    dual = errors / pencil.S
    dual = dual / dual.norm(dim=1, keepdim=True).clamp_min(1e-300)
    Q = torch.linalg.qr(dual.T, mode="complete").Q[:, len(errors) :]
    last = (pencil.one @ Q)[:, None]
    N = Q @ torch.linalg.qr(last, mode="complete").Q[:, 1:]
    return Q @ last[:, 0] / last.square().sum().clamp_min(1e-300), N

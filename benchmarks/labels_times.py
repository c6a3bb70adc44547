"""Seconds of label attacks on random last layers up to 1,000 classes; adds to benchmarks/results/labels.*.

Options: --only times,sketched; --out. CPU time of one thread: other programs matter less to it than to the clock.
"""

from collections.abc import Callable
from unittest.mock import patch

import torch
from label_networks import head, seeded
from label_options import Keep, arguments, run
from label_tables import Row, add, draws, mean_rows, no_sums, observe, score, table
from torch import Tensor

from seepage.attacks.labels.exact import reading
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelbaselines import UniformProbabilities
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.types import Attack


def times(keep: Keep) -> None:
    """Random last layers; what iLRG's reference takes is in the documentation."""
    methods: dict[str, Attack] = {
        "iLRG": ILRG(),
        "uniform": UniformProbabilities(),
        "pooled": PooledEmbedding(),
        "noise prior": NoisePrior(),
        "exact": ExactLabels(),
    }
    rows: dict[str, Row] = {}
    table("", [head(84, 10)], (torch.rand(8, 84), torch.arange(8)), 3, 1, methods)  # loads what is loaded once
    for classes, examples in ((10, 3), (100, 24), (1000, 64)):
        for width in (84, 512, 4096):
            net = seeded(0, lambda w=width, c=classes: head(w, c))
            generator = torch.Generator().manual_seed(7)
            x = torch.relu(torch.randn(4 * examples, width, generator=generator) + 0.3)
            y = torch.randint(classes, (len(x),), generator=generator)
            for row in table("", [net], (x, y), examples, 3, methods):
                title = "CPU ms per restoration, mean of 3 batches (K = 3, 24 and 64 of C = 10, 100 and 1,000)"
                mine = rows.setdefault(str(row["method"]), {"setting": title, "method": row["method"]})
                mine |= {"networks": 1, "batches": 3, f"C={classes}, m={width}": float(row["cpu_ms"])}
    keep(list(rows.values()))


def sketched(keep: Keep) -> None:
    """What a sketch saves of 1,000 classes: one batch after the other with it, and with all singular values."""
    for width in (512, 2048, 4096):
        sums = no_sums()
        for index in range(5):
            net = seeded(index, lambda w=width: head(w, 1000))
            generator = torch.Generator().manual_seed(7)
            x = torch.relu(torch.randn(256, width, generator=generator) + 0.3)
            y = torch.randint(1000, (256,), generator=generator)
            for inputs, labels in draws((x, y), 64, 2, index, 0.0):
                seen = observe(net, inputs, labels, (x.amin(), x.amax()), known=True)
                add(sums, "exact", score(ExactLabels(), seen, labels))
                with patch.object(reading, "_leading", _all_of_them):
                    add(sums, "exact, all singular values", score(ExactLabels(), seen, labels))
        keep(mean_rows(f"What a sketch saves: synthetic C=1000, m={width}, K=64", sums, 5, 2))


def _all_of_them(layer: LastLayer, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return U, S, Vh


SECTIONS: dict[str, Callable[[Keep], None]] = {
    "times": times,
    "sketched": sketched,
}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())

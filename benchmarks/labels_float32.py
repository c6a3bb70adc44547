"""A network that has learnt its data by heart: which of its labels come out, and what float32 leaves of the rest.

Reads only ../shared/data (or $SEEPAGE_DATA); adds to benchmarks/results/labels.*. Options: --tables, --out.
Networks are kept in a temporary folder.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from label_networks import accuracy, memorised, shuffled_cifar100
from label_options import Keep, arguments, run, wanted
from label_results import Row
from label_tables import BASELINES, add, draws, mean_rows, no_sums, observe, score
from torch import Tensor, nn

from seepage.attacks.labels.exact.balanced import read_balanced
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.lastlayer import usable
from seepage.types import Attack, Observation, Reconstruction


def visible(keep: Keep) -> None:
    """A network that has learnt 7,000 images by heart: what comes back of batches, and what float32 leaves."""
    x, y = shuffled_cifar100()
    nets = [memorised(seed, x[:7000], y[:7000]) for seed in range(5)]
    share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
    for split, part in (("train", slice(0, 7000)), ("held out", slice(7000, 9000))):
        for examples, batches in ((8, 20), (24, 10), (33, 4)):
            title = f"CNN CIFAR-100 memorised (accuracy train/held out {share}), {split}, K={examples}"
            if not wanted(title):
                continue
            total: dict[str, float] = defaultdict(float)
            sums = no_sums()
            for index, net in enumerate(nets):
                for inputs, labels in draws((x[part], y[part]), examples, batches, index, 0.0):
                    seen = observe(net, inputs, labels, (x[part].amin(), x[part].amax()), known=True)
                    exact = Once(ExactLabels())
                    for name, attack in {**BASELINES, "exact": exact}.items():
                        add(sums, name, score(attack, seen, labels))
                    for key, value in _visible(net, inputs, labels, seen, exact.results[0]).items():
                        total[key] += value
            keep(mean_rows(title, sums, len(nets), batches))
            runs = batches * len(nets)
            title = f"What float32 leaves of a batch: CNN CIFAR-100 memorised, {split}"
            row: Row = {"setting": title, "method": f"K={examples}", "networks": len(nets), "batches": batches}
            row |= {key: total[key] / runs / examples for key in ("unreadable", "below the rank", "labels right")}
            row |= {"certified": total["certified"] / runs / examples, "wrong of certified": total["wrong"]}
            row |= {"without a trace": total["traceless"] / runs / examples}
            row |= {"batches all readable": total["readable"], "of these exact": total["readable and exact"]}
            row |= {"others": runs - total["readable"], "of the others exact": total["hidden and exact"]}
            keep([row])


class Once:
    """An attack that keeps what it returned."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.results: list[Reconstruction] = []

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Reconstruction:
        self.results.append(self.attack(observation, generator=generator))
        return self.results[-1]


def _visible(
    net: nn.Sequential, inputs: Tensor, labels: Tensor, seen: Observation, result: Reconstruction
) -> dict[str, float]:
    pencil = read_balanced(usable(seen), reach=0.75)
    rank = len(labels) if pencil is None else pencil.rank
    unreadable = int((_readable(net, inputs, labels) < 0.5).sum())
    traceless = int((_traces(net, inputs, labels) == 0).sum())
    got = torch.zeros(0, dtype=torch.int64) if result.labels is None else result.labels
    true, all_found = torch.bincount(labels, minlength=100), torch.bincount(got, minlength=100)
    sure = torch.bincount(got[result.certified], minlength=100) if len(got) else all_found
    exact = torch.equal(all_found, true)
    return {
        "unreadable": unreadable,
        "traceless": traceless,
        "below the rank": len(labels) - rank,
        "labels right": float(torch.minimum(all_found, true).sum()),
        "certified": float(sure.sum()),
        "wrong": float((sure - true).clamp_min(0).sum()),
        "readable": float(unreadable == 0),
        "readable and exact": float(unreadable == 0 and exact),
        "hidden and exact": float(unreadable > 0 and exact),
    }


def _readable(net: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """``[K]``: of each example the share of its embedding that an oracle could read to a tenth.

    The oracle knows all other examples' errors and embeddings exactly, and this one's error as well; only the float32
    rounding of the sum (half a unit of all terms' sizes, measured to fit) stands between it and the embedding.
    The label's own entry is left aside: it is 1 - p, rounded to 0 where the example is faint.
    """
    with torch.no_grad():
        embeddings = torch.cat([net[:-1](inputs), torch.ones(len(inputs), 1)], 1).double()
        weights = torch.cat([net[-1].weight, net[-1].bias[:, None]], 1).double()
    errors = torch.softmax(embeddings @ weights.T, 1)
    errors[torch.arange(len(labels)), labels] = -errors.scatter(1, labels[:, None], 0.0).sum(1)  # p - 1, not rounded
    rounding = torch.finfo(torch.float32).eps / 2 * (errors.abs().T @ embeddings.abs())
    shares = []
    for error, embedding, label in zip(errors, embeddings, labels.tolist(), strict=True):
        seen = torch.outer(error, embedding) / rounding.clamp_min(1e-300)
        seen[label] = 0.0
        shares.append((seen.norm(dim=0)[embedding > 0] > 10).double().mean())
    return torch.stack(shares)


def _traces(net: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """``[K]``: in how many entries the client's gradient would be another if that example's error were zero.

    None at all means that nothing of it can be known. The client's sum is taken with and without it, in float32.
    """
    with torch.no_grad():
        embeddings = net[:-1](inputs)
        errors = torch.softmax(net[-1](embeddings), 1)
    errors[torch.arange(len(labels)), labels] -= 1
    errors, embeddings = errors / len(labels), torch.cat([embeddings, torch.ones(len(labels), 1)], 1)
    whole, changed = errors.T @ embeddings, []
    for k in range(len(labels)):
        less = errors.clone()
        less[k] = 0.0
        changed.append(int((less.T @ embeddings != whole).sum()))
    return torch.tensor(changed)


SECTIONS: dict[str, Callable[[Keep], None]] = {"visible": visible}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())

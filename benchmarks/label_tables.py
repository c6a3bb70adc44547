"""The tables of label attacks: batches drawn, attacks run and scored, means over networks and batches."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from label_options import asked, wanted
from label_results import COUNTED, Row
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelbaselines import IDLG, AllZeros, EvenCounts, SignRule, UniformProbabilities
from seepage.attacks.labels.rlg import RLG
from seepage.label_scores import exact_vector, l1_half, leacc, lnacc
from seepage.types import Attack, GradientUpdate, Observation, Outcome, PrivateBatch, Round, ThreatModel, UpdateRule

BASELINES: dict[str, Attack] = {
    "zeros": AllZeros(),
    "K/C": EvenCounts(),
    "uniform": UniformProbabilities(),
    "iDLG": IDLG(),
    "sign rule": SignRule(),
    "iLRG, published rounding": ILRG(published_rounding=True),
    "iLRG": ILRG(),
    "RLG": RLG(),
}
Sums = dict[str, dict[str, float]]


def no_sums() -> Sums:
    """Of each method and number, zero so far."""
    return defaultdict(lambda: defaultdict(float))


def add(sums: Sums, method: str, numbers: Mapping[str, float]) -> None:
    """One run more of a method."""
    for key, value in numbers.items():
        sums[method][key] += value


def mean_rows(title: str, sums: Sums, networks: int, batches: int) -> list[Row]:
    """One row a method: means over all runs, counts of what is counted."""
    runs = networks * batches
    return [
        {"setting": title, "method": method, "networks": networks, "batches": batches}
        | {key: value if key in COUNTED else value / runs for key, value in total.items()}
        for method, total in sums.items()
    ]


def table(  # noqa: PLR0917 - a table's axes
    title: str,
    nets: list[nn.Sequential],
    data: tuple[Tensor, Tensor],
    examples: int,
    batches: int,
    methods: Mapping[str, Attack],
    *,
    known: bool = True,
    skew: float = 0.0,
) -> list[Row]:
    """One row a method: means over all networks and batches; a failed run scores as no labels at all."""
    heads = [(net, data[0]) for net in nets]
    return several(title, heads, data[1], examples, batches, methods, known=known, skew=skew)


def several(  # noqa: PLR0917
    title: str,
    heads: list[tuple[nn.Sequential, Tensor]],
    labels: Tensor,
    examples: int,
    batches: int,
    methods: Mapping[str, Attack],
    *,
    known: bool = True,
    skew: float = 0.0,
) -> list[Row]:
    """One table over networks that each have embeddings of their own; batch j of network i has seed 1000 i + j."""
    sums = no_sums()
    for index, (net, inputs) in enumerate(heads if wanted(title) else []):
        bounds = (inputs.amin(), inputs.amax())  # what is public of the data: the range of all of them
        for some, true in draws((inputs, labels), examples, batches, index, skew):
            observation = observe(net, some, true, bounds, known=known)
            for name, attack in asked(methods).items():
                add(sums, name, score(attack, observation, true))
    return mean_rows(title, sums, len(heads), batches)


def under_rule(  # noqa: PLR0917
    title: str,
    rule: UpdateRule,
    nets: list[nn.Sequential],
    data: tuple[Tensor, Tensor],
    examples: int,
    batches: int,
    methods: Mapping[str, Attack],
    *,
    blind: Mapping[str, Attack],
    bounds: tuple[Tensor, Tensor] | None = None,
) -> list[Row]:
    """One table of what a client of that rule sends; ``blind`` are attacks that are not told the rule."""
    sums = no_sums()
    for index, net in enumerate(nets if wanted(title) else []):
        for inputs, labels in draws(data, examples, batches, index, 0.0):
            batch = PrivateBatch(inputs=inputs, labels=labels)
            seen = ThreatModel(batch_size=True).view(
                network=net,
                update=rule(net, batch, torch.Generator().manual_seed(index)),
                batch=batch,
                rule=rule,
                classes=net[-1].out_features,
                bounds=bounds,
            )
            for name, attack in asked(methods).items():
                add(sums, name, score(attack, seen, labels))
            for name, attack in asked(blind).items():
                add(sums, name, score(attack, replace(seen, rule=None), labels))
    return mean_rows(title, sums, len(nets), batches)


def score(attack: Attack, observation: Observation, labels: Tensor) -> dict[str, float]:
    """The numbers of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = attack(observation, generator=torch.Generator().manual_seed(0))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    got = result.labels if result.labels is not None else labels[:0]
    sure = torch.bincount(got[result.certified], minlength=observation.classes) if len(got) else torch.zeros(1)
    true = torch.bincount(labels, minlength=observation.classes)
    whole = len(got) > 0 and bool(result.certified.all())
    wrong = sure - true if whole else (sure - true).clamp_min(0)  # where all are certified none may be lacking
    multiple = observation.latest.batch_size is None and whole and _is_multiple(true, sure)
    return {
        "leacc": leacc(got, labels, observation.classes),
        "lnacc": lnacc(got, labels, observation.classes),
        "exact_vector": exact_vector(got, labels, observation.classes),
        "l1_half": l1_half(got, labels, observation.classes),
        "ms": 1000 * wall,
        "cpu_ms": 1000 * cpu,
        "exact": float(whole),
        "certified_labels": float(sure.sum()),
        "wrong_certified": float(wrong.abs().sum()) if len(got) and not multiple else 0.0,
        "multiples": float(multiple),
        "failed": float(result.outcome is Outcome.FAILED),
    }


def _is_multiple(true: Tensor, sure: Tensor) -> bool:
    """Whether the batch is two or more copies of what was certified, which a server cannot tell, nor claims to."""
    copies = int(true.sum()) // max(1, int(sure.sum()))
    return copies > 1 and torch.equal(true, copies * sure)


def observe(
    net: nn.Sequential, inputs: Tensor, labels: Tensor, bounds: tuple[Tensor, Tensor], *, known: bool
) -> Observation:
    """What the server has; of convolutional networks the gradients of the last layers that are linear."""
    if any(isinstance(module, nn.Linear) for module in list(net)[:-1]) and not isinstance(net[0], nn.Conv2d):
        parameters = dict(net.named_parameters())
        gradients = torch.autograd.grad(cross_entropy(net(inputs), labels), list(parameters.values()))
        return _view(net, dict(zip(parameters, gradients, strict=True)), inputs, labels, bounds, known=known)
    first = len(net) - 3 if len(net) > 3 and isinstance(net[-3], nn.Linear) else len(net) - 1
    with torch.no_grad():
        features = net[:first](inputs)
    head = net[first:]
    gradients = torch.autograd.grad(cross_entropy(head(features), labels), list(head.parameters()))
    names = [name for name, _ in head.named_parameters()]
    return _view(net, dict(zip(names, gradients, strict=True)), inputs, labels, bounds, known=known)


def _view(
    net: nn.Sequential,
    gradients: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    known: bool,
) -> Observation:
    one = Round(network=net, update=GradientUpdate(gradients), batch_size=len(labels) if known else None)
    return Observation(rounds=(one,), input_shape=tuple(inputs.shape[1:]), classes=net[-1].out_features, bounds=bounds)


def draws(
    data: tuple[Tensor, Tensor], examples: int, batches: int, index: int, skew: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without replacement; with labels from Dirichlet(skew) if that is positive, then with replacement."""
    x, y = data
    for batch in range(batches):
        generator = torch.Generator().manual_seed(1000 * index + batch)
        if skew:
            rng = np.random.default_rng(1000 * index + batch)
            shares = rng.dirichlet(np.full(int(y.max()) + 1, skew))[y.numpy()] + 1e-12
            chosen = torch.from_numpy(rng.choice(len(y), examples, p=shares / shares.sum()))
        else:
            chosen = torch.randperm(len(x), generator=generator)[:examples]
        yield x[chosen], y[chosen]

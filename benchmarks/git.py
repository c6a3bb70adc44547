"""GIT, LTI, DLG, IG and GIT+IG, scaled down for a CPU. Run: python benchmarks/git.py --part attacks --cells CELL,...

A cell is ``NETWORK/B`` on CIFAR-10, or ``lfw64@NETWORK/B`` and ``photos64@NETWORK/B`` on faces and photos at 64 x 64.
"""

import argparse
from collections.abc import Iterator

import torch
from git_cells import Plan, Remembered, Score, attacked, cifar, cifar100, planned, split, trained, trained_on
from git_page import Row, keep, write
from torch import nn

from seepage.attacks.budget import Budget
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import build_module
from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.matching import dlg, ig, refined
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.recursion.chain import read_chain
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.training import Training, train_inverter
from seepage.attacks.vitpatches import ViTPatches
from seepage.networks.architectures import ViT
from seepage.networks.zoo import build_network
from seepage.types import Attack, Obstacle, PrivateBatch

FULL = 600  # iterations of IG at LeNet; GIT+IG gets a third
DEEP = 200  # the same at networks with more layers, where a step takes ten times as long
DEEP_FROM = 20  # parameters
REFINED = "Coarse-GIT + IG, a third"
FOREIGN = ", pairs of CIFAR-100"


def main() -> None:
    """Run one part; rows go to the JSON file as they are measured, and the page is written from all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("attacks", "pairs", "exact", "robust", "page"), default="attacks")
    parser.add_argument("--cells", default="lenet:sigmoid/1", help="[data@]network/b,...")
    parser.add_argument("--seeds", default="0,1", help="Numbers; all cells of one seed before the next seed.")
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument(
        "--seconds", type=float, default=40, help="CPU, of a training of Coarse-GIT; LTI gets a call's more."
    )
    parser.add_argument("--only", default="", help="Attacks measured again, by name: A;B. Else those without a row.")
    parser.add_argument("--batches", type=int, default=4, help="Attacked, each seed.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    part = {"attacks": attacks, "pairs": attacks, "robust": robust}.get(options.part)
    if options.part == "exact":
        exact(options)
    for seed in options.seeds if part is not None else []:
        for cell in options.cells.split(","):
            part(cell, seed, options)
            print(f"{options.part} {cell}: seed {seed} done", flush=True)
    write()


def attacks(cell: str, seed: int, options: argparse.Namespace) -> None:
    """All attacks on one network and batch size, with one seed; of part ``pairs`` those that learn, kept beside."""
    where, _, size = cell.partition("/")
    source, _, name = where.rpartition("@")
    source, examples = source or "cifar10", int(size)
    public, private = split(source, options.pairs, seed)
    classes = int(max(public.labels.max(), private.labels.max())) + 1
    network = build_network(name, input_shape=tuple(public.inputs.shape[1:]), classes=classes, seed=seed)
    place = {"part": options.part, "data": source, "network": name, "examples": examples, "seed": seed}
    if options.part == "pairs":
        place |= {"pairs": options.pairs, "limit": options.seconds}
        options.only = options.only or "Coarse-GIT;LTI"
    plan = planned(place, again=options.only)
    for word, attack, training in candidates(network, public, examples, plan, seconds=options.seconds, seed=seed):
        scores: list[Score | None] = []
        for rows in torch.arange(options.batches * examples).reshape(-1, examples):
            batch = PrivateBatch(inputs=private.inputs[rows], labels=private.labels[rows])
            scores.append(attacked(attack, network, batch, classes=classes))
        row = {"scores": scores, "training": training, "pairs": len(public), "limit": options.seconds}
        plan.known[word] = row | {"walk": iterations(network)}
        keep([plan.known[word]], **place, attack=word)


def iterations(network: nn.Module) -> int:
    """Of IG, which is slow at deep networks."""
    return FULL if len(list(network.parameters())) < DEEP_FROM else DEEP


def candidates(
    network: nn.Module, public: PrivateBatch, examples: int, plan: Plan, *, seconds: float, seed: int
) -> Iterator[tuple[str, Attack, float | None]]:
    """The attacks asked for, one at a time: name, attack, and CPU seconds of its training."""
    full = iterations(network)
    near = 1000 if full == FULL else 200
    untrained: dict[str, Attack] = {
        "public mean": PublicMean(inputs=public.inputs, examples=examples),
        "nearest public": NearestPublic(inputs=public.inputs[:near], labels=public.labels[:near], examples=examples),
        "DLG": dlg(starts=2, budget=Budget(samples=full if full == FULL else full // 4)),
        "IG": ig(iterations=full),
        "IG, a third": ig(iterations=full // 3),
    }
    if examples == 1 and isinstance(network, ViT):
        untrained["ViT-patches"] = ViTPatches()
    if examples == 1 and not isinstance(read_chain(network, public.inputs.shape[1:]), Obstacle):
        untrained["Solved-GIT"] = SolvedGIT(public=public.inputs)
    if plan.asks("Coarse-GIT") or plan.asks(REFINED):
        found, spent = trained(network, InverterKind.COARSE_GIT, public, examples=examples, seconds=seconds, seed=seed)
        git = Remembered(found.inverter)
        if plan.asks("Coarse-GIT"):
            yield "Coarse-GIT", git, spent
        if plan.asks(REFINED):
            yield REFINED, refined(git, iterations=full // 6), None  # two gradients each
    if plan.asks("LTI"):  # it gets the time of Coarse-GIT's training, and that of one call too
        limit = plan.taken("Coarse-GIT")
        found, spent = trained(network, InverterKind.LTI, public, examples=examples, seconds=limit, seed=seed)
        yield "LTI", found.inverter, spent
    yield from ((word, attack, None) for word, attack in untrained.items() if plan.asks(word))


def robust(cell: str, seed: int, options: argparse.Namespace) -> None:
    """One example: noised gradients, pairs of other data, parameters that moved on after the training of the attack."""
    name = cell.partition("/")[0]
    public, private = cifar("train_batch1"), cifar("test")
    chance = torch.Generator().manual_seed(seed)
    network = build_network(name, input_shape=public.input_shape, classes=10, seed=seed)
    order = torch.randperm(len(public), generator=chance)
    rest = order[options.pairs :]
    foreign = cifar100().batch(torch.randperm(len(cifar100()), generator=chance)[: options.pairs])
    data = {
        "": public.batch(order[: options.pairs]),
        FOREIGN: PrivateBatch(inputs=foreign.inputs, labels=foreign.labels % 10),  # any label makes a gradient
    }
    moved = {steps: trained_on(network, public, rest, steps) for steps in (1, 10, 100)}
    attacked_rows = torch.randperm(len(private), generator=chance)[: options.batches]
    place = {"part": "robust", "network": name, "seed": seed}
    plan = planned(place, again=options.only)
    for word, attack, training in robust_candidates(network, data, plan, seconds=options.seconds, seed=seed):
        own = [
            {
                "case": case,
                "scores": [attacked(attack, victim, private.batch(row[None]), noise=noise) for row in attacked_rows],
                "pairs": options.pairs,
                "limit": options.seconds,
                "training": training,
            }
            for case, (victim, noise) in cases(network, moved, foreign=FOREIGN in word).items()
        ]
        plan.known[word] = own[0]
        keep(own, **place, attack=word)


def cases(network: nn.Module, moved: dict[int, nn.Module], *, foreign: bool) -> dict[str, tuple[nn.Module, float]]:
    """The network that is attacked and the noise, by what the table calls it; fewer for pairs of other data."""
    found = {"none": (network, 0.0)}
    if not foreign:
        found |= {f"noise {share:g}": (network, share) for share in (1e-3, 1e-2, 1e-1)}
        found |= {f"{steps} steps on": (later, 0.0) for steps, later in moved.items()}
    return found | {"10 steps on, noise 0.01": (moved[10], 1e-2)}


def robust_candidates(
    network: nn.Module, data: dict[str, PrivateBatch], plan: Plan, *, seconds: float, seed: int
) -> Iterator[tuple[str, Attack, float | None]]:
    """The attacks asked for, one at a time: name, attack, and CPU seconds of its training."""
    for kind, name in ((InverterKind.COARSE_GIT, "Coarse-GIT"), (InverterKind.LTI, "LTI")):
        for source, pairs in data.items():
            if plan.asks(name + source):
                limit = plan.taken("Coarse-GIT" + source) if name == "LTI" else seconds
                found, spent = trained(network, kind, pairs, examples=1, seed=seed, seconds=limit)
                yield name + source, found.inverter, spent
    public = data[""].inputs
    untrained: dict[str, Attack] = {
        "public mean": PublicMean(inputs=public),
        f"IG, {DEEP}": ig(iterations=DEEP),
    }
    if not isinstance(read_chain(network, public.shape[1:]), Obstacle):
        untrained["Solved-GIT"] = SolvedGIT(public=public)
    yield from ((word, attack, None) for word, attack in untrained.items() if plan.asks(word))


def exact(options: argparse.Namespace) -> None:
    """Exact-GIT on a two-layer network: distance of Theta from the true weights, from a random start and from them."""
    public = cifar("train_batch1")
    done: list[Row] = []
    for seed in options.seeds:
        chance = torch.Generator().manual_seed(seed)
        network = build_network("mlp:64:sigmoid", input_shape=public.input_shape, classes=10, seed=seed)
        given = public.batch(torch.randperm(len(public), generator=chance)[: options.pairs])
        blueprint = draw_blueprint(network, kind=InverterKind.EXACT_GIT, input_shape=(3, 32, 32))
        for known in (False, True):
            module = build_module(blueprint)
            assert isinstance(module, ExactGIT)
            if known:
                module.start_from(network)
            before = module.distance_to(network)
            training = Training(epochs=12, seed=seed)
            found = train_inverter(network, blueprint, given.inputs, given.labels, training=training, module=module)
            learnt = found.inverter.module
            assert isinstance(learnt, ExactGIT)
            done.append(
                {"seed": seed, "start": "known weights" if known else "random", "pairs": options.pairs}
                | {"before": before, "after": learnt.distance_to(network)}
                | {"first": found.held_out_errors[1], "best": min(found.held_out_errors)}
            )
            print(done[-1], flush=True)
        keep(done, part="exact")


if __name__ == "__main__":
    main()

"""Training of attack networks on pairs of gradients and public inputs."""

import copy
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from seepage.attacks.checkpoint import Checkpoint, fingerprint
from seepage.attacks.git import CoarseGIT
from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.inverters.pairs import Pairs, PublicExamples, refuse_misfits
from seepage.attacks.trainingrun import Run, Trained, Training
from seepage.errors import InputError
from seepage.types import Progress, go_on

__all__ = ["Trained", "Training", "train_inverter"]


def train_inverter(
    network: nn.Module,
    blueprint: Blueprint,
    inputs: Tensor,
    labels: Tensor,
    *,
    training: Training,
    module: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress = go_on,
) -> Trained:
    """Train on gradients of the audited network as it stands, which is left as it is.

    The attacker is taken to know the network (it sends it out) and to have public inputs of the same kind.

    Args:
        network: the audited one.
        blueprint: of the attack network.
        inputs: ``[N, *shape]`` public inputs as the network sees them.
        labels: ``[N]`` their labels.
        training: how.
        module: an attack network to begin with, for example one that starts from known weights; else a fresh one.
        checkpoint: written after each epoch; where it stands already, the training is taken up.
        progress: asked after each step; on ``False`` the best so far is returned.

    Raises:
        InputError: too few public inputs, inputs or labels that do not fit the network, a network that does not fit
            the blueprint, numbers that are not finite, or a checkpoint of another training.
    """
    refuse_misfits(network, blueprint, inputs, labels)
    module = (build_module(blueprint) if module is None else copy.deepcopy(module)).train()
    run = Run(
        module=module,
        inverter=Inverter(blueprint=blueprint, module=module),
        optimizer=torch.optim.Adam(module.parameters(), lr=training.rate),
        pairs=Pairs(network, inputs, labels, blueprint.examples),
        training=training,
        parts=_parts(len(inputs), blueprint.examples, training),
    )
    kept = None
    if checkpoint is not None:
        said = {word: value for word, value in asdict(training).items() if value is not None}
        said |= {"weights or public data": fingerprint(network, inputs, labels)}
        kept = Checkpoint(path=checkpoint, training=said)
    if kept is not None and kept.path.is_file():
        run.books = kept.take_up(run.inverter, run.optimizer)
    else:
        run.begin(progress)
    run.walked = time.process_time()
    while run.goes_on() and run.epoch(progress):
        if kept is not None:
            kept.write(run.inverter, run.optimizer, run.books)
    held, rest = run.parts
    along = isinstance(module, CoarseGIT) and module.map is not None  # without the closed map none are needed
    return run.finished(PublicExamples.of(inputs, labels, held, rest, blueprint.examples) if along else None)


def _parts(count: int, examples: int, training: Training) -> tuple[Tensor, Tensor]:
    """Which public inputs are held out, and the others."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(training.seed))
    kept = max(examples, round(training.held_out * count))
    if count - kept < examples:
        wanted = f"more than {kept + examples} public inputs for batches of {examples}"
        raise InputError(f"There should be {wanted}; found {count}.")
    return order[:kept], order[kept:]

"""One point of a sweep's grid as plain values, its shards, and the audit that it stands for."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, fields

import torch

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.run import Audit
from seepage.data.sources import Dataset, load_dataset
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel

__all__ = ["Cell", "Shard", "build_audit", "shards_of"]

_HASH_LENGTH = 16  # hexadecimal digits: 64 bits tell all cells of any sweep apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Everything that decides one audit, as texts and numbers: it travels to workers and is what the hash is of.

    Args:
        network: as on the command line, ``mlp:400,400``.
        data: a path or a bundled name.
        normalize: as on the command line.
        target: a table's label column, ``""`` for the last.
        size: images are cropped to this, 0 for as they are.
        weights: a ``.safetensors`` file, ``""`` for a fresh start from the seed.
        rule: what the client does.
        defenses: applied in order, each as on the command line.
        knowledge: what the server knows besides, of ``batch_size``, ``labels``, ``rule``, ``bounds``, sorted.
        attack: what the server does.
        layer: the layer to attack, ``""`` for the first that fits.
        samples: budget of a batch in samples or starts, 0 for no such limit.
        seconds: budget of a batch in seconds, 0 for no such limit.
        batch_size: examples a batch.
        batches: how many batches.
        seed: root of the cell's chance; two cells that share it attack the same batches.
        dtype: ``float32`` or ``float64``.
    """

    network: str
    data: str
    normalize: str = "channel"
    target: str = ""
    size: int = 0
    weights: str = ""
    rule: str = "fedsgd"
    defenses: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ("bounds", "rule")
    attack: str = "spear"
    layer: str = ""
    samples: int = 0
    seconds: float = 0.0
    batch_size: int
    batches: int = 1
    seed: int = 0
    dtype: str = "float32"

    @property
    def hash(self) -> str:
        """The same for equal cells on every machine; ``batches`` is left out, so that a sweep can be lengthened."""
        values = {key: value for key, value in asdict(self).items() if key != "batches"}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]

    @property
    def threat_model(self) -> ThreatModel:
        """What the server knows besides the network and the update."""
        return ThreatModel(**{one.name: one.name in self.knowledge for one in fields(ThreatModel)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The unit of work: some batches of one cell. Its result depends on it alone, not on who computes it or when.

    The chance of batch ``i`` comes from ``SeedSequence(cell.seed, spawn_key=(i, purpose))``, whichever shard holds it.

    Args:
        cell: the setting.
        batches: which of the cell's batches, following one another.
    """

    cell: Cell
    batches: tuple[int, ...]

    @property
    def key(self) -> str:
        """The name of its result's file: the cell's hash, the first batch and the last."""
        return f"{self.cell.hash}-{self.batches[0]}-{self.batches[-1]}"


def shards_of(cell: Cell, *, size: int) -> list[Shard]:
    """A cell's batches, ``size`` at a time."""
    starts = range(0, cell.batches, size)
    return [Shard(cell=cell, batches=tuple(range(start, min(start + size, cell.batches)))) for start in starts]


def build_audit(cell: Cell) -> Audit:
    """The audit that a cell stands for.

    Raises:
        InputError: a name is not known, a file cannot be read, or network and data do not fit.
    """
    dataset = _dataset(cell.data, cell.normalize, cell.target, cell.size)
    network = build_network(
        cell.network,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        seed=cell.seed,
        weights=cell.weights or None,
    )
    budget = Budget(samples=cell.samples or None, seconds=cell.seconds or None)
    return Audit(
        network=network,
        network_name=cell.network,
        dataset=dataset,
        rule=build_rule(cell.rule),
        defenses=tuple(build_defense(text) for text in cell.defenses),
        threat_model=cell.threat_model,
        attack=build_attack(cell.attack, budget=budget, layer=cell.layer or None),
        batch_size=cell.batch_size,
        batches=cell.batches,
        seed=cell.seed,
        dtype=getattr(torch, cell.dtype),
    )


@functools.lru_cache(maxsize=2)
def _dataset(source: str, normalize: str, target: str, size: int) -> Dataset:
    """A worker reads the data once, not once a shard."""
    return load_dataset(source, normalize=normalize, target=target or None, size=size or None)

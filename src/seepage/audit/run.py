"""One way from a private batch to a finding: rule, defenses, threat model, attack; then the truth, and only then."""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage.audit.chances import chance
from seepage.audit.environment import peak_memory_mib, versions
from seepage.audit.findings import Finding, Score
from seepage.audit.labelcatalogue import LABEL_ATTACKS
from seepage.audit.returned import checked
from seepage.audit.scores.activity import exposing_scores
from seepage.audit.scores.scoring import Scored, score
from seepage.audit.scores.watched import layer_inputs
from seepage.audit.unread import unread_parameters
from seepage.data.sources import Dataset, InputKind, draw_batch
from seepage.errors import InputError
from seepage.metrics import recognisable_images
from seepage.networks.layers import read_once
from seepage.types import (
    NOT_BEGUN,
    Attack,
    Defense,
    GradientUpdate,
    Observation,
    PrivateBatch,
    Progress,
    Reconstruction,
    ThreatModel,
    UpdateRule,
    go_on,
)

__all__ = ["Audit", "Audited"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A finding, and the pictures that belong to it if there are any: ``[b, *shape]`` each, in [0, 1]."""

    finding: Finding
    pictures: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Everything that decides a run; two equal audits give equal findings, up to the last bits of a sum.

    Args:
        network: as the server sends it out.
        network_name: how the user named it.
        dataset: where batches are drawn from, without replacement.
        rule: what the client does.
        defenses: applied to its update in order.
        threat_model: what the server knows besides.
        attack: what the server does.
        batch_size: examples a batch.
        batches: how many batches, each drawn and attacked apart.
        seed: root of all chance.
        dtype: float32 or float64, for the network and the data.
        device: where the network and the attack run.
    """

    network: nn.Module
    network_name: str
    dataset: Dataset
    rule: UpdateRule
    attack: Attack
    batch_size: int
    batches: int = 1
    seed: int = 0
    defenses: tuple[Defense, ...] = ()
    threat_model: ThreatModel = ThreatModel()  # noqa: RUF009 - frozen
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        for word in ("batch_size", "batches"):
            if getattr(self, word) < 1:
                raise InputError(f"`{word}` should be at least 1; found {getattr(self, word)}.")

    def __call__(self, *, done: frozenset[int] = frozenset(), progress: Progress = go_on) -> Iterator[Audited]:
        """Audit the batches that are not ``done`` yet, one after the other.

        Raises:
            InputError: the batch does not fit the data or the network.
        """
        network = copy.deepcopy(self.network).to(self.device, self.dtype)
        for index in range(self.batches):
            if index not in done:
                yield self._audit_batch(network, index, progress)

    @read_once()
    def _audit_batch(self, network: nn.Module, index: int, progress: Progress) -> Audited:
        batch = self._draw(index)
        observation = self._observe(network, batch, index)
        started = time.monotonic()
        obstacles = [str(obstacle) for obstacle in self.attack.obstacles(observation)]
        reconstruction, error = None, None
        if not obstacles:
            try:
                returned = self.attack(observation, generator=chance(self.seed, index, "attack"), progress=progress)
                reconstruction = checked(returned, observation.input_shape)
            except Exception as raised:  # a crash is a row of its own, never "found nothing"
                error = f"{type(raised).__name__}: {raised}"
        if reconstruction is not None and reconstruction.stats.get("stopped") == NOT_BEGUN:
            obstacles, reconstruction = [f"{self.attack.name}: {reconstruction.reason}"], None
        seconds = time.monotonic() - started
        scored, unread = Scored(), list[str]()
        if reconstruction is not None:
            sent = observation.latest.update
            scored = self._scored(reconstruction, network, batch, sent, index)
            if not self._of_labels(reconstruction):
                unread = unread_parameters(network, sent, observation.input_shape)
        finding = self._finding(
            index=index,
            obstacles=obstacles,
            found=reconstruction,
            error=error,
            scored=scored,
            seconds=seconds,
            unread=unread,
        )
        return Audited(finding=finding, pictures=scored.pictures)

    def _scored(
        self, found: Reconstruction, network: nn.Module, batch: PrivateBatch, sent: GradientUpdate, index: int
    ) -> Scored:
        """The truth meets the reconstruction; of an inner layer, with the client's own draws of dropout."""

        def client(watched: nn.Module) -> object:
            return self.rule(watched, batch, chance(self.seed, index, "client"))

        taken = client if self.rule.is_gradient else None  # local steps feed an inner layer anew each time
        scored = score(found, batch, self.dataset, lambda layer: layer_inputs(network, layer, batch.inputs, taken))
        if not self._of_labels(found):
            shows = self._shows if self.dataset.kind is InputKind.IMAGE else None
            exposed = exposing_scores(
                network, batch.inputs, sent, layer=found.layer, client=taken if found.layer else None, shows=shows
            )
            scored.scores |= {name: list[Score](values) for name, values in exposed.items()}
        return scored

    def _of_labels(self, found: Reconstruction) -> bool:
        return self.attack.name in LABEL_ATTACKS or (found.inputs is None and found.labels is not None)

    def _shows(self, guesses: Tensor, originals: Tensor) -> Tensor:
        """Which pictures are recognisable, ``[b]`` bool, of inputs as the network sees them."""
        found, true = (self.dataset.normalization.invert(one.double().cpu()) for one in (guesses, originals))
        return recognisable_images(found.clamp(0, 1), true).to(guesses.device)

    def _draw(self, index: int) -> PrivateBatch:
        batch, _ = draw_batch(self.dataset, batch_size=self.batch_size, generator=chance(self.seed, index, "data"))
        return PrivateBatch(inputs=batch.inputs.to(self.device, self.dtype), labels=batch.labels.to(self.device))

    def _observe(self, network: nn.Module, batch: PrivateBatch, index: int) -> Observation:
        generator = chance(self.seed, index, "client")
        try:
            update = self.rule(network, batch, generator)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shape, why = list(batch.inputs.shape), (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"The network {self.network_name} should take inputs of shape {shape}; found: {why}."
            ) from error
        for defense in self.defenses:
            update = defense(update, generator)
        low, high = self.dataset.normalization.bounds()
        return self.threat_model.view(
            network=network,
            update=GradientUpdate(update),
            batch=batch,
            rule=self.rule,
            classes=self.dataset.classes,
            bounds=(low.to(batch.inputs), high.to(batch.inputs)),
        )

    def _finding(
        self,
        *,
        index: int,
        obstacles: list[str],
        found: Reconstruction | None,
        error: str | None,
        scored: Scored,
        seconds: float,
        unread: list[str],
    ) -> Finding:
        return Finding(
            attack=self.attack.name,
            network=self.network_name,
            rule=self.rule.name,
            defenses=[defense.name for defense in self.defenses],
            threat_model=self.threat_model.name,
            data=self.dataset.name,
            normalize=self.dataset.normalization.name,
            batch_size=self.batch_size,
            batch=index,
            seed=self.seed,
            outcome=None if found is None else found.outcome.value,
            obstacles=obstacles,
            error=error,
            reason="" if found is None else found.reason,
            certified=scored.certified,
            scores=scored.scores,
            columns=scored.columns,
            unread=unread,
            labels=None if found is None or found.labels is None else sorted(found.labels.tolist()),
            true_labels=scored.true_labels,
            layer="" if found is None else found.layer,
            stats={} if found is None else dict(found.stats),
            seconds=seconds,
            peak_memory_mib=peak_memory_mib(self.device),
            device=str(self.device),
            versions=versions(),
        )

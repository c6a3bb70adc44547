"""``seepage.audit(network, (inputs, labels))``: one batch in, findings out that show themselves in a notebook."""

import copy
import html
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.chances import chance
from seepage.audit.control import with_control
from seepage.audit.findings import Finding
from seepage.audit.record import Verdict, verdict
from seepage.audit.run import Audit
from seepage.data.normalization import make_normalization
from seepage.data.sources import Dataset, InputKind, draw_batch
from seepage.errors import InputError
from seepage.networks.auditable import auditable
from seepage.types import GRANT_SIZE, Attack, Defense, PrivateBatch, ThreatModel, UpdateRule

__all__ = ["Findings", "audit_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one batch gives away. In a notebook it shows a table; figures only, no private input.

    Args:
        finding: the row, its positive control included; its examples in the order in which they were drawn.
        order: for each of these, its position in the batch that was handed in.
    """

    finding: Finding
    order: tuple[int, ...]

    @property
    def verdict(self) -> Verdict:
        """The exit code that the command line would end with."""
        return verdict([self.finding], batches=1, threshold=0.0)

    @property
    def exposed(self) -> list[int]:
        """Positions in the batch of the examples that were reconstructed exactly or recognisably."""
        return sorted(position for position, given in zip(self.order, self.finding.given(), strict=True) if given)

    def __str__(self) -> str:
        word = self.verdict.name.lower().replace("_", " ")
        one = self.finding
        seen = f", {one.recognisable_examples} recognisable" if one.recognisable_examples > one.exact_examples else ""
        return f"{word}: {one.exact_examples} of {one.batch_size} examples exact{seen}"

    def _repr_html_(self) -> str:
        one = self.finding
        rows = [
            ("attack", one.attack),
            ("exact", f"{one.exact_examples} of {one.batch_size}"),
            ("certified", str(sum(one.certified))),
            ("positions exposed", ", ".join(map(str, self.exposed)) or "none"),
            ("how it ended", one.reason or " ".join(one.obstacles) or one.error or ""),
        ]
        if one.control is not None:
            rows.append(("positive control", "passed" if one.control.passed else "failed"))
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
        return f"<table><caption>{html.escape(str(self))}</caption>{cells}</table>"


def audit_batch(
    network: nn.Module,
    batch: PrivateBatch | tuple[Tensor, Tensor],
    *,
    rule: str | UpdateRule = "fedsgd",
    defenses: Sequence[str | Defense] = (),
    attack: str | Attack = "auto",
    threat_model: ThreatModel | None = None,
    classes: int | None = None,
    seconds: float = 60.0,
    seed: int = 0,
) -> Findings:
    """Attack one batch as the server would, and score it against the truth.

    Args:
        network: as the server sends it out; it stays as it is.
        batch: inputs ``[b, *shape]`` as the network sees them, and labels ``[b]``.
        rule, defenses, attack: as on the command line, or made in Python.
        threat_model: what the server knows besides network and update; as on the command line without ``--knows``.
        classes: how many the network tells apart; as many as it has outputs if left out.
        seconds: budget of an attack that is named; one made in Python has its own.
        seed: of all chance.

    Raises:
        InputError: a name is not known, or network and batch do not fit.
    """
    network = auditable(network)
    _refuse_misfits(rule, defenses, attack, threat_model, seed)
    private = batch if isinstance(batch, PrivateBatch) else _batch_of(batch)
    dataset = _dataset_of(private, _outputs(network, private.inputs) if classes is None else classes)
    audit = Audit(
        network=network,
        network_name=type(network).__name__,
        dataset=dataset,
        rule=build_rule(rule, option="rule") if isinstance(rule, str) else rule,
        defenses=tuple(build_defense(one, option="defenses") if isinstance(one, str) else one for one in defenses),
        attack=build_attack(attack, budget=Budget(seconds=seconds), option="attack")
        if isinstance(attack, str)
        else attack,
        threat_model=ThreatModel() if threat_model is None else threat_model,
        batch_size=len(private),
        seed=seed,
        dtype=private.inputs.dtype,
        device=private.inputs.device,
    )
    (audited,) = with_control(audit)
    _, order = draw_batch(dataset, batch_size=len(private), generator=chance(seed, 0, "data"))
    return Findings(finding=_advised(audited.finding), order=tuple(order.tolist()))


def _advised(finding: Finding) -> Finding:
    """Advice as it is followed from Python."""
    own = "grant it (`threat_model=ThreatModel(batch_size=True)`)"
    obstacles = [one.replace(GRANT_SIZE, own) for one in finding.obstacles]
    return finding.model_copy(update={"obstacles": obstacles, "reason": finding.reason.replace(GRANT_SIZE, own)})


def _dataset_of(batch: PrivateBatch, classes: int) -> Dataset:
    inputs = batch.inputs.detach().cpu().float()
    return Dataset(
        name="a batch",
        kind=InputKind.OTHER,
        inputs=inputs,
        labels=batch.labels.cpu(),
        class_names=tuple(str(number) for number in range(classes)),
        normalization=make_normalization("none", inputs),
        table=None,
        sha256="",
    )


def _refuse_misfits(rule: object, defenses: object, attack: object, threat_model: object, seed: object) -> None:
    if isinstance(defenses, str) or not isinstance(defenses, Sequence):
        raise InputError(f"`defenses` should be a list of defenses; found {defenses!r}.")
    for word, given, kind in (
        ("rule", rule, UpdateRule),
        ("attack", attack, Attack),
        *(("defenses", one, Defense) for one in defenses),
    ):
        if isinstance(given, type) or not isinstance(given, str | kind):
            found = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
            raise InputError(f"`{word}` should be a name or an instance of {kind.__name__}; found {found}.")
    if not isinstance(threat_model, ThreatModel | None):
        raise InputError(f"`threat_model` should be a ThreatModel; found {threat_model!r}.")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"`seed` should be a whole number, at least 0; found {seed!r}.")


def _batch_of(batch: tuple[Tensor, Tensor]) -> PrivateBatch:
    """The two tensors, or a word about what was handed in instead: NumPy arrays, three things, one."""
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"`batch` should be inputs and labels, two tensors in a tuple; found {found}.")
    return PrivateBatch(inputs=parts[0], labels=parts[1])


def _outputs(network: nn.Module, inputs: Tensor) -> int:
    """How many classes the network tells apart; in evaluation mode, since one example has no batch statistics."""
    probe = copy.deepcopy(network).eval()
    try:
        with torch.no_grad():
            outputs = probe(inputs[:1].clone())  # it may work in place
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"The network should take `inputs` like {list(inputs[:1].shape)}, {inputs.dtype}; found: {first}."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"The network should return one tensor [b, classes] of logits; found {found}: wrap it in a module that "
            "does."
        )
    return int(outputs.shape[1])

"""Rule x defenses x threat model x attack -> findings. The room can be called: ``seepage.audit(network, batch)``."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from seepage.audit.threelines import Findings
    from seepage.types import Attack, Defense, PrivateBatch, ThreatModel, UpdateRule


class _Room(ModuleType):
    """The name ``seepage.audit`` is a package and, for three lines of Python, a function."""

    def __call__(
        self,
        network: "nn.Module",
        batch: "PrivateBatch | tuple[Tensor, Tensor]",
        *,
        rule: "str | UpdateRule" = "fedsgd",
        defenses: "Sequence[str | Defense]" = (),
        attack: "str | Attack" = "auto",
        threat_model: "ThreatModel | None" = None,
        classes: int | None = None,
        seconds: float = 60.0,
        seed: int = 0,
    ) -> "Findings":
        """See :func:`seepage.audit.threelines.audit_batch`; imported only when called."""
        from seepage.audit.threelines import audit_batch

        return audit_batch(
            network,
            batch,
            rule=rule,
            defenses=defenses,
            attack=attack,
            threat_model=threat_model,
            classes=classes,
            seconds=seconds,
            seed=seed,
        )


sys.modules[__name__].__class__ = _Room

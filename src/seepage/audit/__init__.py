"""Rule x defenses x threat model x attack -> findings. The room can be called: ``seepage.audit(network, batch)``."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seepage.audit.threelines import Findings


class _Room(ModuleType):
    """The name ``seepage.audit`` is a package and, for three lines of Python, a function."""

    def __call__(
        self,
        network: Any,
        batch: Any,
        *,
        rule: str = "fedsgd",
        defenses: tuple[str, ...] = (),
        attack: str = "spear",
        classes: int | None = None,
        seconds: float = 60.0,
        seed: int = 0,
    ) -> "Findings":
        """See :func:`seepage.audit.threelines.audit_batch`; imported only when called."""
        from seepage.audit.threelines import audit_batch

        return audit_batch(
            network, batch, rule=rule, defenses=defenses, attack=attack, classes=classes, seconds=seconds, seed=seed
        )


sys.modules[__name__].__class__ = _Room

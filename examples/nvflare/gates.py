"""A client's own gate, named in the job as ``gates:hold_back_leaks``: what its attack gets out does not leave."""

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.captured import CapturedAudit
from seepage.audit.gate import LeakGate
from seepage.networks.zoo import build_network

SHAPE, CLASSES = (1, 8, 8), 10


def hold_back_leaks() -> LeakGate:
    """For ``mlp:200`` on the digits."""
    network = build_network("mlp:200", input_shape=SHAPE, classes=CLASSES, seed=0)
    attack = SPEAR(budget=Budget(seconds=30.0))
    return LeakGate(audit=CapturedAudit(network=network, input_shape=SHAPE, classes=CLASSES, attack=attack))

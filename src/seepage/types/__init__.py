"""The values that travel: what a client holds, what it sends, what the server sees, what an attack returns."""

from seepage.types.attack import (
    GRANT_SIZE,
    INTERRUPTED,
    NOT_BEGUN,
    Attack,
    Obstacle,
    Outcome,
    Progress,
    Reconstruction,
    Stats,
    go_on,
)
from seepage.types.client import GradientUpdate, PrivateBatch
from seepage.types.rules import Defense, LocalSteps, LocalTraining, NoisyRule, Replayable, Traces, UpdateRule
from seepage.types.server import Observation, Round, ThreatModel

__all__ = [
    "GRANT_SIZE",
    "INTERRUPTED",
    "NOT_BEGUN",
    "Attack",
    "Defense",
    "GradientUpdate",
    "LocalSteps",
    "LocalTraining",
    "NoisyRule",
    "Observation",
    "Obstacle",
    "Outcome",
    "PrivateBatch",
    "Progress",
    "Reconstruction",
    "Replayable",
    "Round",
    "Stats",
    "ThreatModel",
    "Traces",
    "UpdateRule",
    "go_on",
]

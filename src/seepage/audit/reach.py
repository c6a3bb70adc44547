"""How far each exact attack reaches before any data is seen: theory, a rule of thumb, and what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from seepage.attacks.spear import expected_samples

__all__ = ["REACHES", "Expectation", "Measured", "Reach"]

_SPEAR_SAMPLES = expected_samples(20, 400)  # what b = 20 at 400 units takes: seconds (benchmarks/results/spear.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One line of a benchmark: batches of CIFAR-10 at a network whose first layer has so many units, FedSGD.

    Args:
        units: ``m`` of the attacked layer.
        batch_size: ``b``.
        whole: batches of which every example came out, certified.
        batches: of so many.
        seconds: median of the attack.
    """

    units: int
    batch_size: int
    whole: int
    batches: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What to expect at one batch size.

    Args:
        words: in a few words, with the measurement it rests on where there is one.
        exact: ``True`` and ``False`` where measured, ``None`` where not.
        seconds: of that measurement; ``None`` where there is none, or nothing was found.
    """

    words: str
    exact: bool | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One attack.

    Args:
        attack: its name on the command line.
        mark: tells its lines apart, if the network decides which holds.
        source: the benchmark that the measurements are from, with commands, seeds and machine.
        about: from units to the batch size that theory or experience gives.
        because: where ``about`` comes from.
        points: measurements.
        least_layers: affine layers that the network should have.
    """

    attack: str
    source: str
    about: Callable[[int], int]
    because: str
    points: tuple[Measured, ...]
    least_layers: int = 2
    mark: str = ""

    @property
    def title(self) -> str:
        """The attack, marked where it has two lines."""
        return f"{self.attack}{self.mark}"

    def misfit(self, *, layers: int) -> str:
        """Why the figures do not hold for a network; empty if they do."""
        return f"needs {self.least_layers - 1} hidden layers" if layers < self.least_layers else ""

    def measured_up_to(self, units: int) -> int:
        """The largest batch of which every one was whole, at so many units or fewer; 0 if none was measured."""
        whole = (one.batch_size for one in self.points if one.units <= units and one.whole == one.batches)
        return max(whole, default=0)

    def expect(self, units: int, batch_size: int) -> Expectation:
        """A larger batch at no more units tells that a smaller one is exact; and the other way round for failures."""
        harder = [one for one in self.points if one.units <= units and one.batch_size >= batch_size]
        safe = [one for one in harder if one.whole == one.batches]
        easier = [one for one in self.points if one.units >= units and one.batch_size <= batch_size]
        lost = [one for one in easier if one.whole == 0]
        if safe:
            near = min(safe, key=lambda one: (one.batch_size, -one.units))
            return Expectation(words=f"exact ({_words(near)})", exact=True, seconds=near.seconds)
        if lost:
            near = max(lost, key=lambda one: (one.batch_size, -one.units))
            return Expectation(words=f"not whole ({_words(near)})", exact=False, seconds=None)
        within = batch_size <= self.about(units)
        return Expectation(words=f"not measured; {'likely' if within else 'not expected'}", exact=None, seconds=None)


def _words(one: Measured) -> str:
    return f"{one.whole} of {one.batches} batches at b = {one.batch_size}, m = {one.units}"


def _points(*rows: tuple[int, int, int, int, float]) -> tuple[Measured, ...]:
    words = ("units", "batch_size", "whole", "batches", "seconds")
    return tuple(Measured(**dict(zip(words, row, strict=True))) for row in rows)  # type: ignore[arg-type]


def _spear(units: int) -> int:
    return max((b for b in range(1, min(units, 64)) if expected_samples(b, units) <= _SPEAR_SAMPLES), default=0)


REACHES: tuple[Reach, ...] = (
    Reach(
        attack="spear",
        source="benchmarks/results/spear.md",
        about=_spear,
        because="expected samples at most those of b = 20 at 400 units",
        points=_points((400, 10, 10, 10, 0.1), (400, 16, 10, 10, 0.3), (400, 20, 10, 10, 7.7)),
    ),
    Reach(
        attack="spearpp",
        source="benchmarks/results/spearpp.md",
        about=lambda units: min(units // 8, 210),
        because="8 units an example, at most 210",
        points=_points(
            (400, 8, 10, 10, 0.1), (400, 16, 10, 10, 0.1), (400, 20, 10, 10, 0.1), (1000, 24, 2, 2, 0.2),
            (1000, 50, 2, 2, 0.3), (1000, 100, 2, 2, 1.7), (1000, 120, 10, 10, 6.4), (1000, 150, 0, 2, 20.3),
            (1000, 210, 0, 2, 20.9), (2000, 150, 2, 2, 5.0), (2000, 210, 0, 2, 21.2), (4000, 150, 2, 2, 9.1),
            (4000, 210, 2, 2, 15.5), (4000, 256, 1, 2, 24.7),
        ),
        least_layers=3,
    ),
    Reach(
        attack="prism",
        source="benchmarks/results/prism.md",
        about=lambda units: min(units // 5, 512),
        because="5 units an example, at most 512; tables and inner layers too",
        points=_points(
            (200, 40, 10, 10, 1.4), (500, 100, 10, 10, 5.0), (1000, 160, 10, 10, 13.5), (1050, 210, 10, 10, 31.5),
            (1500, 300, 10, 10, 87.7), (2100, 210, 10, 10, 45.6), (4000, 512, 3, 3, 303.0),
        ),
    ),
    Reach(
        attack="prism",
        mark="*",
        source="benchmarks/results/phase.csv",
        about=lambda units: min(units // 2, 256),
        because="2 units an example where every later hidden layer is wider than the batch",
        points=_points(
            (32, 16, 10, 10, 1.3), (64, 32, 10, 10, 3.1), (128, 64, 10, 10, 9.3), (200, 100, 10, 10, 16.9),
            (320, 160, 10, 10, 45.5), (420, 210, 10, 10, 54.2), (512, 256, 6, 6, 141.7),
        ),
        least_layers=3,
    ),
)  # fmt: skip

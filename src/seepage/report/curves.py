"""A frontier as a picture: recovery along the axis, one dot a seed, and where enough protection begins."""

import io
from collections.abc import Sequence

from seepage.audit.sweeps.frontier import Axis, Interval, Point

__all__ = ["frontier_svg"]


def frontier_svg(points: Sequence[Point], axis: Axis, interval: Interval | None, *, title: str) -> str:
    """Recovered share against the setting, as SVG text. Settings that could not be told are crosses at the bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    plot = figure.subplots()
    told = [one for one in points if one.recovered is not None]
    plot.plot([axis.settings[one.place] for one in told], [one.recovered or 0.0 for one in told], "o", alpha=0.5,
              color="#1d1e20", label="one seed")  # fmt: skip
    places = sorted({one.place for one in told})
    means = [_mean([one.recovered or 0.0 for one in told if one.place == place]) for place in places]
    plot.plot([axis.settings[place] for place in places], means, "-", color="#1d1e20", label="mean over seeds")
    untold = [axis.settings[one.place] for one in points if one.recovered is None]
    if untold:
        plot.plot(untold, [0.0] * len(untold), "x", color="#6f4600", label="could not be told")
    plot.axhline(axis.share, linestyle=":", color="#55585d", label=f"enough: below {axis.share:g}")
    last = len(axis.settings) - 1
    if interval is not None and interval.low <= last:
        ends = [axis.settings[min(place, last)] for place in (interval.low, interval.high)]
        plot.axvspan(min(ends), max(ends), color="#9c1f16", alpha=0.18, label=f"{interval.coverage:.0%} interval")
        if interval.median <= last:
            plot.axvline(axis.settings[interval.median], color="#9c1f16", label="median of the seeds")
    if axis.settings[1] / axis.settings[0] > 1.05 and len({*_steps(axis)}) > 2:
        plot.set_xscale("log")
    plot.set_ylim(-0.05, 1.05)
    plot.set_xlabel(axis.name.replace("_", " "))
    plot.set_ylabel("examples recovered")
    plot.set_title(title, fontsize="medium")
    plot.legend(fontsize="small")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _steps(axis: Axis) -> list[float]:
    pairs = zip(axis.settings, axis.settings[1:], strict=False)
    return [round(second - first, 9) for first, second in pairs]

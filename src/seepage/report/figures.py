"""Pictures and plots as text that stands inside the page: nothing on it comes from anywhere else."""

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from seepage.audit.findings import Finding
from seepage.report.counts import score_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MOST_ROWS", "picture_uri", "psnr_figure"]

MOST_ROWS = 40  # batches in one plot
_TOP = 150.0  # dB; float32 ends near 140, more says nothing about what can be seen
_INK, _ALARM, _LINE = "#010203", "#040506", "#070809"  # stand for the page's own colours, light or dark
_COLOURS = {_INK: "currentColor", _ALARM: "var(--alarm)", _LINE: "var(--line)"}


def picture_uri(image: Tensor) -> str:
    """A PNG data URI of ``image [c, h, w]`` in [0, 1], 1 or 3 channels; what lies outside is clipped, NaN is black."""
    pixels = image.nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def psnr_figure(findings: Sequence[Finding]) -> Markup | None:
    """Every example's PSNR, one row a batch, as inline SVG in the page's colours; ``None`` without any PSNR.

    Exact examples are filled dots, others are rings, so that the plot can be read without colour.
    """
    rows = [(finding, _points(finding)) for finding in findings]
    rows = [row for row in rows if row[1]][:MOST_ROWS]
    if not rows:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    several = len({finding.attack for finding, _ in rows}) > 1
    height = 0.66 + 0.25 * len(rows)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seepage", "text.parse_math": False}):
        figure = Figure(figsize=(4.2, height))
        left = 0.34 if several else 0.17
        axes = figure.add_axes((left, 0.51 / height, 0.94 - left, 1 - 0.59 / height))
        for place, (_, points) in enumerate(rows):
            _draw(axes, place, points)
        names = [f"batch {finding.batch}" + (f", {finding.attack[:12]}" if several else "") for finding, _ in rows]
        _dress(axes, names)
        text = io.StringIO()
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    exact = sum(sure for _, points in rows for _, sure in points)
    label = f"PSNR of each example by batch; {exact} of {sum(len(points) for _, points in rows)} are exact."
    return _inline(text.getvalue(), label)


def _points(finding: Finding) -> list[tuple[float, bool]]:
    """Decibels and whether exact, of every example that something was matched with."""
    points = []
    for index in range(finding.batch_size):
        value = score_at(finding, "psnr", index)
        if value is not None:
            points.append((min(max(float(value), 0.0), _TOP), score_at(finding, "exact", index) is True))
    return points


def _draw(axes: "Axes", place: int, points: list[tuple[float, bool]]) -> None:
    axes.axhline(place, color=_LINE, linewidth=0.6, zorder=1)
    for exact in (False, True):
        values = [value for value, sure in points if sure is exact]
        colour = _ALARM if exact else _INK
        axes.scatter(
            values,
            [place] * len(values),
            s=16,
            facecolors=colour if exact else "none",
            edgecolors=colour,
            linewidths=0.9,
            alpha=0.75,
            zorder=2,
            clip_on=False,
        )


def _dress(axes: "Axes", names: list[str]) -> None:
    axes.set_xlim(0, _TOP)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([0, 30, 60, 90, 120, _TOP], ["0", "30", "60", "90", "120", "≥150"])
    axes.set_xlabel("PSNR, dB", color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=9, length=3)
    axes.tick_params(axis="y", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_INK)


def _inline(svg: str, label: str) -> Markup:
    """The SVG element alone, named for screen readers, in the page's colours and fonts."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    body = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", head) + ">" + rest
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", body)
    for stand_in, colour in _COLOURS.items():
        body = body.replace(stand_in, colour)
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))

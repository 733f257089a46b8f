"""Line charts as SVG elements for a page."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#1f5fa8", "#c4472b", "#3a8a4d", "#8a5fb0", "#9a7d1c", "#4d4d4d", "#1c8c96")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 3,
    "svg.fonttype": "none",  # text stays text
    "text.color": "#555555",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def line_chart(
    title: str, epochs: Sequence[int], series: Mapping[str, Sequence[float]], best: int | None = None
) -> str:
    """A figure with an SVG line chart: epochs across, one line per series, the kept epoch as a dashed line.

    Args:
        title: The caption.
        epochs: [n].
        series: Values [n] by name; one that is no finite number is left out of its line.
        best: Epoch to mark.

    Returns:
        HTML. A line's element has the identifier `chart_id` gives.
    """
    drawn = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):  # identifiers differ between charts
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        for (name, line), colour in zip(series.items(), COLOURS, strict=False):
            points = [point for point in zip(epochs, line, strict=True) if math.isfinite(point[1])]
            axes.plot(
                *(zip(*points, strict=True) if points else ([], [])),
                color=colour,
                marker="o",
                label=name.replace("_", " "),
                gid=chart_id(title, name),
            )
        if best is not None:
            axes.axvline(best, color="#999999", linestyle="--", linewidth=1, zorder=0)
        figure.legend(loc="outside lower left", ncols=4)
        figure.savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = drawn.getvalue()
    svg = re.sub(
        r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :]
    )  # matplotlib's own, the same in every chart
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"


def chart_id(title: str, name: str) -> str:
    """The identifier of a series' line in a page.

    >>> chart_id("Ranking losses", "value")
    'Ranking-losses-value'
    """
    return re.sub(r"\W+", "-", f"{title} {name}")

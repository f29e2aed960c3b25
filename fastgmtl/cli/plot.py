"""Curves and points of what a method has learned, each picture with the CSV of its numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from matplotlib.figure import Figure

from fastgmtl.cli import checkpoint
from fastgmtl.cli.picture import INK, STYLE
from fastgmtl.methods import Plot

COLUMNS = 3
COLOURS = ("#1f6f8b", "#b5651d", "#5b8c3e", "#8e4585", "#c0392b", "#7f7f7f", "#c9a227", "#2c3e70")
HEAD = ("plot", "series", "x", "y")


def write(folder: Path, name: str, title: str, plots: Sequence[Plot]) -> None:
    """Write ``name.csv`` (a line for each point) and ``name.png`` (small multiples)."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEAD)
    for plot in plots:
        for series, points in plot.series.items():
            lines.writerows((plot.title, series, f"{x:.6g}", f"{y:.6g}") for x, y in points)
    checkpoint.write_text(folder / f"{name}.csv", text.getvalue())
    buffer = BytesIO()
    _figure(title, plots).savefig(buffer, format="png", dpi=140)
    checkpoint.write(folder / f"{name}.png", lambda file: file.write(buffer.getvalue()))


def _figure(title: str, plots: Sequence[Plot]) -> Figure:
    columns = max(1, min(COLUMNS, len(plots)))
    rows = max(1, math.ceil(len(plots) / columns))
    figure = Figure(figsize=(4.4 * columns + 0.4, 3.6 * rows + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    for place, plot in enumerate(plots):
        axes = figure.add_subplot(rows, columns, place + 1)
        for number, (name, points) in enumerate(plot.series.items()):
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            colour = COLOURS[number % len(COLOURS)]
            if plot.joined:
                axes.plot(xs, ys, "o-", color=colour, linewidth=1.4, markersize=3, label=name)
            else:
                axes.plot(xs, ys, "o", color=colour, markersize=2.5, alpha=0.6, markeredgewidth=0, label=name)
        axes.set_title(plot.title, loc="left", fontsize=9, fontweight="bold", color=INK)
        axes.set_xlabel(plot.x_label, **STYLE)
        axes.set_ylabel(plot.y_label, **STYLE)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        if plot.series:
            axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return figure

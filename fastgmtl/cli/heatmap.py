"""Heat maps of what a method has learned, each with the CSV of its numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastgmtl.cli import checkpoint
from fastgmtl.cli.picture import INK, STYLE
from fastgmtl.methods import Panel

COLUMNS = 3
MOST_NUMBERS = 24  # cells of a side up to which numbers are written into them
HEAD = ("panel", "row", "column", "value")


def write(folder: Path, name: str, title: str, panels: Sequence[Panel]) -> None:
    """Write ``name.csv`` (a line for each cell) and ``name.png`` (small multiples on one scale of colours)."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEAD)
    for panel in panels:
        for row, values in zip(panel.rows, panel.values, strict=True):
            lines.writerows((panel.title, row, c, f"{v:.6g}") for c, v in zip(panel.columns, values, strict=True))
    checkpoint.write_text(folder / f"{name}.csv", text.getvalue())
    buffer = BytesIO()
    _figure(title, panels).savefig(buffer, format="png", dpi=140)
    checkpoint.write(folder / f"{name}.png", lambda file: file.write(buffer.getvalue()))


def _figure(title: str, panels: Sequence[Panel]) -> Figure:
    columns = min(COLUMNS, len(panels))
    lines = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    tall = [max(len(panel.rows) for panel in line) for line in lines]
    wide = max(len(panel.columns) for panel in panels)
    size = ((1.9 + 0.42 * wide) * columns + 0.8, sum(0.9 + 0.28 * rows for rows in tall) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.add_gridspec(len(lines), columns, height_ratios=[rows + 2.5 for rows in tall])
    every: list[Axes] = []
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(place, columns)])
        image = axes.imshow(panel.values, cmap="viridis", vmin=panel.low, vmax=panel.high, aspect="auto")
        _label(axes, panel)
        every.append(axes)
    bar = figure.colorbar(image, ax=every, shrink=0.8)
    bar.set_label(panels[0].value_label, **STYLE)
    bar.ax.tick_params(labelsize=7, colors=INK)
    return figure


def _label(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold", color=INK)
    axes.set_xlabel(panel.column_label, **STYLE)
    axes.set_ylabel(panel.row_label, **STYLE)
    axes.set_xticks(range(len(panel.columns)), panel.columns, fontsize=7, color=INK, rotation=20, ha="right")
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=7, color=INK)
    axes.tick_params(length=0)
    if max(len(panel.rows), len(panel.columns)) > MOST_NUMBERS:
        return
    middle = (panel.low + panel.high) / 2
    for i, values in enumerate(panel.values):
        for j, value in enumerate(values):
            if not math.isnan(value):
                colour = "white" if value < middle else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)

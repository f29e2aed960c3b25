"""curves.png: for each task the val metric and the training loss by epoch, the best epoch marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fastgmtl.cli import checkpoint
from fastgmtl.cli.folder import History
from fastgmtl.data import TaskSet

COLUMNS = 4
SCORE, LOSS, BEST, INK, FAINT = "#1f6f8b", "#b5651d", "#c0392b", "#333333", "#d9d9d9"
STYLE: dict[str, Any] = {"color": INK, "fontsize": 8}


def draw(
    path: Path,
    title: str,
    tasks: TaskSet,
    runs: Sequence[History],
    constant: dict[str, float],
) -> None:
    """Small multiples, one pair of panels a task; for several seeds the mean, and the band of one deviation.

    ``constant``: the val score of the best constant prediction, a dotted line.
    """
    columns = min(COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(3.3 * columns + 0.4, 3.9 * rows + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 2] * rows)
    for place, (name, task) in enumerate(tasks.items()):
        row, column = divmod(place, columns)
        upper = figure.add_subplot(grid[2 * row, column])
        lower = figure.add_subplot(grid[2 * row + 1, column], sharex=upper)
        upper.tick_params(labelbottom=False)
        upper.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        better = "" if task.higher_is_better else ", lower is better"
        upper.set_ylabel(f"val {task.metric}{better}", **STYLE)
        lower.set_ylabel("training loss", **STYLE)
        lower.set_xlabel("epoch", **STYLE)
        _curve(upper, runs, [run.score[name] for run in runs], SCORE)
        _curve(lower, runs, [run.loss[name] for run in runs], LOSS)
        _mark(upper, lower, runs, name)
        _reference(upper, constant[name])
        for axes in (upper, lower):
            _tidy(axes)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    checkpoint.write(path, lambda file: file.write(buffer.getvalue()))


def _curve(axes: Axes, runs: Sequence[History], values: Sequence[list[float]], colour: str) -> None:
    epochs, table = _aligned(runs, values)
    if np.isnan(table).all():
        axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", va="center", **STYLE)
        return
    known = ~np.isnan(table).all(axis=0)
    epochs, table = epochs[known], table[:, known]
    mean = np.nanmean(table, axis=0)
    if len(runs) > 1:
        spread = np.nanstd(table, axis=0)
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.plot(epochs, mean, color=colour, linewidth=1.4)


def _aligned(runs: Sequence[History], values: Sequence[list[float]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Epochs [K] that every run reached, and the values of each run at them [runs, K]."""
    length = min(len(run.epochs) for run in runs)
    table = np.array([v[:length] for v in values], dtype=np.float64)
    return np.array(runs[0].epochs[:length], dtype=np.int64), table


def _mark(upper: Axes, lower: Axes, runs: Sequence[History], name: str) -> None:
    """A line and a dot at each run's best epoch; for one run the value beside the dot."""
    for run in runs:
        if not run.best or run.best not in run.epochs:
            continue
        value = run.score[name][run.epochs.index(run.best)]
        for axes in (upper, lower):
            axes.axvline(run.best, color=BEST, linewidth=0.8, alpha=0.6, zorder=1)
        if math.isnan(value):
            continue
        upper.plot(run.best, value, "o", color=BEST, markersize=4.5, zorder=3)
        if len(runs) == 1:
            text = f"{value:.3f} at epoch {run.best}"
            upper.set_title(text, loc="right", fontsize=8, color=BEST)


def _reference(axes: Axes, value: float) -> None:
    if math.isnan(value):
        return
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=":", zorder=1)
    axes.annotate(
        "constant prediction",
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7,
        color=INK,
    )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(y=0.12)

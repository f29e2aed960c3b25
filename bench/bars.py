"""The rows of a bench as bars: time over ours on the left, memory on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bench.report import Row, by_case, number, title

SHOWN = 8  # cases, at most: the first ones on the most threads
OURS, PEER, INK = "#1f6f8b", "#c9c9c9", "#333333"


def write(path: Path, rows: Sequence[Row]) -> None:
    """A PNG of the cases on the most threads; nothing where no case has a peer. The rows beside it have the numbers."""
    most = max(row["threads"] for row in rows)
    groups = [(case, [row for row in group if "absent" not in row]) for case, group in by_case(rows)]
    chosen = [(case, group) for case, group in groups if case["threads"] == most and len(group) > 1][:SHOWN]
    if not chosen:
        return
    lines = sum(len(group) + 1.8 for _, group in chosen)
    figure = Figure(figsize=(12, 0.8 + 0.21 * lines), layout="constrained")
    figure.suptitle(f"{path.stem}: over fastgmtl", x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places, names, at = [], [], 0.0
    for case, group in chosen:
        left.text(0, at, title(case), transform=left.get_yaxis_transform(), fontsize=7.5, fontweight="bold", color=INK)
        at += 1
        mine = next(row for row in group if row["provider"] == "fastgmtl")
        for row in group:
            _time(left, at, row)
            _memory(right, at, row, mine)
            places.append(at)
            names.append(row["provider"])
            at += 1
        at += 0.8
    left.set_yticks(places, names)
    left.set_ylim(at - 0.5, -1)
    for axes, label in ((left, "time / our time (whiskers: 20th to 80th percentile)"), (right, "peak memory / ours")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_xlabel(label, fontsize=8, color=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=7, colors=INK, length=0)
    figure.savefig(path, format="png", dpi=110)


def _time(axes: Axes, at: float, row: Row) -> None:
    scale = row["ratio"] / row["median_ms"]
    low, high = ((row["median_ms"] - row["p20_ms"]) * scale, (row["p80_ms"] - row["median_ms"]) * scale)
    _bar(axes, at, row, row["ratio"], row["ratio"] + (max(0.0, high) if row["ratio"] >= 1 else -max(0.0, low)))
    axes.errorbar(row["ratio"], at, xerr=[[max(0.0, low)], [max(0.0, high)]], color=INK, linewidth=0.7)


def _memory(axes: Axes, at: float, row: Row, mine: Row) -> None:
    if row["peak_mib"] and mine["peak_mib"]:
        value = row["peak_mib"] / mine["peak_mib"]
        _bar(axes, at, row, value, value)


def _bar(axes: Axes, at: float, row: Row, value: float, end: float) -> None:
    """From 1 to the value, which is written at ``end``."""
    ours = row["provider"].startswith("fastgmtl")
    axes.barh(at, value - 1, left=1, height=0.8, color=OURS if ours else PEER)
    side, gap = ("left", 3) if value >= 1 else ("right", -3)
    place = {"xytext": (gap, 0), "textcoords": "offset points", "va": "center", "ha": side}
    axes.annotate(f"{number(value)}x", (max(end, 1e-3), at), fontsize=6.5, color=INK, **place)

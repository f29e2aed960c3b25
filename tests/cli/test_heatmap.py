"""Heat maps: the numbers are in the CSV, the picture is a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from fastgmtl.cli import heatmap
from fastgmtl.methods import Panel


def _panel(title: str, rows: int, columns: int) -> Panel:
    values = [[(i + j) / 100 for j in range(columns)] for i in range(rows)]
    names = tuple(f"r{i}" for i in range(rows)), tuple(f"c{j}" for j in range(columns))
    return Panel(title, *names, values, "task", "takes of", "mean gate")


def test_every_number_is_in_the_csv(tmp_path: Path) -> None:
    panels = [_panel("one", 2, 3), _panel("a panel, with a comma", 30, 2), _panel("three", 1, 1), _panel("four", 2, 2)]
    heatmap.write(tmp_path, "gates", "gates of a run", panels)
    with (tmp_path / "gates.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 + 60 + 1 + 4
    assert lines[-1] == {"panel": "four", "row": "r1", "column": "c1", "value": "0.02"}
    assert {line["panel"] for line in lines} == {panel.title for panel in panels}


def test_the_picture_is_a_png_that_grows_with_the_rows(tmp_path: Path) -> None:
    heatmap.write(tmp_path, "small", "small", [_panel("one", 2, 2)])
    heatmap.write(tmp_path, "tall", "tall", [_panel("one", 30, 2)])
    heights = []
    for name in ("small", "tall"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        heights.append(int.from_bytes(content[20:24], "big"))
    assert heights[0] < heights[1]

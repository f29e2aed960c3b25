"""What a method has learned, as numbers that can be drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A matrix of numbers: ``values[i][j]`` is for ``rows[i]`` and ``columns[j]``, both of them names.

    row_label and column_label say what the names are of, value_label what the numbers are; they lie in [low, high].
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: list[list[float]]
    row_label: str
    column_label: str
    value_label: str
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Plot:
    """Points (x, y) of named series, ``joined`` by lines or not. Names and labels say what they are."""

    title: str
    series: dict[str, list[tuple[float, float]]]
    x_label: str
    y_label: str
    joined: bool = True


@dataclass(frozen=True)
class Network:
    """A directed graph: ``edges`` are (from, to, strength, probability), by places in ``nodes``, which are names."""

    title: str
    nodes: tuple[str, ...]
    edges: list[tuple[int, int, float, float]]

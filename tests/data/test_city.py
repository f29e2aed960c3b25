"""City-Networks: counts, what is made of the arrays, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.city import city_names, load_city


def write(folder: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "edge_index": np.array([[0, 1, 1, 2, 2], [1, 0, 2, 3, 2]], np.int32),
        "x_augmented": np.arange(8, dtype=np.float32).reshape(4, 2),
        "y": np.array([0, 1, 1, 0]),
        "eccentricity": np.array([1.0, 2, 3, 4], np.float32),
    } | changes
    np.savez(folder / "town.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder


def test_roads_lead_both_ways(tmp_path: Path) -> None:
    data = load_city(write(tmp_path), "town")
    pairs = {tuple(pair) for pair in data.graph.edge_index().t().tolist()}
    assert pairs == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}
    assert data.x.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert data.tasks["eccentricity_class"].target.tolist() == [0, 1, 1, 0]
    assert data.tasks["eccentricity"].target.tolist() == [1, 2, 3, 4]
    assert data.tasks["eccentricity_class"].num_outputs == 2
    assert city_names(tmp_path) == ["town"]


@pytest.mark.parametrize(("name", "nodes", "edges"), [("huangpu", 5268, 14_870), ("pasadena", 12_409, 32_650)])
@pytest.mark.usefixtures("data_root")
def test_counts(name: str, nodes: int, edges: int) -> None:
    data = load(f"city:{name}")
    assert (data.num_nodes, data.graph.num_edges, data.num_features) == (nodes, edges, 37)
    task = data.tasks["eccentricity_class"]
    assert task.num_outputs == 10 and task.count("train") == task.count("val") == nodes // 10
    assert task.count("test") == nodes - 2 * (nodes // 10)
    other = load(f"city:{name}", seed=1).tasks["eccentricity_class"]
    assert not torch.equal(other.split["train"], task.split["train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "array y is missing"),
        ({"y": np.array([0, 1, 1, 9])}, r"array y: classes must be in 0..3, got 9"),
        ({"edge_index": np.array([[0], [7]])}, r"array edge_index: nodes must be in 0..3, got 7"),
        ({"edge_index": np.array([[0]])}, r"array edge_index must be \[2, E\], got \[1, 1\]"),
        ({"eccentricity": np.array([1.0, 2, 3])}, "4 classes, 4 rows of x and 3 eccentricities"),
        ({"eccentricity": np.array([1.0, 2, 3, np.nan])}, "a value is not finite"),
    ],
)
def test_damaged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"town.npz: {message}"):
        load_city(write(tmp_path, **changes), "town")


@pytest.mark.usefixtures("data_root")
def test_unknown_city() -> None:
    with pytest.raises(ValueError, match="'city:huangpo' is no data set; did you mean city:huangpu"):
        load("city:huangpo")

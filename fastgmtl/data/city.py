"""City-Networks: road networks whose nodes are junctions, with labels that only nodes far away tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Form, check_range, read_npz, require, to_tensor
from fastgmtl.data.splits import both_ways, random_split, undirected
from fastgmtl.data.tasks import Task, TaskSet
from fastgmtl.graph import Graph

FORMS: dict[str, Form] = {
    "edge_index": ("iu", 2),
    "x_augmented": ("f", 2),
    "y": ("iu", 1),
    "eccentricity": ("f", 1),
}


def city_names(folder: Path) -> list[str]:
    """Names of the road networks in the folder."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load_city(folder: Path, name: str, seed: int = 0) -> Dataset:
    """The road network ``name`` in ``folder``, NAME.npz.

    * x: 37 features of a junction and of the roads that meet there, as published.
    * ``eccentricity_class``: which tenth of all junctions it is in, by its eccentricity within 16 hops.
    * ``eccentricity``: the number itself.

    Roads lead both ways, as in the paper. Nodes are split 10/10/80 at random, by ``seed``.

    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one.
    """
    path = folder / f"{name}.npz"
    arrays = read_npz(path, FORMS)
    x, y, number = arrays["x_augmented"], arrays["y"], arrays["eccentricity"]
    n, edges = y.size, arrays["edge_index"]
    require(path, len(x) == n == number.size > 0, f"{n} classes, {len(x)} rows of x and {number.size} eccentricities")
    require(path, bool(np.isfinite(x).all() and np.isfinite(number).all()), "a value is not finite")
    require(path, edges.shape[0] == 2, f"array edge_index must be [2, E], got {list(edges.shape)}")
    check_range(path, "array edge_index: nodes", edges, 0, n)
    check_range(path, "array y: classes", y, 0, n)
    split = random_split(n, (0.1, 0.1), seed)
    kind = Task(
        name="eccentricity_class",
        kind="class",
        level="node",
        target=to_tensor(y, torch.int64),
        split=split,
        metric="accuracy",
        num_outputs=int(y.max()) + 1,
    )
    value = Task("eccentricity", "regression", "node", to_tensor(number, torch.float32), split, "r2")
    pairs = both_ways(undirected(to_tensor(edges, torch.int64), n))
    return Dataset(
        name=f"city:{name}",
        graph=Graph.from_edge_index(pairs, n, n),
        x=to_tensor(x, torch.float32),
        tasks=TaskSet([kind, value]),
        source="City-Networks (Liang et al. 2025), data (c) OpenStreetMap contributors, ODbL",
    )

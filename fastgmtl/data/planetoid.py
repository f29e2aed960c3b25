"""Citation graphs of Planetoid (Yang et al. 2016): plain arrays (NAME.npz) or the published pickles (ind.NAME.*)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, Form, check_range, csr_to_dense, read_npz, read_text, require, to_tensor
from fastgmtl.data.pickles import Csr, read_pickle
from fastgmtl.data.splits import degree_features, link_task, masks
from fastgmtl.data.tasks import SPLITS, Task, TaskSet

FORMS: dict[str, Form] = {
    "edge_index": ("iu", 2),
    "x_indptr": ("iu", 1),
    "x_indices": ("iu", 1),
    "x_data": ("f", 1),
    "x_shape": ("iu", 1),
    "y": ("iu", 1),
    "train": ("iu", 1),
    "val": ("iu", 1),
    "test": ("iu", 1),
}
FEATURES = ("x_indptr", "x_indices", "x_data", "x_shape")
NUM_VAL = 500


def planetoid_names(folder: Path) -> list[str]:
    """Names of the Planetoid data sets in the folder, as arrays or as pickles."""
    raw = {path.name.split(".")[1] for path in folder.glob("ind.*.graph")}
    return sorted(raw | {path.stem for path in folder.glob("*.npz")})


def load_planetoid(folder: Path, name: str, seed: int = 0) -> Dataset:
    """Node class (public split) and link prediction on the Planetoid data set ``name`` in ``folder``.

    Reads NAME.npz where it is there, else ind.NAME.{x,tx,allx,ty,ally,graph,test.index}.

    * x: word counts as published; 1 and log(1 + degree) where an npz has no features.
    * ``node_class``: -1 for the nodes that the pickles do not describe (15 in citeseer).
    * ``link``: random 80/10/10 split of the undirected edges by ``seed``; messages pass along the training edges only.

    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one.
    """
    npz = folder / f"{name}.npz"
    read = _read_npz if npz.exists() else _read_raw
    x, edges, y, parts = read(npz if npz.exists() else folder / f"ind.{name}")
    num_nodes = y.numel()
    link, graph = link_task(edges, num_nodes, seed)
    node = Task(
        name="node_class",
        kind="class",
        level="node",
        target=y,
        split=masks(parts, num_nodes),
        metric="accuracy",
        num_outputs=int(y.max()) + 1,
    )
    return Dataset(
        name=f"planetoid:{name}",
        graph=graph,
        x=degree_features(graph) if x is None else x,
        tasks=TaskSet([node, link]),
        source="Planetoid (Yang et al. 2016), github.com/kimiyoung/planetoid, MIT",
    )


Parts = tuple[Tensor | None, Tensor, Tensor, dict[str, Tensor]]


def _read_npz(path: Path) -> Parts:
    arrays = read_npz(path, FORMS, optional=FEATURES)
    y, edges = arrays["y"], arrays["edge_index"]
    require(path, y.size > 0 and y.max() >= 0, "array y holds no class")
    check_range(path, "array y: classes", y, -1, y.size)
    require(path, edges.shape[0] == 2, f"array edge_index must be [2, E], got {list(edges.shape)}")
    for part in ("edge_index", *SPLITS):
        check_range(path, f"array {part}: nodes", arrays[part], 0, y.size)
    parted = np.concatenate([arrays[part] for part in SPLITS])
    require(path, np.unique(parted).size == parted.size, "arrays train, val and test must be disjoint")
    x = None
    if all(part in arrays for part in FEATURES):
        indptr, indices, data, shape = (arrays[part] for part in FEATURES)
        x = csr_to_dense(path, "x", indptr, indices, shape, data)
        require(path, len(x) == y.size, f"x: {y.size} rows are required, got {len(x)}")
    parts = {part: to_tensor(arrays[part], torch.int64) for part in SPLITS}
    return x, to_tensor(edges, torch.int64), to_tensor(y, torch.int64), parts


def _read_raw(prefix: Path) -> Parts:
    def path(part: str) -> Path:
        return prefix.with_name(f"{prefix.name}.{part}")

    edges, num_nodes = _edges(path("graph"))
    tested: Array = read_text(path("test.index"), integer=True).reshape(-1)
    seen = _features(path("allx"))
    known = len(seen)
    # Test nodes follow the others; some numbers in their range are not described (isolated nodes of citeseer).
    require(path("allx"), known < num_nodes, f"{known} rows leave no test nodes among the graph's {num_nodes}")
    check_range(path("test.index"), "nodes", tested, known, num_nodes)
    require(path("test.index"), np.unique(tested).size == tested.size > 0, "nodes must be there, and once each")
    described = _features(path("tx"))
    _require_rows(path("test.index"), tested.size, len(described))
    x = torch.zeros(num_nodes, seen.shape[1])
    require(path("tx"), described.shape[1] == x.shape[1], f"{x.shape[1]} columns are required, as in allx")
    x[:known], index = seen, to_tensor(tested, torch.int64)
    x[index] = described

    y = torch.full((num_nodes,), -1)
    y[:known] = _classes(path("ally"), known)
    y[index] = _classes(path("ty"), tested.size)
    require(path("ally"), bool((y >= 0).any()), "no node has a class")
    num_train = len(_features(path("x")))
    require(path("x"), num_train + NUM_VAL <= known, f"{num_train} rows leave no {NUM_VAL} in allx for val")
    parts = {
        "train": torch.arange(num_train),
        "val": torch.arange(num_train, num_train + NUM_VAL),
        "test": index.sort().values,
    }
    return x, edges, y, parts


def _features(path: Path) -> Tensor:
    matrix = read_pickle(path)
    require(path, isinstance(matrix, Csr), f"a sparse matrix is required, got {type(matrix).__name__}")
    return csr_to_dense(path, "matrix", matrix.indptr, matrix.indices, matrix.shape, matrix.data)


def _classes(path: Path, rows: int) -> Tensor:
    table = read_pickle(path)
    require(
        path,
        isinstance(table, np.ndarray) and table.ndim == 2 and table.shape[1] > 0 and table.dtype.kind in "iuf",
        "a matrix of one-hot rows is required",
    )
    _require_rows(path, len(table), rows)
    # A row without a one is a node without a class.
    return to_tensor(np.where(table.any(axis=1), table.argmax(axis=1), -1), torch.int64)


def _require_rows(path: Path, rows: int, want: int) -> None:
    require(path, rows == want, f"{want} rows are required, got {rows}")


def _edges(path: Path) -> tuple[Tensor, int]:
    """Edges [2, E] and the number of nodes."""
    lists = read_pickle(path)
    require(path, isinstance(lists, dict), "a dictionary of node to list of neighbours is required")
    pairs = [(node, other) for node, others in lists.items() for other in others]
    fine = all(isinstance(v, int) and 0 <= v < len(lists) for pair in pairs for v in pair)
    require(path, fine, f"nodes must be integers in 0..{len(lists) - 1}")
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous(), len(lists)

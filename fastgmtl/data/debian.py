"""Debian packages as a graph: the whole archive (debian_bookworm) and the part that ships with fastgmtl (debian)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, Form, check_range, csr_to_dense, read_npz, require, to_tensor
from fastgmtl.data.splits import both_ways, undirected
from fastgmtl.data.tasks import SPLITS, Task, TaskSet
from fastgmtl.graph import Graph
from fastgmtl.hetero import HeteroGraph

SHIPPED = Path(__file__).with_name("debian.npz")
# Relations from a binary package to a binary package.
RELATIONS = (
    "breaks",
    "conflicts",
    "depends",
    "enhances",
    "pre_depends",
    "provides",
    "recommends",
    "replaces",
    "suggests",
)
# From a binary package to another kind, by array: the relation and the kind.
OUTWARD = {f"{name}__virtual": (name, "virtual") for name in RELATIONS} | {"from_source": ("from_source", "source")}
EDGE_FORMS: dict[str, Form] = dict.fromkeys((*RELATIONS, *OUTWARD), ("iu", 2))
FEATURE_FORMS: dict[str, Form] = {"x_indptr": ("iu", 1), "x_indices": ("iu", 1), "x_shape": ("iu", 1)}
TASK_FORMS: dict[str, Form] = {
    "section": ("iu", 1),
    "section_classes": ("U", 1),
    "tag_indptr": ("iu", 1),
    "tag_indices": ("iu", 1),
    "tag_shape": ("iu", 1),
    "tagged": ("b", 1),
    "log_installed_kib": ("f", 1),
    "split": ("iu", 1),
}


def load_debian() -> Dataset:
    """The shipped data set: packages of ten sections of Debian 12 and the libraries they share.

    Made by scripts/build_debian.py from the debian_bookworm arrays; tasks and edges as in :func:`load_bookworm`.
    """
    forms: dict[str, Form] = EDGE_FORMS | FEATURE_FORMS | TASK_FORMS | {"source": ("U", 0)}
    arrays = read_npz(SHIPPED, forms)
    return _dataset("debian", SHIPPED, SHIPPED, SHIPPED, arrays, str(arrays["source"]))


def load_bookworm(folder: Path) -> Dataset:
    """All 63,436 binary packages of Debian 12 from ``edges.npz``, ``features.npz`` and ``tasks.npz`` in ``folder``.

    * Edges: the relations between binary packages, each in both directions and once, with the relation as edge_type;
      two packages joined by two relations have parallel edges. No self loops.
    * ``hetero``: binary, source and virtual packages, the 19 relations as they point (a package may depend on itself),
      and the inverse of each (rev_). Only binary packages have features and labels; ``graph`` and ``x`` are theirs.
    * x: 0/1 words of the one-line description.
    * ``section``: class. ``tags``: debtags, multi-label, NaN for packages that nobody has tagged.
      ``installed_size``: log(1 + KiB), standardised with mean and deviation of the training packages, NaN if unknown.
    * Split: the shipped one, by source package, so that siblings do not leak.
    """
    files = folder / "edges.npz", folder / "features.npz", folder / "tasks.npz"
    arrays: dict[str, Array] = {}
    for path, forms in zip(files, (EDGE_FORMS, FEATURE_FORMS, TASK_FORMS), strict=True):
        arrays |= read_npz(path, forms)
    source = "package facts from the Debian 12 (bookworm) main amd64 index; no licence claimed"
    return _dataset("debian_bookworm", *files, arrays, source)


def _dataset(
    name: str, edge_file: Path, x_file: Path, task_file: Path, arrays: dict[str, Array], source: str
) -> Dataset:
    x = csr_to_dense(x_file, "x", arrays["x_indptr"], arrays["x_indices"], arrays["x_shape"])
    num_nodes = x.shape[0]
    hetero = _hetero(edge_file, arrays, num_nodes)
    edges, types = _edges(arrays, num_nodes)
    return Dataset(
        name=name,
        graph=Graph.from_edge_index(edges, num_nodes, num_nodes),
        x=x,
        tasks=_tasks(task_file, arrays, num_nodes),
        edge_type=types,
        edge_type_names=RELATIONS,
        source=source,
        hetero=hetero,
        features={"binary": x},
        node_types=("binary",),
    )


def _hetero(path: Path, arrays: dict[str, Array], num_nodes: int) -> HeteroGraph:
    kinds: dict[str, tuple[str, str]] = {name: (name, "binary") for name in RELATIONS} | OUTWARD
    counts, edges = {"binary": num_nodes, "source": 0, "virtual": 0}, {}
    for array, (name, kind) in kinds.items():
        table = arrays[array]
        require(path, table.shape[0] == 2, f"array {array} must be [2, E], got {list(table.shape)}")
        check_range(path, f"array {array}: packages", table[0], 0, num_nodes)
        check_range(path, f"array {array}: packages", table[1], 0, num_nodes if kind == "binary" else 2**31)
        edges["binary", name, kind] = to_tensor(table, torch.int64)
        if kind != "binary" and table.size:
            counts[kind] = max(counts[kind], int(table[1].max()) + 1)
    return HeteroGraph.from_dict(edges, counts).add_inverse_relations()


def _edges(arrays: dict[str, Array], num_nodes: int) -> tuple[Tensor, Tensor]:
    tables = [to_tensor(arrays[relation], torch.int64) for relation in RELATIONS]
    parts = [both_ways(undirected(table, num_nodes)) for table in tables]
    sizes = torch.tensor([part.shape[1] for part in parts])
    return torch.cat(parts, dim=1), torch.arange(len(parts)).repeat_interleave(sizes)


def _tasks(path: Path, arrays: dict[str, Array], num_nodes: int) -> TaskSet:
    for name in ("section", "tagged", "log_installed_kib", "split"):
        length = arrays[name].size
        require(path, length == num_nodes, f"array {name} must have {num_nodes} entries, got {length}")
    part = arrays["split"]
    check_range(path, "array split", part, 0, len(SPLITS))
    split = {name: to_tensor(part == code, torch.bool) for code, name in enumerate(SPLITS)}
    classes = arrays["section_classes"].size
    check_range(path, "array section", arrays["section"], -1, classes)

    tags = csr_to_dense(path, "tags", arrays["tag_indptr"], arrays["tag_indices"], arrays["tag_shape"])
    require(path, len(tags) == num_nodes, f"tags: {num_nodes} rows are required, got {len(tags)}")
    tags[to_tensor(~arrays["tagged"], torch.bool)] = torch.nan

    size = arrays["log_installed_kib"].astype(np.float64)
    require(path, not np.isinf(size).any(), "array log_installed_kib: a value is infinite")
    known = size[(part == 0) & ~np.isnan(size)]
    if known.size:
        size = (size - known.mean()) / max(float(known.std()), 1e-12)
    section = to_tensor(arrays["section"], torch.int64)
    return TaskSet(
        [
            Task("section", "class", "node", section, split, "accuracy", "binary", classes),
            Task("tags", "multilabel", "node", tags, split, "roc_auc", "binary", tags.shape[1]),
            Task("installed_size", "regression", "node", to_tensor(size, torch.float32), split, "r2", "binary"),
        ]
    )

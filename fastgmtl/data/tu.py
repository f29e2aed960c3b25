"""TU data sets in their raw text form: NAME_A.txt and its companions, as published by Dortmund."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, check_range, read_text, require, to_tensor
from fastgmtl.data.splits import degree_features, link_task, random_split
from fastgmtl.data.tasks import Task, TaskSet

# SAME's: floor for train and val, the rest is test.
FRACTIONS = (0.7, 0.1)


def tu_names(folder: Path) -> list[str]:
    """Names of the TU data sets whose edge list is in the folder."""
    found = {
        path.name.removesuffix(".gz").removesuffix("_A.txt")
        for pattern in ("*_A.txt", "*_A.txt.gz")
        for path in folder.glob(pattern)
    }
    return sorted(found)


def load_tu(folder: Path, name: str, seed: int = 0) -> Dataset:
    """Graph class, node class and link prediction on the TU data set ``name`` in ``folder``, as SAME has them.

    * x: node attributes, each row divided by max(1, its sum); without attributes 1 and log(1 + degree). Node labels
      are a task and not in x.
    * ``graph_class`` and ``node_class`` (where the files are there): random .7/.1/.2 split of the graphs by ``seed``;
      nodes follow their graph.
    * ``link``: random 80/10/10 split of all undirected edges, negatives within the same graph; messages pass along
      the training edges only.

    Files: NAME_A.txt, NAME_graph_indicator.txt; optional NAME_graph_labels.txt, NAME_node_labels.txt,
    NAME_node_attributes.txt; each may be gzipped. Classes are numbered by rising label.
    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one.
    """

    def path(part: str) -> Path:
        return folder / f"{name}_{part}.txt"

    def there(part: str) -> bool:
        return path(part).exists() or (folder / f"{name}_{part}.txt.gz").exists()

    indicator = _column(path("graph_indicator"))
    num_nodes = indicator.size
    require(path("graph_indicator"), num_nodes > 0, "the file is empty")
    require(
        path("graph_indicator"),
        (np.diff(indicator) >= 0).all() and indicator[0] >= 1,
        "graph numbers must start at 1 and not fall",
    )
    graph_label = _column(path("graph_labels")) if there("graph_labels") else None
    most = num_nodes if graph_label is None else graph_label.size
    check_range(path("graph_indicator"), "graph numbers", indicator, 1, most + 1)
    num_graphs = int(indicator[-1]) if graph_label is None else graph_label.size
    node_graph = to_tensor(indicator - 1, torch.int64)
    ptr = torch.searchsorted(node_graph, torch.arange(num_graphs + 1))

    link, graph = link_task(_edges(path("A"), node_graph), num_nodes, seed, ptr)
    split = random_split(num_graphs, FRACTIONS, seed)
    tasks = []
    if graph_label is not None:
        tasks.append(_classes("graph_class", "graph", graph_label, split))
    if there("node_labels"):
        node_label = _column(path("node_labels"))
        _require_lines(path("node_labels"), node_label, num_nodes)
        by_node = {part: mask[node_graph] for part, mask in split.items()}
        tasks.append(_classes("node_class", "node", node_label, by_node))
    if there("node_attributes"):
        attributes = read_text(path("node_attributes"), integer=False)
        _require_lines(path("node_attributes"), attributes, num_nodes)
        x = to_tensor(attributes / np.maximum(1, attributes.sum(1, keepdims=True)), torch.float32)
    else:
        x = degree_features(graph)
    return Dataset(
        name=f"tu:{name}",
        graph=graph,
        x=x,
        tasks=TaskSet([*tasks, link]),
        node_graph=node_graph,
        num_graphs=num_graphs,
        source="TUDataset (Morris et al. 2020): free for research, please cite",
    )


def _column(path: Path) -> Array:
    table = read_text(path, integer=True)
    require(path, table.shape[1] <= 1, f"one number a line is required, got {table.shape[1]}")
    return table.reshape(-1)


def _edges(path: Path, node_graph: Tensor) -> Tensor:
    table = read_text(path, integer=True)
    if not table.size:
        return torch.empty(2, 0, dtype=torch.int64)
    require(path, table.shape[1] == 2, f"two node numbers a line are required, got {table.shape[1]}")
    check_range(path, "node numbers", table, 1, node_graph.numel() + 1)
    edges = to_tensor(table.T - 1, torch.int64)
    crossing = node_graph[edges[0]] != node_graph[edges[1]]
    line = int(crossing.int().argmax())
    require(path, not bool(crossing.any()), f"line {line + 1} joins nodes of two graphs")
    return edges


def _require_lines(path: Path, table: Array, lines: int) -> None:
    require(path, len(table) == lines, f"{lines} lines are required, one a node, got {len(table)}")


def _classes(name: str, level: str, label: Array, split: dict[str, Tensor]) -> Task:
    values, target = np.unique(label, return_inverse=True)
    return Task(
        name=name,
        kind="class",
        level=level,
        target=to_tensor(target, torch.int64),
        split=split,
        metric="accuracy",
        num_outputs=values.size,
    )

"""A data set: one graph, its features and its tasks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgmtl.data.tasks import TaskSet
from fastgmtl.graph import Graph


@dataclass(frozen=True, eq=False)
class Dataset:
    """Graph, features and tasks.

    graph: the edges that messages pass along, in both directions; those of link tasks that are held out are not in it.
    x: float32 [N, F].
    node_graph: int64 [N], the graph of each node, sorted; None when there is one graph.
    edge_type: int64 [E] in the order of ``graph.edge_index()``, names in edge_type_names; None when there is one type.
    source: one line: where the data is from, and its licence.
    Raises ValueError when these do not fit together.
    """

    name: str
    graph: Graph
    x: Tensor
    tasks: TaskSet
    node_graph: Tensor | None = None
    num_graphs: int = 1
    edge_type: Tensor | None = None
    edge_type_names: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        n = self.graph.num_dst
        self._require("x", [n, self.x.shape[-1]], self.x)
        if self.node_graph is not None:
            self._require("node_graph", [n], self.node_graph)
        if self.edge_type is not None:
            self._require("edge_type", [self.graph.num_edges], self.edge_type)
        for task in self.tasks.values():
            want = {"node": n, "graph": self.num_graphs}.get(task.level)
            if want is not None:
                self._require(f"target of task {task.name}", [want, *task.target.shape[1:]], task.target)

    def _require(self, what: str, shape: list[int], value: Tensor) -> None:
        if list(value.shape) != shape:
            raise ValueError(f"data set {self.name}: {what} must have shape {shape}, got {list(value.shape)}")

    @property
    def num_nodes(self) -> int:
        return self.x.shape[0]

    @property
    def num_features(self) -> int:
        return self.x.shape[1]

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with every tensor on the device."""
        return dataclasses.replace(
            self,
            graph=self.graph.to(device),
            x=self.x.to(device),
            tasks=self.tasks.to(device),
            node_graph=None if self.node_graph is None else self.node_graph.to(device),
            edge_type=None if self.edge_type is None else self.edge_type.to(device),
        )

    def summary(self) -> str:
        """Sizes, origin and a table of the tasks with their labelled entries by split, for people."""
        graphs = f"{self.num_graphs:,} graphs, " if self.num_graphs > 1 else ""
        types = f" of {len(self.edge_type_names)} types" if self.edge_type_names else ""
        return (
            f"{self.name}: {graphs}{self.num_nodes:,} nodes, {self.graph.num_edges:,} edges{types}, "
            f"{self.num_features:,} features\n{self.source}\n{self.tasks!r}"
        )

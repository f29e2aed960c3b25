"""A data set: one graph, its features and its tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.data.splits import degree_features
from fastgmtl.data.tasks import Task, TaskSet
from fastgmtl.graph import Graph
from fastgmtl.hetero import HeteroGraph


@dataclass(frozen=True, eq=False)
class Dataset:
    """Graph, features and tasks.

    graph: the edges that messages pass along, in both directions; those of link tasks that are held out are not in it.
    x: float32 [N, F]; of a stored graph also of another floating dtype, and mapped.
    node_graph: int64 [N], the graph of each node, sorted; None when there is one graph.
    edge_type: int64 [E] in the order of ``graph.edge_index()``, names in edge_type_names; None when there is one type.
    source: one line: where the data is from, and its licence.

    Heterogeneous data have besides

    hetero: the typed graph; messages pass along its relations, what should flow both ways has two of them.
    features: float32 [N_type, F_type] by node type, dense or sparse COO; a type without features is not in it.
    node_types: the types of the nodes of ``graph`` and ``x``, in turn: all of those of ``hetero``, or some.

    and tasks whose ``node_type`` says whose nodes the target is for.

    Where it is known how labels depend on one another:

    task_graph: an edge from a label to a label that it is a cause of. One node for each label of the tasks in turn: for
        each of the num_outputs of a multilabel task, one for any other task.
    coupling: float32 [E] in the order of ``task_graph.edge_index()``, how strong the cause is; see fastgmtl.data.scm.

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
    hetero: HeteroGraph | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    node_types: tuple[str, ...] = ()
    task_graph: Graph | None = None
    coupling: Tensor | None = None

    @classmethod
    def from_hetero(
        cls, name: str, hetero: HeteroGraph, features: Mapping[str, Tensor], tasks: TaskSet, source: str
    ) -> Dataset:
        """Heterogeneous data. ``graph`` is without types; ``x`` is 1, log(1 + degree) and a 1 for the node's type.

        So a method for plain graphs runs on it, without the features, whose widths differ from type to type.
        """
        single = hetero.to_homogeneous()
        kind = F.one_hot(single.node_type, len(hetero.node_types)).float()
        return cls(
            name=name,
            graph=single.graph,
            x=torch.cat((degree_features(single.graph), kind), dim=1),
            tasks=tasks,
            edge_type=single.edge_type,
            edge_type_names=tuple(" ".join(relation) for relation in hetero.relations),
            source=source,
            hetero=hetero,
            features=features,
            node_types=hetero.node_types,
        )

    def __post_init__(self) -> None:
        n = self.graph.num_dst
        self._require("x", [n, self.x.shape[-1]], self.x)
        if self.node_graph is not None:
            self._require("node_graph", [n], self.node_graph)
        if self.edge_type is not None:
            self._require("edge_type", [self.graph.num_edges], self.edge_type)
        if self.hetero is not None:
            self._check_types(self.hetero, n)
        if self.task_graph is not None:
            self._check_task_graph(self.task_graph)
        for task in self.tasks.values():
            want = {"node": self._count(task), "graph": self.num_graphs}.get(task.level)
            if want is not None:
                self._require(f"target of task {task.name}", [want, *task.target.shape[1:]], task.target)

    def _check_types(self, hetero: HeteroGraph, n: int) -> None:
        for who, names in (
            ("features", self.features),
            ("node_types", self.node_types),
            ("tasks", [t.node_type for t in self.tasks.values() if t.level == "node"]),
        ):
            unknown = [name for name in names if name not in hetero.num_nodes]
            if unknown:
                types = ", ".join(hetero.node_types)
                raise ValueError(f"data set {self.name}: {who} must be of node types {types}, got {unknown[0]}")
        for name, value in self.features.items():
            self._require(f"features of {name}", [hetero.num_nodes[name], value.shape[-1]], value)
        total = sum(hetero.num_nodes[name] for name in self.node_types)
        if total != n:
            raise ValueError(f"data set {self.name}: graph must have the {total} nodes of its node_types, got {n}")

    def _check_task_graph(self, graph: Graph) -> None:
        labels = sum(task.num_outputs if task.kind == "multilabel" else 1 for task in self.tasks.values())
        if graph.num_src != labels or graph.num_dst != labels:
            raise ValueError(
                f"data set {self.name}: task_graph must have a node for each of the {labels} labels, "
                f"got {graph.num_src} to {graph.num_dst} nodes"
            )
        if self.coupling is not None:
            self._require("coupling", [graph.num_edges], self.coupling)

    def _count(self, task: Task) -> int:
        """Nodes that a node task is about."""
        if self.hetero is None or task.level != "node":
            return self.graph.num_dst
        return self.hetero.num_nodes[task.node_type]

    def rows(self, task: Task) -> slice:
        """Which rows of ``x`` (nodes of ``graph``) a node task is about."""
        if self.hetero is None:
            return slice(None)
        if task.node_type not in self.node_types:
            raise ValueError(
                f"data set {self.name}: the graph without types has nodes of {', '.join(self.node_types)}, "
                f"task {task.name} is about {task.node_type}"
            )
        before = self.node_types[: self.node_types.index(task.node_type)]
        start = sum(self.hetero.num_nodes[name] for name in before)
        return slice(start, start + self.hetero.num_nodes[task.node_type])

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
            hetero=None if self.hetero is None else self.hetero.to(device),
            features={name: value.to(device) for name, value in self.features.items()},
            task_graph=None if self.task_graph is None else self.task_graph.to(device),
            coupling=None if self.coupling is None else self.coupling.to(device),
        )

    def summary(self) -> str:
        """Sizes, origin and a table of the tasks with their labelled entries by split, for people."""
        graphs = f"{self.num_graphs:,} graphs, " if self.num_graphs > 1 else ""
        types = f" of {len(self.edge_type_names)} types" if self.edge_type_names else ""
        return (
            f"{self.name}: {graphs}{self.num_nodes:,} nodes, {self.graph.num_edges:,} edges{types}, "
            f"{self.num_features:,} features\n{self._typed_summary()}{self.source}\n{self.tasks!r}"
        )

    def _typed_summary(self) -> str:
        if self.hetero is None:
            return ""
        widths = {name: f"{value.shape[1]:,}" for name, value in self.features.items()}
        nodes = ", ".join(f"{n:,} {t} ({widths.get(t, 'no')} features)" for t, n in self.hetero.num_nodes.items())
        edges = sum(self.hetero.num_edges.values())
        return f"node types: {nodes}; {edges:,} edges of {len(self.hetero.relations)} relations\n"

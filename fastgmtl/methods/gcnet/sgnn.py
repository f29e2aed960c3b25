r"""SGNN: a graph network over the tasks of a given task graph, whose nodes and edges have states of their own.

Source: S. Liu, M. Qu, Z. Zhang, H. Cai and J. Tang, Structured multi-task learning for molecular property prediction,
AISTATS 2022. With an embedding h_b of each sample and E_t of each task (two GCN layers over the task graph),

.. math:: U_{bt} = \mathrm{MLP}_1[h_b; E_t], \qquad V_{bm} = \mathrm{MLP}_2[h_b; E_s; E_t] \quad (m = (s, t))

are the first states of nodes and edges. A layer makes

.. math::
    U'_t &= W_n \bigl(U_t + \tfrac12 \sum_{m: dst(m) = t} \bar V_m + \tfrac12 \sum_{m: src(m) = t} \bar V_m\bigr) \\
    V'_m &= W_e \bigl(V_m + W_m (U_s + U_t)\bigr) + V_m

and a readout of the states of all layers is the logit of a task. Here the widths of the networks are those of the
encoder, without batch norm, and E is learned with the rest instead of by a training on links before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet.given import Given, given_graph
from fastgmtl.methods.gcnet.samples import Batch, SampleMethod, SamplesConfig
from fastgmtl.methods.training import require
from fastgmtl.nn import GCNConv
from fastgmtl.ops import gather_relu, spmm


@dataclass(frozen=True)
class Config(SamplesConfig):
    """graph: the task graph: correlation (of training labels), known (the data set's), full or empty.

    task_hidden: width of the tasks' embeddings. depth: layers over the task graph.
    """

    graph: Given = "correlation"
    task_hidden: int = 32
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("correlation", "known", "full", "empty")
        require(self.graph in known, "graph", ", ".join(known), self.graph)
        for key in ("task_hidden", "depth"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))


class TaskEmbedding(nn.Module):
    """E [T, d] of the tasks: a table, and twice E + GCN(E) over the task graph, with relu between."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width)
        self.input = nn.Linear(width, width)
        self.convs = nn.ModuleList(GCNConv(width, width) for _ in range(2))

    def forward(self, graph: Graph) -> Tensor:
        """E of all tasks."""
        e = self.input(self.table.weight)
        e = (e + self.convs[0](e, graph)).relu()
        found: Tensor = e + self.convs[1](e, graph)
        return found


class _First(nn.Module):
    """MLP of concatenated inputs, the first layer of each by itself: nothing of the concatenation is written."""

    def __init__(self, widths: list[int], hidden: int, out: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, hidden, bias=i == 0) for i, width in enumerate(widths))
        self.out = nn.Linear(hidden, out)

    def of_tasks(self, h: Tensor, e: Tensor) -> Tensor:
        """[T, B, out] of h [B, d] of samples and e [T, d_t] of tasks."""
        of_sample, of_task = self.parts
        found: Tensor = self.out((of_task(e)[:, None] + of_sample(h)).relu())
        return found

    def of_edges(self, h: Tensor, e: Tensor, graph: Graph) -> Tensor:
        """[M, B, out] of h and of both ends of every edge."""
        of_sample, of_source, of_target = self.parts
        found: Tensor = self.out(gather_relu(graph, of_sample(h), of_source(e), of_target(e)))
        return found


class EnergyNetwork(nn.Module):
    """The layers over the task graph: scores of the states of each task and of each edge.

    ``states`` 1: a logit of each task [T, B, 1]. ``states`` 2: scores of each task's states 0 and 1 [T, B, 2], and of
    each edge's (00, 01, 10, 11) [M, B, 4]. The sums for a node take an edge's state by this node's own end: V_00 + V_01
    for state 0 of its source, V_00 + V_10 for state 0 of its destination; ``as_released`` takes the source's for both.
    """

    def __init__(self, hidden: int, task_hidden: int, depth: int, states: int, as_released: bool = False) -> None:
        super().__init__()
        self.states, self.as_released = states, as_released
        self.nodes = _First([hidden, task_hidden], 2 * hidden, states * hidden)
        self.edges = _First([hidden, task_hidden, task_hidden], 2 * hidden, states * states * hidden)
        self.of_nodes, self.of_edges, self.of_ends = (
            nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth)) for _ in range(3)
        )
        wide = (depth + 1) * hidden
        self.read_nodes = nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        # The logits of SGNN are of nodes alone: edges are read only where their states have a score.
        self.read_edges = (
            nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, 1)) if states > 1 else None
        )

    def forward(self, h: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor | None]:
        """h [B, d] of samples, e [T, d_t] of tasks; edges in the order of ``graph.edge_index()``."""
        source, target = graph.edge_index()
        count, k = h.shape[0], self.states
        u = self.nodes.of_tasks(h, e).unflatten(2, (k, -1))  # [T, B, k, d]
        v = self.edges.of_edges(h, e, graph).unflatten(2, (k, k, -1))  # [M, B, k, k, d]
        number = torch.arange(len(source), device=h.device)
        into, out_of = (
            Graph.from_edge_index(torch.stack((number, end)), len(source), len(e)) for end in (target, source)
        )
        seen = [u], [v]
        for layer in range(len(self.of_nodes)):
            by_source = v.sum(3)
            by_target = by_source if self.as_released else v.sum(2)
            ends = self.of_ends[layer](u)
            both = ends.index_select(0, source)[:, :, :, None] + ends.index_select(0, target)[:, :, None]
            arrived = spmm(into, by_target.flatten(1)) + spmm(out_of, by_source.flatten(1))
            u = self.of_nodes[layer](u + arrived.view(-1, count, k, u.shape[-1]) / 2)
            v = self.of_edges[layer](v + both) + v
            if layer + 1 < len(self.of_nodes):
                u = u.relu()
            seen[0].append(u)
            seen[1].append(v)
        f1 = self.read_nodes(torch.cat(seen[0], -1))[..., 0]
        f2 = None if self.read_edges is None else self.read_edges(torch.cat(seen[1], -1)).flatten(2)
        return f1, f2


class SGNN(SampleMethod):
    """Logits of all tasks by a network over a given task graph."""

    config_type = Config
    states = 1

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        graph = given_graph(config.graph, dataset, self.labels.of(dataset, "train"))
        self.register_buffer("edges", graph.edge_index())
        self.embedding = TaskEmbedding(self.labels.count, config.task_hidden)
        self.network = EnergyNetwork(config.hidden, config.task_hidden, config.depth, self.states)
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        """The task graph."""
        edges: Any = self.edges
        if self._graph is None or self._graph.device != edges.device:
            self._graph = Graph.from_edge_index(edges, self.labels.count, self.labels.count)
        return self._graph

    def scores(self, samples: Tensor | Dataset) -> tuple[Tensor, Tensor | None]:
        """Of nodes [B, T, states], of edges [B, M, states^2] or None."""
        f1, f2 = self.network(self.encoder(samples), self.embedding(self.graph), self.graph)
        return f1.transpose(0, 1), None if f2 is None else f2.transpose(0, 1)

    def predict(self, samples: Tensor | Dataset) -> Tensor:
        """The logits."""
        return self.scores(samples)[0][..., 0]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy by task."""
        z = self.predict(batch.samples)
        return self.labels.by_task(self.labels.loss(z, batch.y), self.labels.known(batch.y))

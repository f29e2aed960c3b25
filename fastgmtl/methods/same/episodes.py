"""Episodes of SAME: from a mini-batch of graphs to the support and the target set of every task.

Source: Buffelli and Vandin, Graph representation learning for multi-task settings: a meta-learning approach, IJCNN 2022
(arXiv 2201.03326), section IV and the authors' code. Two variants: ``as_described`` draws what the paper calls random,
``as_released`` takes the first ones, as the code does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fastgmtl.data import Dataset, Task
from fastgmtl.data.splits import both_ways
from fastgmtl.data.tasks import SPLITS
from fastgmtl.graph import Graph
from fastgmtl.ops import gcn_norm, spmm

Variant = Literal["as_described", "as_released"]
Kind = Literal["multi", "concurrent", "single"]
LEVELS = ("graph", "node", "edge")  # the order of the tasks
GRAPH_SUPPORT, NODE_SUPPORT, EDGE_SUPPORT = 0.6, 0.3, 0.8
SMALLEST = 6  # a last batch with fewer graphs is dropped


@dataclass(frozen=True, eq=False)
class Block:
    """Graphs of one side of an episode, block-diagonal: features [n, F], edges, and where each task's nodes begin."""

    x: Tensor
    graph: Graph
    bounds: tuple[int, ...]

    @classmethod
    def join(cls, blocks: Sequence[Block]) -> Block:
        """Several blocks as one; each is a part of its own."""
        bounds = [0]
        for block in blocks:
            bounds.append(bounds[-1] + block.x.size(0))
        return cls(torch.cat([b.x for b in blocks]), Graph.batch([b.graph for b in blocks]), tuple(bounds))

    @cached_property
    def smooth(self) -> Tensor:
        """The normalised adjacency matrix times x: what the first layer of a GCN sees, constant in training."""
        graph, weight = gcn_norm(self.graph, dtype=self.x.dtype)
        return spmm(graph, self.x, weight)

    def to(self, device: torch.device | str) -> Block:
        """The same on another device."""
        return Block(self.x.to(device), self.graph.to(device), self.bounds)


@dataclass(frozen=True, eq=False)
class Query:
    """What a head is asked about the nodes of a block.

    target: classes int64 [q], or 1 and 0 [q] for pairs. index: the nodes int64 [q] of a node task, the pairs int64
    [2, q] of a link task, or the Graph from nodes to graphs of a graph task.
    """

    target: Tensor
    index: Tensor | Graph

    def to(self, device: torch.device | str) -> Query:
        """The same on another device."""
        return Query(self.target.to(device), self.index.to(device))


@dataclass(frozen=True, eq=False)
class Part:
    """One task of an episode. ``rows``: where the nodes of support and target lie in ``union``, which holds each once.

    The union is what an encoder that does not change between support and target has to embed.
    """

    support: Block
    target: Block
    support_query: Query
    target_query: Query
    union: Block
    rows: tuple[slice, slice]

    def to(self, device: torch.device | str) -> Part:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Part(**{k: v if k == "rows" else v.to(device) for k, v in moved.items()})


@dataclass(frozen=True, eq=False)
class Episode:
    """Support and target set of each task, and their block-diagonal unions over the tasks."""

    parts: dict[str, Part]

    @cached_property
    def support(self) -> Block:
        """All support graphs."""
        return Block.join([part.support for part in self.parts.values()])

    @cached_property
    def target(self) -> Block:
        """All target graphs."""
        return Block.join([part.target for part in self.parts.values()])

    @cached_property
    def union(self) -> Block:
        """All graphs, those that are on both sides once."""
        return Block.join([part.union for part in self.parts.values()])

    @cached_property
    def union_rows(self) -> dict[str, tuple[slice, slice]]:
        """Rows of ``union``: of each task's support, and of its target."""
        starts = self.union.bounds
        return {
            name: (_shift(part.rows[0], start), _shift(part.rows[1], start))
            for (name, part), start in zip(self.parts.items(), starts, strict=False)
        }

    def to(self, device: torch.device | str) -> Episode:
        """The same on another device."""
        return Episode({name: part.to(device) for name, part in self.parts.items()})


def _shift(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


def tasks_of(dataset: Dataset, names: Sequence[str] | None = None) -> list[Task]:
    """The tasks in SAME's order: classes of graphs, classes of nodes, links.

    Raises ValueError for data without graphs, names that are not tasks, and tasks of another kind.
    """
    if dataset.node_graph is None:
        raise ValueError(f"data set {dataset.name}: SAME needs many graphs (node_graph), this is one")
    unknown = [name for name in names or () if name not in dataset.tasks]
    if unknown:
        raise ValueError(f"tasks: must be among {', '.join(dataset.tasks)}, got {unknown[0]!r}")
    found = [dataset.tasks[name] for name in names or dataset.tasks]
    for task in found:
        if task.kind not in ("class", "link"):
            raise ValueError(f"task {task.name}: SAME has heads for classes and links, this one is {task.kind}")
    return sorted(found, key=lambda task: LEVELS.index(task.level))


class Graphs:
    """The graphs of a data set, one by one: nodes, undirected edges, labels.

    The edges are those of ``dataset.graph``: pairs that a link task holds out are not among them.
    """

    def __init__(self, dataset: Dataset) -> None:
        assert dataset.node_graph is not None
        owner = dataset.node_graph.cpu()
        self.x = dataset.x.cpu()
        self.count = dataset.num_graphs
        self.ptr: list[int] = torch.searchsorted(owner, torch.arange(self.count + 1)).tolist()
        pairs = dataset.graph.edge_index().cpu()
        pairs = pairs[:, pairs[0] < pairs[1]]
        # Row-major: by the smaller node, then by the larger one.
        self._pairs = pairs[:, (pairs[0] * dataset.num_nodes + pairs[1]).argsort()]
        starts = torch.searchsorted(self._pairs[0].contiguous(), torch.tensor(self.ptr))
        self._bounds: list[int] = starts.tolist()

    def size(self, graph: int) -> int:
        """Its number of nodes."""
        return self.ptr[graph + 1] - self.ptr[graph]

    def edges(self, graph: int) -> Tensor:
        """Its undirected edges, smaller node first, in row-major order, numbered from its first node: [2, m]."""
        return self._pairs[:, self._bounds[graph] : self._bounds[graph + 1]] - self.ptr[graph]

    def non_edges(self, graph: int, generator: torch.Generator | None = None) -> Tensor:
        """Pairs of its nodes without an edge, in number as its edges or all there are: [2, at most m].

        The first ones in row-major order, or drawn at random. SAME's bound on their number is n^2 - (m + n) - n.
        """
        n, edges = self.size(graph), self.edges(graph)
        joined = torch.ones(n, n, dtype=torch.bool).triu(1)
        joined[edges[0], edges[1]] = False
        free = joined.nonzero().t()
        count = min(edges.size(1), max(0, n * n - (edges.size(1) + n) - n), free.size(1))
        if generator is None:
            return free[:, :count]
        return free[:, torch.randperm(free.size(1), generator=generator)[:count]]

    def block(self, graphs: Sequence[int], edges: Sequence[Tensor] | None = None) -> Block:
        """The graphs side by side, with the given edges [2, m] each (default: their own)."""
        shift, parts, features = 0, [torch.empty(2, 0, dtype=torch.int64)], [self.x[:0]]
        for place, graph in enumerate(graphs):
            parts.append((self.edges(graph) if edges is None else edges[place]) + shift)
            features.append(self.x[self.ptr[graph] : self.ptr[graph + 1]])
            shift += self.size(graph)
        return Block(torch.cat(features), Graph.from_edge_index(both_ways(torch.cat(parts, 1)), shift, shift), (shift,))

    def starts(self, graphs: Sequence[int]) -> list[int]:
        """Number of each graph's first node in their block, and at the end the number of nodes."""
        starts = [0]
        for graph in graphs:
            starts.append(starts[-1] + self.size(graph))
        return starts


def graph_split(dataset: Dataset) -> dict[str, Tensor]:
    """Which graphs are for train, val and test, bool [G] each: as its graph task says, else as its nodes are.

    Without tasks of either kind all graphs are in each.
    """
    assert dataset.node_graph is not None
    for task in dataset.tasks.values():
        if task.level == "graph":
            return {name: mask.cpu() for name, mask in task.split.items()}
    for task in dataset.tasks.values():
        if task.level == "node":
            outside = {name: dataset.node_graph[~mask].cpu() for name, mask in task.split.items()}
            every = torch.ones(dataset.num_graphs, dtype=torch.bool)
            return {name: every.index_fill(0, graphs, False) for name, graphs in outside.items()}
    return dict.fromkeys(SPLITS, torch.ones(dataset.num_graphs, dtype=torch.bool))


def partition(count: int, tasks: int) -> list[list[int]]:
    """Which of a batch's graphs go to which task: floor(count / tasks) each, the rest in turn."""
    each = count // tasks
    groups: list[list[int]] = [[] for _ in range(tasks)]
    for place in range(count):
        group = place // each
        groups[group if group < tasks else place % tasks].append(place)
    return groups


def batches(order: Sequence[int], size: int) -> list[list[int]]:
    """The graphs in their order, ``size`` at a time; a short last batch of fewer than SMALLEST is dropped."""
    found = [list(order[k : k + size]) for k in range(0, len(order), size)]
    return found[:-1] if found and len(found) > 1 and len(found[-1]) < min(SMALLEST, size) else found


def episodes(
    graphs: Graphs,
    tasks: Sequence[Task],
    order: Sequence[int],
    size: int,
    kind: Kind = "multi",
    variant: Variant = "as_described",
    generator: torch.Generator | None = None,
) -> Iterator[Episode]:
    """The episodes of one epoch over the graphs in ``order``, ``size`` graphs in each.

    multi: every task has graphs of its own (:func:`partition`). concurrent: all tasks have the same graphs, the first
    half of them as support. single: one task an episode, equally many episodes for each, shuffled once. An episode of
    fewer graphs than twice its tasks has one task, drawn at random.
    """
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    maker = Maker(graphs, draw if variant == "as_described" else None)
    every = batches(order, size)
    turn: list[int] = []
    if kind == "single":
        blocks = torch.arange(len(every)) * len(tasks) // max(1, len(every))
        turn = blocks[torch.randperm(len(every), generator=draw)].tolist()
    for place, batch in enumerate(every):
        chosen = list(tasks)
        if kind == "single":
            chosen = [tasks[turn[place]]]
        elif len(batch) < 2 * len(tasks):
            chosen = [tasks[int(torch.randint(len(tasks), (1,), generator=draw))]]
        if kind == "concurrent" and len(chosen) > 1:
            half = math.ceil(len(batch) / 2)
            yield Episode({t.name: maker.concurrent(t, batch[:half], batch[half:]) for t in chosen})
        else:
            groups = partition(len(batch), len(chosen))
            yield Episode({t.name: maker.part(t, [batch[i] for i in g]) for t, g in zip(chosen, groups, strict=True)})


class Maker:
    """Makes the parts of episodes; without a generator everything is the first so many."""

    def __init__(self, graphs: Graphs, generator: torch.Generator | None) -> None:
        self.graphs = graphs
        self.generator = generator

    def part(self, task: Task, graphs: list[int]) -> Part:
        """Support and target of one task, from its own graphs."""
        return {"graph": self._graph, "node": self._node, "edge": self._edge}[task.level](task, graphs)

    def side(self, task: Task, graphs: list[int]) -> tuple[Block, Query]:
        """All nodes, graphs or edges of the graphs; messages of links pass along 80 % of the edges."""
        if task.level == "edge":
            return self.links(graphs, everything=True)[:2]
        return self.graphs.block(graphs), (self._classes if task.level == "graph" else self._nodes)(task, graphs)

    def concurrent(self, task: Task, support: list[int], target: list[int]) -> Part:
        """All nodes, graphs or edges of the support graphs and the target graphs; of the latter the held-out edges."""
        (left, asked), (right, answered) = self.side(task, support), self.side(task, target)
        if task.level == "edge":
            right, _, answered = self.links(target, everything=False)
        return _apart(left, right, asked, answered)

    def _graph(self, task: Task, graphs: list[int]) -> Part:
        if self.generator is not None:
            graphs = [graphs[i] for i in torch.randperm(len(graphs), generator=self.generator).tolist()]
        cut = _floor(GRAPH_SUPPORT, len(graphs))
        (left, asked), (right, answered) = self.side(task, graphs[:cut]), self.side(task, graphs[cut:])
        return _apart(left, right, asked, answered)

    def _classes(self, task: Task, graphs: list[int]) -> Query:
        starts = self.graphs.starts(graphs)
        owner = torch.arange(len(graphs)).repeat_interleave(torch.tensor(starts).diff())
        pool = Graph.from_edge_index(torch.stack((torch.arange(starts[-1]), owner)), starts[-1], len(graphs))
        return Query(task.target.cpu()[graphs], pool)

    def _nodes(self, task: Task, graphs: list[int]) -> Query:
        label = torch.cat([self._labels(task, g) for g in graphs])
        return _labelled(label, torch.arange(label.numel()))

    def _labels(self, task: Task, graph: int) -> Tensor:
        return task.target.cpu()[self.graphs.ptr[graph] : self.graphs.ptr[graph + 1]]

    def _node(self, task: Task, graphs: list[int]) -> Part:
        label = torch.cat([self._labels(task, g) for g in graphs])
        chosen = torch.zeros(label.numel(), dtype=torch.bool)
        for graph, start in zip(graphs, self.graphs.starts(graphs), strict=False):
            own = self._labels(task, graph)
            for value in own[own >= 0].unique().tolist():
                where = self._shuffled((own == value).nonzero()[:, 0])
                chosen[start + where[: _floor(NODE_SUPPORT, where.numel())]] = True
        block = self.graphs.block(graphs)
        return _same(block, *(_labelled(label, mask.nonzero()[:, 0]) for mask in (chosen, ~chosen)))

    def _edge(self, task: Task, graphs: list[int]) -> Part:
        block, seen, held = self.links(graphs, everything=False)
        return _same(block, seen, held)

    def links(self, graphs: list[int], everything: bool) -> tuple[Block, Query, Query]:
        """The graphs with 80 % of their edges; the pairs of these (or all there are); the held-out ones."""
        messages, sides = [], ([torch.empty(2, 0, dtype=torch.int64)] * 2, [torch.empty(2, 0, dtype=torch.int64)] * 2)
        for graph, start in zip(graphs, self.graphs.starts(graphs), strict=False):
            positive = self._shuffled(self.graphs.edges(graph))
            negative = self.graphs.non_edges(graph, self.generator)
            cut = _floor(EDGE_SUPPORT, positive.size(1)), _floor(EDGE_SUPPORT, negative.size(1))
            messages.append(positive[:, : cut[0]])
            end = (None, None) if everything else cut
            sides[0].extend((positive[:, : end[0]] + start, negative[:, : end[1]] + start))
            sides[1].extend((positive[:, cut[0] :] + start, negative[:, cut[1] :] + start))
        return self.graphs.block(graphs, messages), _pairs(sides[0]), _pairs(sides[1])

    def _shuffled(self, items: Tensor) -> Tensor:
        """Items [n] or pairs [2, m] in random order, or as they are."""
        if self.generator is None:
            return items
        return items[..., torch.randperm(items.size(-1), generator=self.generator)]


def _floor(fraction: float, count: int) -> int:
    # 0.6 * 5 is 3: a fraction that is meant to divide the count must not lose one to rounding.
    return int(fraction * count + 1e-9)


def _labelled(label: Tensor, nodes: Tensor) -> Query:
    nodes = nodes[label[nodes] >= 0]
    return Query(label[nodes], nodes)


def _pairs(parts: Sequence[Tensor]) -> Query:
    """Positives and negatives of each graph in turn."""
    target = [torch.full((p.size(1),), float(k % 2 == 0)) for k, p in enumerate(parts)]
    return Query(torch.cat(target), torch.cat(list(parts), 1))


def _same(block: Block, support: Query, target: Query) -> Part:
    rows = slice(0, block.x.size(0))
    return Part(block, block, support, target, block, (rows, rows))


def _apart(left: Block, right: Block, support: Query, target: Query) -> Part:
    n, m = left.x.size(0), right.x.size(0)
    return Part(left, right, support, target, Block.join([left, right]), (slice(0, n), slice(n, n + m)))

"""neighbor_sample: the sampled neighbourhoods of seeds, for training on a part of a graph at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.graph import Graph
from fastgmtl.ops.check import graph_argument
from fastgmtl.reference import neighbor_sample as twin

EdgeType = tuple[str, str, str]


@dataclass(frozen=True)
class NeighborSample:
    """Nodes and edges of the neighbourhoods of some seeds; all tensors are int64."""

    node: Tensor  # [n] the nodes: the seeds in their order, then hop by hop what they led to
    row: Tensor  # [m] of each edge the source, and
    col: Tensor  # [m] the destination, as places in `node`; sorted by destination
    edge: Tensor  # [m] its place in the order in which the graph's edges were given
    batch: Tensor | None  # [n] which of the seeds a node belongs to, if they are disjoint
    num_nodes: list[int]  # seeds, new nodes of the first hop, of the second, ...
    num_edges: list[int]  # edges of the first hop, of the second, ...

    @property
    def graph(self) -> Graph:
        """The edges over the nodes."""
        return Graph.from_edge_index(torch.stack([self.row, self.col]), len(self.node), len(self.node))


@dataclass(frozen=True)
class HeteroNeighborSample:
    """The same by node type and edge type."""

    node: dict[str, Tensor]
    row: dict[EdgeType, Tensor]
    col: dict[EdgeType, Tensor]
    edge: dict[EdgeType, Tensor]
    batch: dict[str, Tensor] | None
    num_nodes: dict[str, list[int]]
    num_edges: dict[EdgeType, list[int]]


@overload
def neighbor_sample(
    graph: Graph,
    seeds: Tensor,
    fanouts: Sequence[int],
    replace: bool = ...,
    disjoint: bool = ...,
    seed: int | torch.Generator | None = ...,
    num_nodes: None = ...,
) -> NeighborSample: ...


@overload
def neighbor_sample(
    graph: Mapping[EdgeType, Graph],
    seeds: Mapping[str, Tensor],
    fanouts: Sequence[int] | Mapping[EdgeType, Sequence[int]],
    replace: bool = ...,
    disjoint: bool = ...,
    seed: int | torch.Generator | None = ...,
    num_nodes: Mapping[str, int] | None = ...,
) -> HeteroNeighborSample: ...


def neighbor_sample(
    graph: Graph | Mapping[EdgeType, Graph],
    seeds: Tensor | Mapping[str, Tensor],
    fanouts: Sequence[int] | Mapping[EdgeType, Sequence[int]],
    replace: bool = False,
    disjoint: bool = False,
    seed: int | torch.Generator | None = None,
    num_nodes: Mapping[str, int] | None = None,
) -> NeighborSample | HeteroNeighborSample:
    """Sample the neighbourhoods of ``seeds``, hop by hop, along the edges into each node.

    At each hop every node that is new since the hop before draws edges of each type into it, uniformly; the sources
    become nodes unless they are already. Every node draws once.

    Args:
        graph: over N nodes; or a graph for each edge type (source type, relation, destination type). On the CPU.
        seeds: [n] of int64 or int32; or those of each node type, some of which may be missing.
        fanouts: how many edges a node draws at each hop, -1 for all; the same for all edge types, or for each.
        replace: draw with replacement: then always as many, where a node has a neighbour. Without, a node that has no
            more edges than that draws them all.
        disjoint: every seed has a neighbourhood of its own: a node that two of them reach is there twice.
        seed: of the draws: the same gives the same sample for any number of threads. A generator, or None for
            PyTorch's own, gives one.
        num_nodes: of each node type, where edges do not tell.

    Returns:
        A :class:`NeighborSample`; or a :class:`HeteroNeighborSample` for graphs by edge type.

    The distribution is that of pyg-lib's ``neighbor_sample`` (PyTorch Geometric's NeighborLoader, directional);
    Hamilton, Ying and Leskovec, Inductive representation learning on large graphs, NeurIPS 2017.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, of other types or sizes.
        IndexError: a seed is no node.
    """
    if isinstance(seed, int):
        key = seed % 2**64
    else:
        key = int(torch.randint(2**62, (), generator=seed, dtype=torch.int64))
    if isinstance(graph, Mapping):
        return _by_types(graph, seeds, fanouts, replace, disjoint, key, num_nodes or {})
    graph_argument("neighbor_sample", graph)
    if not graph.is_square:
        raise ValueError(
            f"neighbor_sample: graph must be over one set of nodes, got {graph.num_src} sources and {graph.num_dst} "
            "destinations; give graphs by edge type"
        )
    if isinstance(fanouts, Mapping):
        raise TypeError("neighbor_sample: fanouts must be a list for one graph, got a mapping")
    nodes, edges = _run([graph], [(0, 0)], [fanouts], [_seeds(seeds)], [graph.num_dst], replace, disjoint, key)
    (node, batch, node_counts), (row, col, edge, edge_counts) = nodes[0], edges[0]
    return NeighborSample(node, row, col, edge, batch, node_counts, edge_counts)


def _by_types(
    graphs: Mapping[EdgeType, Graph],
    seeds: Any,
    fanouts: Any,
    replace: bool,
    disjoint: bool,
    key: int,
    num_nodes: Mapping[str, int],
) -> HeteroNeighborSample:
    if not isinstance(seeds, Mapping):
        raise TypeError("neighbor_sample: seeds must be a mapping from node types for graphs by edge type")
    sizes = dict(num_nodes)
    for edge_type, graph in graphs.items():
        graph_argument("neighbor_sample", graph)
        for name, count in ((edge_type[0], graph.num_src), (edge_type[2], graph.num_dst)):
            if sizes.setdefault(name, count) != count:
                raise ValueError(
                    f"neighbor_sample: {edge_type} has {count} nodes of type {name!r}, expected {sizes[name]}"
                )
    for name in seeds:
        if name not in sizes:
            raise ValueError(f"neighbor_sample: seeds are of a node type of the graphs, got {name!r}")
    if isinstance(fanouts, Mapping):
        missing = [kind for kind in graphs if kind not in fanouts]
        if missing:
            raise ValueError(f"neighbor_sample: fanouts must be given for every edge type, {missing[0]} is missing")
    types = list(dict.fromkeys([*seeds, *sizes]))  # disjoint seeds are counted in the order of their types
    nodes, edges = _run(
        list(graphs.values()),
        [(types.index(kind[0]), types.index(kind[2])) for kind in graphs],
        [fanouts[kind] if isinstance(fanouts, Mapping) else fanouts for kind in graphs],
        [_seeds(seeds[name]) if name in seeds else None for name in types],
        [sizes[name] for name in types],
        replace,
        disjoint,
        key,
    )
    by_node, by_edge = dict(zip(types, nodes, strict=True)), dict(zip(graphs, edges, strict=True))
    return HeteroNeighborSample(
        node={name: found[0] for name, found in by_node.items()},
        row={kind: found[0] for kind, found in by_edge.items()},
        col={kind: found[1] for kind, found in by_edge.items()},
        edge={kind: found[2] for kind, found in by_edge.items()},
        batch={name: found[1] for name, found in by_node.items()} if disjoint else None,
        num_nodes={name: found[2] for name, found in by_node.items()},
        num_edges={kind: found[3] for kind, found in by_edge.items()},
    )


def _seeds(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32):
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"neighbor_sample: seeds must be an int64 tensor, got {what}".replace("torch.", ""))
    if value.dim() != 1:
        raise ValueError(f"neighbor_sample: seeds must have shape [n], got {list(value.shape)}")
    return value.to(torch.int64).contiguous()


def _run(
    graphs: Sequence[Graph],
    ends: Sequence[tuple[int, int]],
    fanouts: Sequence[Sequence[int]],
    seeds: Sequence[Tensor | None],
    sizes: Sequence[int],
    replace: bool,
    disjoint: bool,
    key: int,
) -> tuple[list[Any], list[Any]]:
    """For each node type node, batch and counts; for each edge type row, col, edge and counts."""
    hops = {len(f) for f in fanouts}
    if len(hops) > 1:
        raise ValueError(f"neighbor_sample: every edge type must have as many hops, got {sorted(hops)}")
    for value in (v for f in fanouts for v in f):
        if not isinstance(value, int) or value < -1:
            raise ValueError(f"neighbor_sample: a fan-out must be 0 or more, or -1 for all, got {value!r}")
    for device in (*(g.device for g in graphs), *(s.device for s in seeds if s is not None)):
        if device.type != "cpu":
            raise ValueError(f"neighbor_sample: graph and seeds must be on the CPU, got {device}")
    if (kernels := backend.kernels_for(torch.device("cpu"))) is None:
        return _by_python(graphs, ends, fanouts, seeds, sizes, replace, disjoint, key)
    threads = torch.get_num_threads()
    patterns, lists = [g.pattern for g in graphs], [list(f) for f in fanouts]
    sample = kernels.neighbor_sample(patterns, ends, lists, seeds, sizes, replace, disjoint, key, threads)
    nodes: list[Any] = []
    for t in range(len(sizes)):
        counts = sample.nodes_per_hop(t)
        node = torch.empty(sum(counts), dtype=torch.int64)
        batch = torch.empty_like(node) if disjoint else None
        sample.copy_nodes(t, node, batch)
        nodes.append((node, batch, counts))
    edges: list[Any] = []
    for e in range(len(graphs)):
        counts = sample.edges_per_hop(e)
        row, col, edge = torch.empty(3, sum(counts), dtype=torch.int64)
        sample.copy_edges(e, row, col, edge)
        edges.append((row, col, edge, counts))
    return nodes, edges


def _by_python(
    graphs: Sequence[Graph],
    ends: Sequence[tuple[int, int]],
    fanouts: Sequence[Sequence[int]],
    seeds: Sequence[Tensor | None],
    sizes: Sequence[int],
    replace: bool,
    disjoint: bool,
    key: int,
) -> tuple[list[Any], list[Any]]:
    for given, size in zip(seeds, sizes, strict=True):
        if given is not None and given.numel():
            low, high = (int(v) for v in given.aminmax())
            if low < 0 or high >= size:
                bad = low if low < 0 else high
                raise IndexError(f"neighbor_sample: every seed must be in [0, {size}), got {bad}")
    nodes, edges = twin.neighbor_sample(graphs, ends, fanouts, seeds, replace, disjoint, key)

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    return (
        [(tensor(n.node), tensor(n.batch) if disjoint else None, n.per_hop) for n in nodes],
        [(tensor(e.row), tensor(e.col), tensor(e.edge), e.per_hop) for e in edges],
    )

"""influence: how much of what a model says of a node comes from how far away, for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph, as_graph

ROOTS = 32  # nodes whose neighbourhoods are one graph


@dataclass(frozen=True, eq=False)
class Influence:
    r"""Influence on V nodes, for T tasks.

    .. math:: I_t(v, u) = \sum_{i \in t} \sum_j \left| \frac{\partial h_{v,i}}{\partial x_{u,j}} \right|, \quad
              T_{k,t}(v) = \sum_{u : d(u, v) = k} I_t(v, u), \quad
              R_t = \frac{1}{V} \sum_v \frac{\sum_k k \, T_{k,t}(v)}{\sum_k T_{k,t}(v)}

    root, node, hop: int64 [P]: of each pair (v, u) the position of v among the nodes asked for, u, and how many edges
        the shortest path from u to v has.
    value: I [P, T].
    total: T_k [V, T, K + 1], of the exact hops 0 to K.
    """

    root: Tensor
    node: Tensor
    hop: Tensor
    value: Tensor
    total: Tensor

    @property
    def curve(self) -> Tensor:
        """The mean of T_k over the nodes, divided by that of hop 0: [T, K + 1]."""
        mean = self.total.mean(0)
        return mean / mean[:, :1]

    @property
    def receptive_field(self) -> Tensor:
        """R [T], the mean distance that influence comes from; a node without any counts as 0."""
        hops = torch.arange(self.total.size(-1), dtype=self.total.dtype, device=self.total.device)
        every = self.total.sum(-1)
        return (self.total @ hops / torch.where(every > 0, every, 1)).mean(0)


def influence(
    model: Callable[..., Tensor],
    x: Tensor,
    edge_index: Tensor | Graph,
    nodes: Tensor,
    hops: int,
    *,
    task_sizes: Sequence[int] | None = None,
    radius: int | None = None,
) -> Influence:
    """The influence of the nodes within ``hops`` on ``nodes``; see :class:`Influence`.

    Source: Liang et al., Towards quantifying long-range interactions in graph machine learning (City-Networks), arXiv
    2503.09008, section 4; by task it is new here.

    Args:
        model: ``model(x, edge_index)`` gives [N, C], or [N, T, C]; call ``eval()`` first where it has dropout, or norms
            over batches, which would join the nodes.
        x: [N, F], floating point.
        edge_index: [2, E] or a Graph; the model is given what it is, of the part that is looked at.
        nodes: int64 [V], those that are influenced.
        hops: K.
        task_sizes: how many columns of [N, C] belong to each task, in turn; None means one task.
        radius: the model is run on what is within so many edges of a node, with all edges among them. It must see all
            that the node's output depends on: for L layers that know degrees L + 1, which is the default for L = hops.

    The neighbourhoods of several nodes are one graph, without an edge between them, and each of the C outputs takes
    one backward pass for all of them: nothing is of the size of N x F for a node.

    Raises:
        TypeError: x is not floating point, nodes are not int64.
        ValueError: hops or radius is negative, radius < hops, task_sizes do not add up to C, a shape does not fit.
        IndexError: a node is out of range.
    """
    graph = as_graph(edge_index, x.size(0), x.size(0))
    radius = hops + 1 if radius is None else radius
    _check(x, nodes, hops, radius)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start, part in zip(range(0, len(nodes), ROOTS), nodes.split(ROOTS), strict=False):
        root, node, hop = neighbourhoods(graph, part, radius)
        here = _induced(graph, root, node)
        near = hop <= hops
        value = _sensitivity(model, x[node], here, isinstance(edge_index, Graph), hop == 0, task_sizes)[near]
        found.append((start + root[near], node[near], hop[near], value))
    root, node, hop, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    total = value.new_zeros(len(nodes) * (hops + 1), value.size(1)).index_add(0, root * (hops + 1) + hop, value)
    return Influence(root, node, hop, value, total.unflatten(0, (len(nodes), hops + 1)).transpose(1, 2))


def neighbourhoods(graph: Graph, nodes: Tensor, hops: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which nodes can reach each of ``nodes`` along at most ``hops`` edges: int64 [P] each.

    The position of the node that is reached, the node that reaches it, and the exact number of edges it takes; sorted
    by the first two. Breadth first, for all nodes at once.
    """
    size = max(1, graph.num_src)
    front = torch.arange(len(nodes), device=nodes.device) * size + nodes
    seen, depth = front, torch.zeros_like(front)
    for hop in range(1, hops + 1):
        owner, entry = _in_edges(graph, front % size)
        reached = ((front - front % size)[owner] + graph.col.long()[entry]).unique()
        front = reached[~torch.isin(reached, seen)]
        seen, depth = torch.cat([seen, front]), torch.cat([depth, torch.full_like(front, hop)])
    keys, order = seen.sort()
    return keys // size, keys % size, depth[order]


def _in_edges(graph: Graph, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The edges into each of ``nodes``: its position in ``nodes``, and that of the edge in the rows of the graph."""
    first, counts = graph.row_ptr[nodes], graph.in_degree()[nodes]
    owner = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=nodes.device) + (first - before)[owner]


def _induced(graph: Graph, root: Tensor, node: Tensor) -> Tensor:
    """The edges among the nodes of each neighbourhood, [2, E'] by positions in ``node``."""
    size = max(1, graph.num_src)
    keys = root * size + node
    target, entry = _in_edges(graph, node)
    wanted = root[target] * size + graph.col.long()[entry]
    place = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
    there = keys[place] == wanted
    return torch.stack([place[there], target[there]])


def _sensitivity(
    model: Callable[..., Any], x: Tensor, edges: Tensor, as_a_graph: bool, roots: Tensor, sizes: Sequence[int] | None
) -> Tensor:
    """The sums over outputs of a task of the absolute derivatives of the roots' outputs by x: [P, T]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        given = Graph.from_edge_index(edges, x.size(0), x.size(0)) if as_a_graph else edges
        out = model(x, given)[roots]
        sizes = _sizes(out, sizes)
        columns = out.flatten(1)
        value = x.new_zeros(x.size(0), len(sizes))
        for column, task in enumerate(t for t, size in enumerate(sizes) for _ in range(size)):
            # The neighbourhoods share no node, so one pass gives the derivatives of the outputs of all roots.
            (grad,) = torch.autograd.grad(columns[:, column].sum(), x, retain_graph=True, materialize_grads=True)
            value[:, task] += grad.abs().sum(-1)
    return value


def _sizes(out: Tensor, sizes: Sequence[int] | None) -> list[int]:
    """How many columns of the flattened output belong to each task."""
    if out.dim() == 3:
        if sizes is not None:
            raise ValueError("influence: task_sizes must be None for a model whose output is [N, T, C]")
        return [out.size(2)] * out.size(1)
    if out.dim() != 2:
        raise ValueError(f"influence: the model must give [N, C] or [N, T, C], got {list(out.shape)}")
    found = [out.size(1)] if sizes is None else list(sizes)
    if sum(found) != out.size(1) or min(found, default=0) < 0:
        raise ValueError(f"influence: task_sizes must add up to the model's {out.size(1)} columns, got {found}")
    return found


def _check(x: Tensor, nodes: Tensor, hops: int, radius: int) -> None:
    if x.dim() != 2:
        raise ValueError(f"influence: x must have shape [N, F], got {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"influence: x must be floating point, got {x.dtype}; convert it with .float()")
    if nodes.dtype != torch.int64:
        raise TypeError(f"influence: nodes must be int64, got {nodes.dtype}")
    if nodes.dim() != 1 or not nodes.numel():
        raise ValueError(f"influence: nodes must have shape [V] with V > 0, got {list(nodes.shape)}")
    if hops < 0 or radius < hops:
        raise ValueError(f"influence: hops must be 0 or more and radius at least hops, got {hops} and {radius}")
    low, high = int(nodes.min()), int(nodes.max())
    if low < 0 or high >= x.size(0):
        raise IndexError(f"influence: nodes must be in 0..{x.size(0) - 1}, got {low if low < 0 else high}")

"""gcn_norm: self loops and symmetric normalisation of a graph, in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops.check import graph_argument, weights
from fastgmtl.ops.spmm import spmm


def gcn_norm(
    graph: Graph,
    weight: Tensor | None = None,
    add_self_loops: bool = True,
    improved: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Graph, Tensor]:
    r"""Graph and weights of the normalised adjacency matrix of a GCN (Kipf and Welling 2017, equation 2).

    .. math:: w_e = \frac{a_e}{\sqrt{d_j d_i}}, \quad d_i = \sum_{e \to i} a_e, \quad e = (j \to i)

    with one loop of weight 1 (2 if ``improved``) for each node that has none; a loop that is there keeps its weight.

    Args:
        graph: a square graph; N nodes, E edges.
        weight: a, None (ones), [E] or [E, T]; may require grad. Without it the result is computed once and kept.
        add_self_loops: add the missing loops.
        improved: loops of weight 2.
        dtype: of the weights, where ``weight`` is None.

    Returns:
        The graph with N loops appended (loops of the given graph stay, with weight 0: they have moved to the end)
        and its weights [E + N] or [E + N, T]; without ``add_self_loops`` the graph itself and weights [E] or [E, T].
        Degrees of bfloat16 and float16 weights are summed and inverted in float32.
    """
    graph_argument("gcn_norm", graph)
    if weight is not None:
        weights("gcn_norm", weight, graph.num_edges, None)
        return _normalise(graph, weight, add_self_loops, improved)
    key = ("gcn_norm", add_self_loops, improved, dtype)
    return graph._once(key, lambda: _normalise(graph, _ones(graph, dtype), add_self_loops, improved))


def _ones(graph: Graph, dtype: torch.dtype) -> Tensor:
    return torch.ones(graph.num_edges, dtype=dtype, device=graph.device)


def _normalise(graph: Graph, weight: Tensor, loops: bool, improved: bool) -> tuple[Graph, Tensor]:
    if loops:
        weight = _with_loop_weights(graph, weight, 2.0 if improved else 1.0)
        graph = graph.add_self_loops()
    wide = weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
    degree = spmm(graph, wide.new_ones(graph.num_src, 1), wide).squeeze(-1)
    positive = degree > 0
    scale = torch.where(positive, torch.where(positive, degree, 1).rsqrt(), 0)
    src, dst = graph.edge_index()
    return graph, (scale[src] * wide * scale[dst]).to(weight.dtype)


def _with_loop_weights(graph: Graph, weight: Tensor, fill: float) -> Tensor:
    """The weights with those of loops set to 0, then one for each node: its last loop's, or ``fill``."""
    src, dst = graph.edge_index()
    is_loop = src == dst
    place = torch.where(is_loop, torch.arange(graph.num_edges, device=graph.device), -1)
    last = place.new_full((graph.num_dst,), -1).scatter_reduce(0, dst, place, "amax")
    has_loop = last >= 0
    if weight.dim() == 2:
        is_loop, has_loop = is_loop.unsqueeze(1), has_loop.unsqueeze(1)
    if graph.num_edges:
        own = torch.where(has_loop, weight[last.clamp(min=0)], fill)
    else:
        own = weight.new_full((graph.num_dst, *weight.shape[1:]), fill)
    return torch.cat([torch.where(is_loop, 0, weight), own])

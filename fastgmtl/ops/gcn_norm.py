"""gcn_norm: self loops and symmetric normalisation of a graph, in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.csr import index_dtype
from fastgmtl.graph import Graph
from fastgmtl.ops.check import graph_argument, same_device, weights
from fastgmtl.ops.operator import is_transformed
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
        The graph with N loops (loops of the given graph stay, with weight 0: their weight has moved to the new one)
        and its weights [E + N] or [E + N, T], in the order of its rows, which is its edge order; without
        ``add_self_loops`` the edges of the graph, in that order, and their weights. Degrees of bfloat16 and float16
        weights are summed and inverted in float32.

    Raises:
        TypeError: graph is not a Graph, weight is not a floating point tensor.
        ValueError: the graph is not square, a shape or a device does not fit.
    """
    graph_argument("gcn_norm", graph)
    if not graph.is_square:
        raise ValueError(
            f"gcn_norm: the graph must have as many sources as destinations, got {graph.num_src} and {graph.num_dst}"
        )
    if weight is not None:
        weights("gcn_norm", weight, graph.num_edges, None)
        same_device("gcn_norm", graph, weight)
        return _normalise(graph, graph.sort_edges(weight), add_self_loops, improved)
    key = ("gcn_norm", add_self_loops, improved, dtype)
    return graph._once(key, lambda: _normalise_ones(graph, dtype, add_self_loops, improved))


def _normalise_ones(graph: Graph, dtype: torch.dtype, loops: bool, improved: bool) -> tuple[Graph, Tensor]:
    """The same for edges of weight 1: one kernel on the CPU, where the type of the indices need not change."""
    total = graph.num_edges + graph.num_dst
    kernels = None if is_transformed() or graph.device.type != "cpu" else backend.kernels_for(graph.device)
    fits = index_dtype(total, graph.num_src) == graph.col.dtype and dtype in (torch.float32, torch.float64)
    if kernels is None or not loops or not fits:
        return _normalise(graph, torch.ones(graph.num_edges, dtype=dtype, device=graph.device), loops, improved)
    row_ptr, col = torch.empty_like(graph.row_ptr), graph.col.new_empty(total)
    weight = torch.empty(total, dtype=dtype)
    kernels.gcn_norm(graph.pattern, 2.0 if improved else 1.0, row_ptr, col, weight, torch.get_num_threads())
    return Graph(row_ptr, col, None, graph.num_src), weight


def _normalise(graph: Graph, weight: Tensor, loops: bool, improved: bool) -> tuple[Graph, Tensor]:
    """The same for weights in row order. Weights then lie as the kernels read them, and nothing is sorted."""
    if loops:
        graph, weight = _with_loops(graph, weight, 2.0 if improved else 1.0)
    else:
        graph = Graph(graph.row_ptr, graph.col, None, graph.num_src)
    wide = weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
    degree = spmm(graph, wide.new_ones(graph.num_src, 1), wide).squeeze(-1)
    positive = degree > 0
    scale = torch.where(positive, torch.where(positive, degree, 1).rsqrt(), 0)
    return graph, (scale[graph.col] * wide * scale[graph.edge_rows()]).to(weight.dtype)


def _with_loops(graph: Graph, weight: Tensor, fill: float) -> tuple[Graph, Tensor]:
    """The graph with a loop at the end of every row; that loop has the weight of the row's last loop, or ``fill``."""
    looped, order, is_loop, last = graph._once("looped_rows", lambda: _loops_in_rows(graph))
    has_loop, own = last >= 0, weight.new_full((graph.num_dst, *weight.shape[1:]), fill)
    if weight.dim() == 2:
        is_loop, has_loop = is_loop.unsqueeze(1), has_loop.unsqueeze(1)
    if graph.num_edges:
        own = torch.where(has_loop, weight[last.clamp(min=0)], own)
    return looped, torch.cat([torch.where(is_loop, 0, weight), own])[order]


def _loops_in_rows(graph: Graph) -> tuple[Graph, Tensor, Tensor, Tensor]:
    """The graph with loops; where its edges stand in (edges, loops); which edges are loops; the last one of a row."""
    rows, nodes = graph.edge_rows(), torch.arange(graph.num_dst + 1, device=graph.device)
    edge, row_ptr = torch.arange(graph.num_edges, device=graph.device), graph.row_ptr + nodes
    is_loop = graph.col == rows
    order = row_ptr.new_empty(graph.num_edges + graph.num_dst)
    order[edge + rows] = edge
    order[row_ptr[1:] - 1] = nodes[:-1] + graph.num_edges
    col = torch.cat([graph.col, nodes[:-1].to(graph.col.dtype)])[order]
    last = edge.new_full((graph.num_dst,), -1)
    last = last.scatter_reduce(0, rows, torch.where(is_loop, edge, -1), "amax")
    col = col.to(index_dtype(order.size(0), graph.num_src))
    return Graph(row_ptr, col, None, graph.num_src), order, is_loop, last

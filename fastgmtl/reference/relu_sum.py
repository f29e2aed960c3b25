"""relu_sum in plain PyTorch, and the twins of the operators of :mod:`fastgmtl.ops.relu_sum`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide


def relu_sum(graph: Graph, x: Tensor, e: Tensor) -> Tensor:
    """``relu(x[src] + e)`` of every edge, added up by destination; see :func:`fastgmtl.ops.relu_sum`."""
    dtype = torch.promote_types(x.dtype, e.dtype)
    return masked_row_sums(graph, x.to(dtype), e.to(dtype), None, None)


def _is_off(graph: Graph, at_x: Tensor, at_e: Tensor) -> Tensor:
    return wide(at_x)[edge_ends(graph)[0]] + wide(at_e) <= 0


def masked_row_sums(
    graph: Graph, x: Tensor | None, e: Tensor | None, at_x: Tensor | None, at_e: Tensor | None
) -> Tensor:
    """Row sums of x + e, None being 0, where at_x + at_e (None: x and e themselves) is positive."""
    if at_x is None or at_e is None:
        assert x is not None and e is not None
        at_x, at_e = x, e
    src, dst = edge_ends(graph)
    value = (0 if x is None else wide(x)[src]) + (0 if e is None else wide(e)) + torch.zeros_like(wide(at_e))
    kept = torch.where(_is_off(graph, at_x, at_e), 0, value)
    return kept.new_zeros(graph.num_dst, kept.size(1)).index_add(0, dst, kept).to(at_e.dtype)


def relu_sum_backward(graph: Graph, g: Tensor, at_x: Tensor, at_e: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of g at the destinations of edges, where at_x + at_e is positive: by source [N, d], and of edges [E, d]."""
    src, dst = edge_ends(graph)
    of_edges = torch.where(_is_off(graph, at_x, at_e), 0, wide(g)[dst])
    of_sources = of_edges.new_zeros(at_x.shape).index_add(0, src, of_edges)
    return of_sources.to(at_e.dtype), of_edges.to(at_e.dtype)

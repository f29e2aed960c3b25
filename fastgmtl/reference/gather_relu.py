"""gather_relu in plain PyTorch, and the twins of the operators of :mod:`fastgmtl.ops.gather_relu`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide


def gather_relu(graph: Graph, h: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """``relu(h[b] + s[src] + t[dst])`` of every edge and sample, [E, B, d]; see :func:`fastgmtl.ops.gather_relu`."""
    dtype = torch.promote_types(h.dtype, torch.promote_types(s.dtype, t.dtype))
    return masked_sums(graph, h.to(dtype), s.to(dtype), t.to(dtype), None, None, None)


def _sums(graph: Graph, h: Tensor, s: Tensor, t: Tensor) -> Tensor:
    src, dst = edge_ends(graph)
    return wide(h) + (wide(s)[src] + wide(t)[dst]).unsqueeze(1)


def masked_sums(
    graph: Graph,
    h: Tensor | None,
    s: Tensor | None,
    t: Tensor | None,
    at_h: Tensor | None,
    at_s: Tensor | None,
    at_t: Tensor | None,
) -> Tensor:
    """h + s + t of the edges, None being 0, where at_h + at_s + at_t (None: h, s, t themselves) is positive."""
    if at_h is None or at_s is None or at_t is None:
        assert h is not None and s is not None and t is not None
        at_h, at_s, at_t = h, s, t
    h, s, t = (torch.zeros_like(a) if v is None else v for v, a in ((h, at_h), (s, at_s), (t, at_t)))
    return torch.where(_sums(graph, at_h, at_s, at_t) <= 0, 0, _sums(graph, h, s, t)).to(at_h.dtype)


def gather_relu_backward(graph: Graph, g: Tensor, at_h: Tensor, at_s: Tensor, at_t: Tensor) -> tuple[Tensor, ...]:
    """Sums of g, where at_h + at_s + at_t is positive: over edges [B, d], of sources [N_src, d], of destinations."""
    src, dst = edge_ends(graph)
    value = torch.where(_sums(graph, at_h, at_s, at_t) <= 0, 0, wide(g))
    of_edges = value.sum(1)
    of_src, of_dst = (
        of_edges.new_zeros(end.shape).index_add(0, at, of_edges) for end, at in ((at_s, src), (at_t, dst))
    )
    return tuple(v.to(at_h.dtype) for v in (value.sum(0), of_src, of_dst))

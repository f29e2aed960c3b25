"""Plain PyTorch twins of the operators of :mod:`fastgmtl.ops.gatv2`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide


def _slopes(graph: Graph, at_dst: Tensor, at_src: Tensor, negative_slope: float) -> Tensor:
    """The derivative of leaky at the sum of both ends, [E, K, d]."""
    src, dst = edge_ends(graph)
    sums = (wide(at_dst)[dst] + wide(at_src)[src]).detach()
    return torch.where(sums > 0, torch.ones_like(sums), negative_slope)


def gatv2_score(
    graph: Graph,
    x_dst: Tensor,
    x_src: Tensor,
    att: Tensor,
    at_dst: Tensor | None,
    at_src: Tensor | None,
    negative_slope: float,
) -> Tensor:
    """Sum over columns of att, the slope of leaky at (at_dst, at_src), and x_dst + x_src, [E, K]."""
    src, dst = edge_ends(graph)
    slopes = _slopes(graph, x_dst if at_dst is None else at_dst, x_src if at_src is None else at_src, negative_slope)
    return (wide(att) * slopes * (wide(x_dst)[dst] + wide(x_src)[src])).sum(-1).to(x_src.dtype)


def gatv2_backward(
    graph: Graph,
    g: Tensor,
    x_dst: Tensor,
    x_src: Tensor,
    att: Tensor,
    at_dst: Tensor | None,
    at_src: Tensor | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Partial derivatives of ``<g, gatv2_score>`` by x_dst, x_src and att."""
    src, dst = edge_ends(graph)
    slopes = _slopes(graph, x_dst if at_dst is None else at_dst, x_src if at_src is None else at_src, negative_slope)
    weighted = wide(g).unsqueeze(-1) * slopes
    d_att = (weighted * (wide(x_dst)[dst] + wide(x_src)[src])).sum(0)
    d_dst, d_src = (
        weighted.new_zeros(x.shape).index_add(0, at, weighted * wide(att)) for x, at in ((x_dst, dst), (x_src, src))
    )
    return d_dst.to(x_dst.dtype), d_src.to(x_src.dtype), d_att.to(att.dtype)

"""Sampled dense-dense product in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.trilinear import edge_dot


def sddmm(graph: Graph, x_dst: Tensor, x_src: Tensor) -> Tensor:
    """``w[e, t] = <x_dst[i, t], x_src[j, t]>`` for every edge e = (j -> i); see :func:`fastgmtl.ops.sddmm`."""
    return edge_dot(graph, x_dst, x_src, None, False, x_dst.dim() == 3 or x_src.dim() == 3)

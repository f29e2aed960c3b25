"""sddmm: a dot product for every edge and task."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.check import features, graph_argument, same_device
from fastgmtl.ops.trilinear import sddmm_op


def sddmm(graph: Graph, x_dst: Tensor, x_src: Tensor) -> Tensor:
    r"""Dot products of the features at both ends of every edge.

    .. math:: w_{e,t} = \langle x^{dst}_{i,t}, \; x^{src}_{j,t} \rangle \quad e = (j \to i)

    Args:
        graph: the pattern; N source and M destination nodes, E edges.
        x_dst: [M, d] or [M, T, d]; float32, float64, bfloat16 or float16.
        x_src: [N, d] or [N, T, d]. An argument without the task axis is shared by the tasks.

    Returns:
        [E], or [E, T] where an argument has a task axis; in the order in which the edges were given.

    Differentiable to any order; the backward is :func:`spmm` on the graph and on its transpose.

    Raises:
        TypeError: graph is not a Graph, a tensor is not floating point.
        ValueError: shapes or devices do not fit.
    """
    graph_argument("sddmm", graph)
    features("sddmm", "x_dst", x_dst, graph.num_dst, "num_dst")
    features("sddmm", "x_src", x_src, graph.num_src, "num_src")
    if x_dst.size(-1) != x_src.size(-1) or (x_dst.dim() == x_src.dim() == 3 and x_dst.size(1) != x_src.size(1)):
        raise ValueError(
            "sddmm: x_dst and x_src must agree in d (and T, where both have tasks), got "
            f"{list(x_dst.shape)} and {list(x_src.shape)}"
        )
    same_device("sddmm", graph, x_dst)
    same_device("sddmm", graph, x_src)
    if x_dst.dtype != x_src.dtype:
        dtype = torch.promote_types(x_dst.dtype, x_src.dtype)
        x_dst, x_src = x_dst.to(dtype), x_src.to(dtype)
    if backend.kernels_for(x_dst.device) is None:
        return reference.sddmm(graph, x_dst, x_src)
    return sddmm_op(graph, x_dst, x_src, None, False, x_dst.dim() == 3 or x_src.dim() == 3)

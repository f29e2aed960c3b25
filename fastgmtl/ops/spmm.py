"""spmm: weighted sums, means and extremes of neighbour rows, for T tasks in one pass over the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.check import features, graph_argument, one_of, same_device, weights
from fastgmtl.ops.operator import is_transformed
from fastgmtl.ops.trilinear import extreme_op, spmm_op

REDUCTIONS = ("sum", "mean", "max", "min")


def spmm(graph: Graph, x: Tensor, weight: Tensor | None = None, reduce: str = "sum") -> Tensor:
    r"""Aggregate the rows of ``x`` along the edges of ``graph``.

    .. math:: y_{i,t} = \mathrm{reduce}_{e = (j \to i)} \; w_{e,t} \, x_{j,t}

    Args:
        graph: the pattern; N source and M destination nodes, E edges.
        x: [N, d], or [N, T, d] with one feature block for each task. float32, float64, bfloat16 or float16.
        weight: None (ones), [E] (shared by the tasks) or [E, T], in the order in which the edges were given. With
            [E, T] and x [N, d] every task weighs the same features.
        reduce: "sum", "mean" (the sum over the number of edges into i), "max" or "min".

    Returns:
        [M, d], or [M, T, d] where x or weight has a task axis; of the promoted dtype of x and weight. Sums are
        accumulated in float32 (float64 for float64), in a fixed order: bit-equal from run to run and for any number
        of threads. A row without edges gives 0. NaN propagates. Of equal maxima (minima) the edge given first gets
        the gradient.

    Differentiable to any order in x and weight; the backward reads the transposed graph, without atomics, and gives
    both gradients in one pass over the edges. Nothing of size E x d is written.

    Raises:
        TypeError: graph is not a Graph, x or weight is not a floating point tensor.
        ValueError: a shape, a device or ``reduce`` does not fit.
    """
    kernels = backend.active.get(getattr(graph, "device_type", ""))
    if kernels is not None and (reduce == "sum" or reduce == "mean") and not is_transformed():
        # The kernel checks what it is given. What fits runs at once; the rest goes where it is put right or explained.
        try:
            x_tasks = x.dim() == 3
            options = (reduce == "mean", False, x_tasks, x_tasks or (weight is not None and weight.dim() == 2))
            if torch.is_grad_enabled() and (x.requires_grad or (weight is not None and weight.requires_grad)):
                return spmm_op.eager(graph, options, x, weight, None)
            return spmm_op.kernel(kernels, graph, x, weight, None, *options)
        except (TypeError, ValueError, AttributeError, IndexError, BufferError, RuntimeError):
            pass
    return _checked(graph, x, weight, reduce)


def _checked(graph: Graph, x: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    graph_argument("spmm", graph)
    one_of("spmm", "reduce", reduce, REDUCTIONS)
    features("spmm", "x", x, graph.num_src, "num_src")
    same_device("spmm", graph, x)
    if weight is not None:
        weights("spmm", weight, graph.num_edges, x.size(1) if x.dim() == 3 else None)
        same_device("spmm", graph, weight)
        if weight.dtype != x.dtype:
            dtype = torch.promote_types(x.dtype, weight.dtype)
            x, weight = x.to(dtype), weight.to(dtype)
    if backend.kernels_for(x.device) is None:
        return reference.spmm(graph, x, weight, reduce)
    if reduce in ("max", "min"):
        return extreme_op(graph, x, weight, reduce == "max")[0]
    x_tasks = x.dim() == 3
    y_tasks = x_tasks or (weight is not None and weight.dim() == 2)
    return spmm_op(graph, x, weight, None, reduce == "mean", False, x_tasks, y_tasks)

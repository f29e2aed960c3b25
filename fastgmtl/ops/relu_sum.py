r"""relu_sum: rectified sums of a source's and an edge's features, added up by destination, and the operators within.

.. math:: y_{ic} = \sum_{m = (j \to i)} P_{mc} \, (x_{jc} + e_{mc}), \quad P = [x'_{jc} + e'_{mc} > 0]

x' and e' are x and e themselves where it is relu. It is linear in x and e, and P constant almost everywhere; its
gradients, P g of every edge and their sums by source, are linear in g, with the first as their derivative. Both are
operators, so any order is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.check import floating_tensor, graph_argument, same_device
from fastgmtl.ops.fold import into_features
from fastgmtl.ops.operator import Operator
from fastgmtl.reference.relu_sum import masked_row_sums, relu_sum_backward


def _contiguous(*values: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in values]


def _nothing(needs: Any, at: Any) -> list[Tensor | None]:
    """Gradients of what P is made of."""
    return [torch.zeros_like(v) if n else None for n, v in zip(needs, at, strict=True)]


class _ReluSum(Operator):
    """Row sums of P (x + e), [num_dst, d]; P of ``at_x`` and ``at_e``, or (both None) of x and e.

    With ``at_x`` and ``at_e`` one of x and e may be None: zeros.
    """

    name = "relu_sum"
    tensors = ("x", "e", "at_x", "at_e")
    options = ()

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Tensor:
        out = _ReluSum.fake(graph, *args)
        given = _contiguous(*args[:2])
        at = given if args[2] is None else _contiguous(*args[2:])
        kernels.relu_sum(graph.pattern, *given, *at, out, torch.get_num_threads())
        return out

    reference = staticmethod(masked_row_sums)

    @staticmethod
    def fake(graph: Graph, x: Any, e: Any, at_x: Any, at_e: Any) -> Tensor:
        like = e if at_e is None else at_e
        return like.new_empty(graph.num_dst, like.size(1))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        if grads[0] is None:
            return (None,) * 4
        wanted, found = sum(1 << i for i in range(2) if needs[i]), (None,) * 2
        if wanted:
            at = [v.detach() for v in (args[:2] if args[2] is None else args[2:])]
            found = call(relu_sum_backward_op)(graph, grads[0], *at, wanted)
        return *(f if n else None for f, n in zip(found, needs[:2], strict=True)), *_nothing(needs[2:], args[2:])

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        folded = [into_features(v, d, size) for v, d in zip(args, dims, strict=True)]
        return relu_sum_op(graph, *folded).unflatten(-1, (size, -1)), 1


class _Backward(Operator):
    """P g of edges: d_x [num_src, d], their sums by source, and d_e [E, d]; empty where the bit of ``wanted`` is 0."""

    name = "relu_sum_backward"
    tensors = ("g", "at_x", "at_e")
    options = (("wanted", "int"),)
    num_outputs = 2

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Any:
        out = _Backward.fake(graph, *args)
        found = (o if args[3] >> i & 1 else None for i, o in enumerate(out))
        kernels.relu_sum_backward(graph.t().pattern, *_contiguous(*args[:3]), *found, torch.get_num_threads())
        return out

    @staticmethod
    def reference(graph: Graph, *args: Any) -> Any:
        found = relu_sum_backward(graph, *args[:3])
        return tuple(f if args[3] >> i & 1 else f.new_empty(0) for i, f in enumerate(found))

    @staticmethod
    def fake(graph: Graph, g: Any, *args: Any) -> Any:
        return tuple(g.new_empty(v.shape if args[2] >> i & 1 else 0) for i, v in enumerate(args[:2]))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, g: Any, *args: Any) -> Any:
        # What is not wanted is not there: its gradient is that of nothing.
        given = [u if args[2] >> i & 1 else None for i, u in enumerate(grads)]
        if all(u is None for u in given):
            return (None,) * 3
        d_g = call(relu_sum_op)(graph, *given, *(v.detach() for v in args[:2])) if needs[0] else None
        return d_g, *_nothing(needs[1:], args[:2])

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        folded = [into_features(v, d, size) for v, d in zip(args[:3], dims, strict=True)]
        found = relu_sum_backward_op(graph, *folded, args[3])
        wanted = [bool(args[3] >> i & 1) for i in range(2)]
        outputs = [f.unflatten(-1, (size, -1)) if w else f.expand(size, 0) for f, w in zip(found, wanted, strict=True)]
        return tuple(outputs), tuple(int(w) for w in wanted)


relu_sum_op = _ReluSum()
relu_sum_backward_op = _Backward()


def relu_sum(graph: Graph, x: Tensor, e: Tensor) -> Tensor:
    r"""Add up rectified sums of the features of sources and of edges.

    .. math:: y_i = \sum_{m = (j \to i)} \mathrm{relu}(x_j + e_m)

    Args:
        graph: of N sources and M destinations, E edges.
        x: of sources, [N, d]; float32, float64, bfloat16 or float16.
        e: of edges, [E, d], in the order in which they were given.

    Returns:
        [M, d], of the promoted dtype; 0 for rows without edges. NaN propagates.

    Differentiable to any order. No message and no mask is written: the backward makes the mask again from x and e, and
    both gradients in one pass over the transposed graph; the gradient of e is the only tensor of its size. Sums are
    accumulated in float32 (float64 for float64), bit-equal for any number of threads.

    Source: the aggregation of GINE (Hu et al., Strategies for pre-training graph neural networks, ICLR 2020).

    Raises:
        TypeError: graph is not a Graph, a tensor is not a floating point tensor.
        ValueError: shapes or devices do not fit.
    """
    graph_argument("relu_sum", graph)
    for name, value in (("x", x), ("e", e)):
        floating_tensor("relu_sum", name, value)
    if x.dim() != 2 or x.size(0) != graph.num_src:
        wanted = f"[num_src, d] with num_src = {graph.num_src}"
        raise ValueError(f"relu_sum: x must have shape {wanted}, got {list(x.shape)}")
    if list(e.shape) != [graph.num_edges, x.size(1)]:
        wanted = f"[E, d] = [{graph.num_edges}, {x.size(1)}]"
        raise ValueError(f"relu_sum: e must have shape {wanted}, got {list(e.shape)}")
    for value in (x, e):
        same_device("relu_sum", graph, value)
    if backend.kernels_for(x.device) is None:
        return reference.relu_sum(graph, x, e)
    dtype = torch.promote_types(x.dtype, e.dtype)
    return relu_sum_op(graph, x.to(dtype), e.to(dtype), None, None)

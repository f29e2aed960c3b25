r"""gather_relu: relu of what a sample and both ends of an edge add up to, and the two operators within.

.. math:: out_{mbc} = P_{mbc} \, (h_{bc} + s_{jc} + t_{ic}), \quad P = [h'_{bc} + s'_{jc} + t'_{ic} > 0]

for edges m from j to i; h', s' and t' are h, s and t themselves where it is relu. It is linear in h, s and t, and P
constant almost everywhere; its gradients are the sums of P g over edges, and over samples and the edges of a source or
a destination, which are linear in g, with the first as their derivative. Both are operators, so any order is right.
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
from fastgmtl.reference.gather_relu import gather_relu_backward, masked_sums


def _contiguous(*values: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in values]


def _batch_of(value: Tensor, size: int) -> tuple[Tensor, int]:
    """A batch that was folded into the features, and its axis."""
    return value.unflatten(-1, (size, value.size(-1) // size)), value.dim() - 1


def _nothing(needs: Any, at: Any) -> list[Tensor | None]:
    """Gradients of what P is made of."""
    return [torch.zeros_like(v) if n else None for n, v in zip(needs, at, strict=True)]


class _GatherRelu(Operator):
    """P (h + s + t), [E, B, d] in the user's order; P of ``at_h``, ``at_s`` and ``at_t``, or (all None) of h, s and t.

    With ``at_h``, ``at_s`` and ``at_t`` h, s and t may be None: zeros.
    """

    name = "gather_relu"
    tensors = ("h", "s", "t", "at_h", "at_s", "at_t")
    options = ()

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Tensor:
        out = _GatherRelu.fake(graph, *args)
        given = _contiguous(*args[:3])
        at = given if args[3] is None else _contiguous(*args[3:])
        kernels.gather_relu(graph.pattern, *given, *at, out, torch.get_num_threads())
        return out

    reference = staticmethod(masked_sums)

    @staticmethod
    def fake(graph: Graph, h: Any, s: Any, t: Any, at_h: Any, *_: Any) -> Tensor:
        like = h if at_h is None else at_h
        return like.new_empty(graph.num_edges, *like.shape)

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        if grads[0] is None:
            return (None,) * 6
        wanted, found = sum(1 << i for i in range(3) if needs[i]), (None,) * 3
        if wanted:
            at = [v.detach() for v in (args[:3] if args[3] is None else args[3:])]
            found = call(gather_relu_backward_op)(graph, grads[0], *at, wanted)
        return *(f if n else None for f, n in zip(found, needs[:3], strict=True)), *_nothing(needs[3:], args[3:])

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        folded = [into_features(v, d, size) for v, d in zip(args, dims, strict=True)]
        return _batch_of(gather_relu_op(graph, *folded), size)


class _Backward(Operator):
    """Sums of P g: d_h [B, d], d_s [num_src, d], d_t [num_dst, d]; empty for those whose bit is not in ``wanted``."""

    name = "gather_relu_backward"
    tensors = ("g", "at_h", "at_s", "at_t")
    options = (("wanted", "int"),)
    num_outputs = 3

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Any:
        out = _Backward.fake(graph, *args)
        sums = (o if args[4] >> i & 1 else None for i, o in enumerate(out))
        pair = graph.pattern, graph.t().pattern
        kernels.gather_relu_backward(*pair, *_contiguous(*args[:4]), *sums, torch.get_num_threads())
        return out

    @staticmethod
    def reference(graph: Graph, *args: Any) -> Any:
        found = gather_relu_backward(graph, *args[:4])
        return tuple(f if args[4] >> i & 1 else f.new_empty(0) for i, f in enumerate(found))

    @staticmethod
    def fake(graph: Graph, g: Any, *args: Any) -> Any:
        return tuple(g.new_empty(v.shape if args[3] >> i & 1 else 0) for i, v in enumerate(args[:3]))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, g: Any, *args: Any) -> Any:
        # What is not wanted is not there: its gradient is that of nothing.
        given = [u if args[3] >> i & 1 else None for i, u in enumerate(grads)]
        if all(u is None for u in given):
            return (None,) * 4
        d_g = call(gather_relu_op)(graph, *given, *(v.detach() for v in args[:3])) if needs[0] else None
        return d_g, *_nothing(needs[1:], args[:3])

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        folded = [into_features(v, d, size) for v, d in zip(args[:4], dims, strict=True)]
        found = gather_relu_backward_op(graph, *folded, args[4])
        outputs = [_batch_of(f, size) if args[4] >> i & 1 else (f.expand(size, 0), 0) for i, f in enumerate(found)]
        return tuple(f for f, _ in outputs), tuple(dim for _, dim in outputs)


gather_relu_op = _GatherRelu()
gather_relu_backward_op = _Backward()


def gather_relu(graph: Graph, h: Tensor, s: Tensor, t: Tensor) -> Tensor:
    r"""The first layer of a network on all pairs of a sample and an edge, from its three parts.

    .. math:: out_{mb} = \mathrm{relu}(h_b + s_{src(m)} + t_{dst(m)})

    A linear layer of the concatenation [x_b; e_src; e_dst] is the sum of one of each part: as many products as there
    are samples and nodes, not as there are pairs, and nothing of the concatenation is written.

    Args:
        graph: over N_src and N_dst nodes, as the tasks of a task graph; E edges.
        h: of B samples, [B, d]; float32, float64, bfloat16 or float16.
        s: what an edge takes from its source, [N_src, d].
        t: what an edge takes from its destination, [N_dst, d].

    Returns:
        [E, B, d], of the promoted dtype, the edges in the order in which they were given. NaN propagates.

    Differentiable to any order. The result is the only tensor of its size that is written; no mask is kept: the
    backward makes it again from h, s and t, and all three gradients in one pass over the gradient of the result (on
    GPUs one pass for each). Sums are accumulated in float32 (float64 for float64), bit-equal for any number of threads.

    Source: the pair network of SGNN-EBM (Liu, Qu, Zhang, Cai, Tang, AISTATS 2022), whose first layer this factorises.

    Raises:
        TypeError: graph is not a Graph, a tensor is not a floating point tensor.
        ValueError: shapes or devices do not fit.
    """
    graph_argument("gather_relu", graph)
    for name, value in (("h", h), ("s", s), ("t", t)):
        floating_tensor("gather_relu", name, value)
    if h.dim() != 2:
        raise ValueError(f"gather_relu: h must have shape [B, d], got {list(h.shape)}")
    for name, value, nodes in (("s", s, "num_src"), ("t", t, "num_dst")):
        shape = [getattr(graph, nodes), h.size(1)]
        if list(value.shape) != shape:
            raise ValueError(f"gather_relu: {name} must have shape [{nodes}, d] = {shape}, got {list(value.shape)}")
    for value in (h, s, t):
        same_device("gather_relu", graph, value)
    dtype = torch.promote_types(h.dtype, torch.promote_types(s.dtype, t.dtype))
    if backend.kernels_for(h.device) is None:
        return reference.gather_relu(graph, h, s, t)
    return gather_relu_op(graph, h.to(dtype), s.to(dtype), t.to(dtype), None, None, None)

r"""The score of GATv2 and its gradient: two operators whose derivatives are made of the two.

.. math:: S_e = \sum_c a_c \, f_{e,c} \, (x_{i,c} + x_{j,c}), \quad f_{e,c} = \mathrm{leaky}'(p_{i,c} + q_{j,c})

for each head, with p and q the features themselves: then it is :math:`\langle a, \mathrm{leaky}(x_i + x_j) \rangle`. S
is linear in a and x, and f constant almost everywhere, so a derivative is one of these again, with x and a replaced by
other tensors and p and q left as they are. Nothing of size E x d is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops.fold import heads_of, into_heads
from fastgmtl.ops.operator import Operator
from fastgmtl.reference import gatv2 as twin


def _contiguous(*values: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in values]


def _fold(size: int, dims: Any, x_dst: Any, x_src: Any, att: Any, at_dst: Any, at_src: Any) -> list[Any]:
    """The five tensors with the batch folded into the heads."""
    nodes = [into_heads(v, d, size, 1) for v, d in ((x_dst, dims[0]), (x_src, dims[1]))]
    at = [into_heads(v, d, size, 1) for v, d in ((at_dst, dims[3]), (at_src, dims[4]))]
    return [*nodes, into_heads(att, dims[2], size, 0), *at]


def _gradients(call: Any, graph: Graph, g: Tensor, given: Any, at: Any, slope: float, wanted: int) -> Any:
    """:class:`_Backward` of what its result depends on: a result of constants shall not look as if it had a gradient.

    Those of x are of att and f, that of att is of x and f; f is constant.
    """
    x_dst, x_src, att = given
    ends = (x_dst, x_src) if wanted & 4 else (x_dst.detach(), x_src.detach())
    att = att if wanted & 3 else att.detach()
    return call(gatv2_backward_op)(graph, g, *ends, att, *(a.detach() for a in at), slope, wanted)


class _Score(Operator):
    """S, [E, K] in the user's order; without ``at_dst`` and ``at_src``, p and q are ``x_dst`` and ``x_src``."""

    name = "gatv2_score"
    tensors = ("x_dst", "x_src", "att", "at_dst", "at_src")
    options = (("negative_slope", "float"),)

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Tensor:
        out = _Score.fake(graph, *args)
        kernels.gatv2_score(graph.pattern, *_contiguous(*args[:5]), args[5], out, torch.get_num_threads())
        return out

    reference = staticmethod(twin.gatv2_score)

    @staticmethod
    def fake(graph: Graph, x_dst: Any, x_src: Any, *_: Any) -> Tensor:
        return x_src.new_empty(graph.num_edges, x_src.size(1))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        if grads[0] is None or not any(needs[:3]):
            return (None,) * 5
        x_dst, x_src, att, at_dst, at_src, slope = args
        at = (x_dst if at_dst is None else at_dst, x_src if at_src is None else at_src)
        wanted = sum(1 << i for i in range(3) if needs[i])
        found = _gradients(call, graph, grads[0], (x_dst, x_src, att), at, slope, wanted)
        return *(f if n else None for f, n in zip(found, needs[:3], strict=True)), None, None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        out = gatv2_score_op(graph, *_fold(size, dims, *args[:5]), args[5])
        return heads_of(out, size, 1), 1


class _Backward(Operator):
    """Gradients of x_dst, x_src and att; empty for those whose bit is not in ``wanted``."""

    name = "gatv2_backward"
    tensors = ("g", "x_dst", "x_src", "att", "at_dst", "at_src")
    options = (("negative_slope", "float"), ("wanted", "int"))
    num_outputs = 3

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Any:
        out = _Backward.fake(graph, *args)
        kernels.gatv2_backward(
            graph.pattern,
            graph.t().pattern,
            *_contiguous(*args[:6]),
            args[6],
            *(o if args[7] >> i & 1 else None for i, o in enumerate(out)),
            torch.get_num_threads(),
        )
        return out

    @staticmethod
    def reference(graph: Graph, *args: Any) -> Any:
        found = twin.gatv2_backward(graph, *args[:7])
        return tuple(f if args[7] >> i & 1 else args[1].new_empty(0) for i, f in enumerate(found))

    @staticmethod
    def fake(graph: Graph, *args: Any) -> Any:
        return tuple(
            torch.empty_like(v, memory_format=torch.contiguous_format) if args[7] >> i & 1 else args[1].new_empty(0)
            for i, v in enumerate(args[1:4])
        )

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        g, x_dst, x_src, att, at_dst, at_src, slope, wanted = args
        # What is not wanted is not there: its gradient is that of nothing.
        u_dst, u_src, u_att = (u if wanted >> i & 1 else None for i, u in enumerate(grads))
        at = ((x_dst if at_dst is None else at_dst).detach(), (x_src if at_src is None else at_src).detach())
        d_g = d_dst = d_src = d_att = None
        if needs[0]:
            score, parts = call(gatv2_score_op), []
            if u_dst is not None or u_src is not None:
                ends = [torch.zeros_like(x) if u is None else u for u, x in ((u_dst, x_dst), (u_src, x_src))]
                parts.append(score(graph, *ends, att, *at, slope))
            if u_att is not None:
                parts.append(score(graph, x_dst, x_src, u_att, *at, slope))
            d_g = sum(parts[1:], parts[0]) if parts else None
        # x has a gradient by way of u_att, att by way of u_dst and u_src.
        bits = 3 * (u_att is not None) & (needs[1] + 2 * needs[2])
        bits |= 4 if needs[3] and (u_dst is not None or u_src is not None) else 0
        if bits:
            given = [torch.zeros_like(x) if u is None else u for u, x in ((u_dst, x_dst), (u_src, x_src), (u_att, att))]
            found = _gradients(call, graph, g, given, at, slope, bits)
            d_dst, d_src, d_att = (f if bits >> i & 1 else None for i, f in enumerate(found))
        return d_g, d_dst, d_src, d_att, None, None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        g = into_heads(args[0], dims[0], size, 1)
        found = gatv2_backward_op(graph, g, *_fold(size, dims[1:], *args[1:6]), *args[6:])
        outputs = [
            (heads_of(f, size, axis), axis) if args[7] >> i & 1 else (f.expand(size, 0), 0)
            for i, (f, axis) in enumerate(zip(found, (1, 1, 0), strict=True))
        ]
        return tuple(f for f, _ in outputs), tuple(dim for _, dim in outputs)


gatv2_score_op = _Score()
gatv2_backward_op = _Backward()

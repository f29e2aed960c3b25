r"""Attention over the edges of each row, and its backward: exact partial derivatives of one another.

.. math::
    z_e = s_i + s_j + s_{\tau(e)} + s_e, \quad l_e = m_e \, \mathrm{leaky}(z_e), \quad
    \lambda_i = \log \sum_{e \to i} \exp l_e, \quad y_i = \sum_{e \to i} n_e \exp(l_e - \lambda_i) \, v_j

for each head; m or n is what dropout multiplies by. Both y and :math:`\lambda` are outputs with a gradient, so weights
are a plain exponential in the backward, which takes y and :math:`\lambda` as inputs with a gradient of their own: its
derivative is a composition of spmm, sddmm and products of [E, K], and so is every further one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops.fold import heads_of, into_heads
from fastgmtl.ops.operator import Operator
from fastgmtl.ops.trilinear import sddmm_op, spmm_op
from fastgmtl.reference import attend as twin
from fastgmtl.reference.philox import dropout_mask

_SCORES = ("score_dst", "score_src", "score_type", "score_edge", "edge_type", "seed")
_OPTIONS = (("negative_slope", "float"), ("dropout", "float"), ("drop_logits", "bool"))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type of sums and of per-edge gradients."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _contiguous(*values: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in values]


def _fold(size: int, values: Sequence[Tensor | None], dims: Sequence[int | None]) -> list[Tensor | None]:
    """[n, K, ...] each, with a batch axis or to be repeated, as [n, size * K, ...]."""
    return [into_heads(value, dim, size, 1) for value, dim in zip(values, dims, strict=True)]


def _one_by_one(op: Operator, size: int, dims: Sequence[int | None], graph: Graph, args: Sequence[Any]) -> Any:
    """A batch as a loop, stacked: where edge types differ, or heads must be dropped alike in the whole batch."""
    count = len(op.tensors)
    calls = []
    for b in range(size):
        tensors = [v if d is None or v is None else v.select(d, b) for v, d in zip(args[:count], dims, strict=True)]
        calls.append(op(graph, *tensors, *args[count:]))
    return tuple(torch.stack(o) for o in zip(*calls, strict=True)), (0,) * op.num_outputs


class _Attention(Operator):
    """y [num_dst, K, d] and lse [num_dst, K]."""

    name = "attention"
    tensors = ("value", *_SCORES)
    options = _OPTIONS
    num_outputs = 2
    saves_outputs = True
    differentiable_outputs = True

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Any:
        y, lse = _Attention.fake(graph, *args)
        kernels.attention(graph.pattern, *_contiguous(*args[:7]), *args[7:], y, lse, torch.get_num_threads())
        return y, lse

    @staticmethod
    def reference(graph: Graph, *args: Any) -> Any:
        return twin.attend(graph, *args)[:2]

    @staticmethod
    def fake(graph: Graph, value: Any, *_: Any) -> Any:
        _, heads, width = value.shape
        lse = value.new_empty(graph.num_dst, heads, dtype=torch.float64)
        return value.new_empty(graph.num_dst, heads, width), lse

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, outputs: Any, graph: Graph, *args: Any) -> Any:
        (g, g_lse), (y, lse) = grads, outputs
        if (g is None and g_lse is None) or not any(needs[:5]):
            return (None,) * 7
        wanted = sum(1 << i for i in range(5) if needs[i])
        g = torch.zeros_like(y) if g is None else g
        found = call(attention_backward_op)(graph, g, g_lse, y, lse, *args, wanted)
        return *(f if n else None for f, n in zip(found, needs[:5], strict=True)), None, None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        if args[6] is not None or dims[5] is not None:
            return _one_by_one(attention_op, size, dims, graph, args)
        y, lse = attention_op(graph, *_fold(size, args[:5], dims[:5]), *args[5:])
        return (heads_of(y, size, 1), heads_of(lse, size, 1)), (1, 1)


class _AttentionBackward(Operator):
    """Gradients of value and the four scores; empty for those whose bit is not in ``wanted``."""

    name = "attention_backward"
    tensors = ("g", "g_lse", "y", "lse", "value", *_SCORES)
    options = (*_OPTIONS, ("wanted", "int"))
    num_outputs = 5

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Any:
        wanted, value = args[14], args[4]
        d_value, *d_scores, d_edge = _AttentionBackward.fake(graph, *args)
        edges = None
        if wanted & 0b11010:
            edges = d_edge if wanted & 16 else value.new_empty(0)
            shape, wide = (graph.num_edges, value.size(1)), _wide(value.dtype)
            edges = edges if edges.shape == shape and edges.dtype == wide else value.new_empty(shape, dtype=wide)
        kernels.attention_backward(
            graph.pattern,
            graph.t().pattern,
            *_contiguous(*args[:11]),
            *args[11:14],
            d_value if wanted & 1 else torch.empty_like(value, memory_format=torch.contiguous_format),
            *(d if wanted & bit else None for d, bit in zip(d_scores, (2, 4, 8), strict=True)),
            edges,
            torch.get_num_threads(),
        )
        return d_value, *d_scores, edges.to(value.dtype) if wanted & 16 and edges is not None else d_edge

    @staticmethod
    def reference(graph: Graph, *args: Any) -> Any:
        empty = args[4].new_empty
        found = twin.attend_backward(graph, *args[:14])
        return tuple(f if f is not None and args[14] >> i & 1 else empty(0) for i, f in enumerate(found))

    @staticmethod
    def fake(graph: Graph, *args: Any) -> Any:
        return tuple(
            torch.empty_like(v, memory_format=torch.contiguous_format) if args[14] >> i & 1 else args[4].new_empty(0)
            for i, v in enumerate(args[4:9])
        )

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        wanted = args[14]
        cotangents = [u if wanted >> i & 1 else None for i, u in enumerate(grads)]
        if all(u is None for u in cotangents):
            return (None,) * 11
        found = _second_order(call, graph, cotangents, *args[:14])
        return tuple(
            None if f is None or not n else f.to(v.dtype) for f, n, v in zip(found, needs, args[:11], strict=True)
        )

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        if args[10] is not None or dims[9] is not None:
            return _one_by_one(attention_backward_op, size, dims, graph, args)
        found = attention_backward_op(graph, *_fold(size, args[:9], dims[:9]), *args[9:])
        outputs = [
            (heads_of(f, size, 1), 1) if args[14] >> i & 1 else (f.expand(size, 0), 0) for i, f in enumerate(found)
        ]
        return tuple(f for f, _ in outputs), tuple(dim for _, dim in outputs)


class _Edges:
    """Closed operators between nodes and edges, [E, K] in the user's order."""

    def __init__(self, call: Callable[[Operator], Any], graph: Graph, like: Tensor) -> None:
        self._call, self._graph = call, graph
        self._at_src, self._at_dst = like.new_ones(graph.num_src, 1), like.new_ones(graph.num_dst, 1)

    def of_dst(self, score: Tensor) -> Tensor:
        """[num_dst, K], read by each edge."""
        return self.dot(score.unsqueeze(-1), self._at_src.to(score.dtype))

    def of_src(self, score: Tensor) -> Tensor:
        """[num_src, K], read by each edge."""
        return self.dot(self._at_dst, score.unsqueeze(-1))

    def to_dst(self, weight: Tensor) -> Tensor:
        """Sums over the edges of each destination."""
        return self._call(spmm_op)(self._graph, self._at_src, weight, None, False, False, False, True).squeeze(-1)

    def to_src(self, weight: Tensor) -> Tensor:
        """Sums over the edges of each source."""
        return self._call(spmm_op)(self._graph, self._at_dst, weight, None, False, True, False, True).squeeze(-1)

    def scores(
        self, types: Tensor | None, dst: Tensor | None, src: Tensor | None, kind: Tensor | None, edge: Tensor | None
    ) -> Tensor | None:
        """What an edge reads of its ends and its type, and its own, added up."""
        return _total(
            None if dst is None else self.of_dst(dst),
            None if src is None else self.of_src(src),
            None if kind is None else kind[types],
            edge,
        )

    def dot(self, x_dst: Tensor, x_src: Tensor) -> Tensor:
        return self._call(sddmm_op)(self._graph, x_dst, x_src, None, False, True)

    def sum(self, weight: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
        return self._call(spmm_op)(self._graph, x, weight, None, False, transposed, True, True)


def _total(*terms: Tensor | None) -> Tensor | None:
    """The sum of those that are there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None


def _weights(
    edges: _Edges,
    z: Tensor,
    lse: Tensor,
    seed: Tensor | None,
    negative_slope: float,
    dropout: float,
    drop_logits: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """exp(l - lse), the derivative of l by z, and what dropout multiplies weights by."""
    slope = torch.where(z > 0, torch.ones_like(z), negative_slope)
    logit, on_weight = z * slope, None
    if seed is not None:
        mask = dropout_mask(seed, z.size(0), z.size(1), dropout, z.dtype)
        if drop_logits:
            logit, slope = torch.where(mask > 0, logit * mask, 0), slope * mask
        else:
            on_weight = mask
    return (logit - edges.of_dst(lse)).to(z.dtype).exp(), slope, on_weight


def attend(graph: Graph, value: Tensor, *args: Any, with_weights: bool) -> tuple[Tensor, Tensor | None]:
    """y and, if asked for, the weights [E, K]; ``args`` are the further tensors and the options of the operator."""
    y, lse = attention_op(graph, value, *args)
    if not with_weights:
        return y, None
    wide = _wide(value.dtype)
    edges = _Edges(lambda op: op, graph, lse.detach().to(wide))
    score_dst, score_src, score_type, score_edge = (s if s is None else s.to(wide) for s in args[:4])
    edge_type, *rest = args[4:]
    types = None if edge_type is None else edge_type.long()
    z = edges.scores(types, score_dst, score_src, score_type, score_edge)
    assert z is not None
    weight, _, on_weight = _weights(edges, z, lse, *rest)
    return y, (weight if on_weight is None else weight * on_weight).to(value.dtype)


def _second_order(
    call: Any,
    graph: Graph,
    cotangents: Sequence[Tensor | None],
    g: Tensor,
    g_lse: Tensor | None,
    y: Tensor,
    lse: Tensor,
    value: Tensor,
    score_dst: Tensor | None,
    score_src: Tensor | None,
    score_type: Tensor | None,
    score_edge: Tensor | None,
    edge_type: Tensor | None,
    seed: Tensor | None,
    negative_slope: float,
    dropout: float,
    drop_logits: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of :class:`_AttentionBackward`'s eleven tensors, from those of its outputs."""
    wide = _wide(value.dtype)
    g, y, value = g.to(wide), y.to(wide), value.to(wide)
    u_value, u_dst, u_src, u_type, u_edge = (u if u is None else u.to(wide) for u in cotangents)
    edges = _Edges(call, graph, value)
    types = None if edge_type is None else edge_type.long()

    def on_edges(dst: Any, src: Any, kind: Any, edge: Any) -> Tensor | None:
        return edges.scores(types, *(s if s is None else s.to(wide) for s in (dst, src, kind, edge)))

    z = on_edges(score_dst, score_src, score_type, score_edge)
    assert z is not None
    weight, slope, on_weight = _weights(edges, z, lse, seed, negative_slope, dropout, drop_logits)

    def dropped(x: Tensor) -> Tensor:
        return x if on_weight is None else x * on_weight

    # Of c = p (b - slack_i), the gradient of l, by which every score's gradient is a sum; and of p itself.
    d_g = d_g_lse = d_y = d_value = d_weight = None
    if u_value is not None:
        d_g = edges.sum(dropped(weight), u_value)
        d_weight = dropped(edges.dot(g, u_value))
    d_c = on_edges(u_dst, u_src, u_type, u_edge)
    if d_c is not None:
        d_c = d_c * slope
        slack = (g * y).sum(-1) if g_lse is None else (g * y).sum(-1) - g_lse.to(wide)
        d_weight = _total(d_weight, d_c * (dropped(edges.dot(g, value)) - edges.of_dst(slack)))
        part = d_c * weight
        d_g_lse = edges.to_dst(part)
        d_g = _total(d_g, edges.sum(dropped(part), value) - d_g_lse.unsqueeze(-1) * y)
        d_y = -d_g_lse.unsqueeze(-1) * g
        d_value = edges.sum(dropped(part), g, transposed=True)
    assert d_weight is not None
    d_logit = d_weight * weight
    d_z = d_logit * slope
    d_type = None
    if score_type is not None and types is not None:
        d_type = d_z.new_zeros(score_type.shape).index_add(0, types, d_z)
    return (
        d_g,
        None if g_lse is None else d_g_lse,
        d_y,
        -edges.to_dst(d_logit),
        d_value,
        None if score_dst is None else edges.to_dst(d_z),
        None if score_src is None else edges.to_src(d_z),
        d_type,
        None if score_edge is None else d_z,
        None,
        None,
    )


attention_op = _Attention()
attention_backward_op = _AttentionBackward()

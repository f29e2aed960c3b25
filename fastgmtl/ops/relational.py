r"""The operators under rspmm: the partial derivatives of one form in four arguments, closed under differentiation.

.. math::
    F(g, x, z, w) = \sum_{e = (j \to i)} \sum_c s_i \, w_e \, g_{i,c} \, (x_j \circ z_{r(e)})_c \, [a_{i,c} = e]

where the product is that of columns, or of complex numbers. F is linear in each argument, so the derivative of one of
its derivatives is another: by destinations (g), sources (x), relations (z) or edges (w). ``s`` is 1, or 1 / degree of a
mean; the bracket is there for extremes only, ``a`` naming the edge that won.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops import fold
from fastgmtl.ops.operator import Operator
from fastgmtl.ops.relations import NAMES
from fastgmtl.reference.rspmm import extreme, product

ROLES = ("dst", "src", "rel", "edge")
MESSAGES = ("mul", "add", "rotate")
_PLAN = len(NAMES)
_TENSORS = 5 + _PLAN


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _one_by_one(op: Operator, size: int, dims: Any, graph: Graph, args: Any) -> list[Any]:
    """The outputs for each of a batch of calls."""
    count, found = len(op.tensors), []
    for k in range(size):
        one = [v if d is None else v.select(d, k) for v, d in zip(args[:count], dims, strict=True)]
        found.append(op(graph, *one, *args[count:]))
    return found


class _Rspmm(Operator):
    """The derivative of F by the argument ``to`` names, which is None: [N_dst, d], [N_src, d], [R, d] or [E].

    ``half``: 0 for products of columns, else of complex numbers in blocks of 2 * half columns, real parts first.
    weight may be None otherwise too (ones). The plan is :class:`fastgmtl.ops.relations.Relations`.
    """

    name = "rspmm"
    tensors = ("dst", "src", "rel", "weight", "arg", *NAMES)
    options = (("to", "str"), ("mean", "bool"), ("half", "int"))

    @staticmethod
    def kernel(kernels: Any, graph: Graph, dst: Any, src: Any, rel: Any, weight: Any, arg: Any, *rest: Any) -> Tensor:
        to, mean, half = rest[_PLAN:]
        type_dst, type_src, rel_ptr, rel_dst, rel_src, rel_id = (_contiguous(v) for v in rest[:_PLAN])
        out = _Rspmm.fake(graph, dst, src, rel, weight, arg, *rest)
        pattern, two, a, b, c = graph.pattern, type_dst, src, rel, None
        if to == "src":
            pattern, two, a = graph.t().pattern, type_src, dst
        elif to == "rel":
            assert rel_ptr is not None and rel_dst is not None
            pattern, two, a, b = (rel_ptr, rel_dst, rel_id, graph.num_dst), rel_src, dst, src
        elif to == "edge":
            c = dst
        wide = torch.float64 if a.dtype == torch.float64 else torch.float32
        kernels.rspmm(
            pattern,
            two,
            a.contiguous(),
            b.contiguous(),
            _contiguous(c),
            _contiguous(weight),
            graph.inverse_degree(wide) if mean else None,
            _contiguous(arg),
            ROLES.index(to),
            2 if half else 0,
            half,
            0,
            out,
            None,
            torch.get_num_threads(),
        )
        return out

    reference = staticmethod(product)

    @staticmethod
    def fake(graph: Graph, dst: Any, src: Any, rel: Any, weight: Any, arg: Any, *rest: Any) -> Tensor:
        to, like = rest[_PLAN], dst if src is None else src
        if to == "edge":
            return like.new_empty(graph.num_edges)
        rows = {"dst": graph.num_dst, "src": graph.num_src}.get(to)
        return like.new_empty(rest[NAMES.index("rel_ptr")].size(0) - 1 if rows is None else rows, like.size(1))

    @staticmethod
    def saved(ctx: Any, *tensors: Tensor | None) -> Any:
        # An argument is read for the derivatives by the others.
        needs = ctx.needs_input_grad[2:6]
        used = (any(needs[:k]) or any(needs[k + 1 :]) for k in range(4))
        return (*(v if u else None for v, u in zip(tensors[:4], used, strict=True)), *tensors[4:])

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, *args: Any) -> Any:
        found: list[Any] = [None] * _TENSORS
        g, to = grads[0], args[_TENSORS]
        if g is None:
            return tuple(found)
        # <g, out> is F, with g for the argument that is missing.
        factors = [g if role == to else value for role, value in zip(ROLES, args[:4], strict=True)]
        for k, role in enumerate(ROLES):
            if needs[k]:
                others = [None if n == k else value for n, value in enumerate(factors)]
                found[k] = call(rspmm_op)(graph, *others, *args[4:_TENSORS], role, *args[_TENSORS + 1 :])
        return tuple(found)

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        if dims[3] is not None or args[_TENSORS] == "edge":
            return torch.stack(_one_by_one(rspmm_op, size, dims, graph, args)), 0
        wide = [fold.into_features(value, dim, size) for value, dim in zip(args[:3], dims[:3], strict=True)]
        arg = fold.into_features(args[4], dims[4], size)
        return rspmm_op(graph, *wide, args[3], arg, *args[5:]).unflatten(1, (size, -1)), 1


class _Extreme(Operator):
    """Maximum or minimum of the messages of each row, [N_dst, d], and the edge it came from."""

    name = "rspmm_extreme"
    tensors = ("src", "rel", "weight", *NAMES)
    options = (("message", "str"), ("half", "int"), ("largest", "bool"))
    num_outputs = 2
    saves_outputs = True

    @staticmethod
    def kernel(kernels: Any, graph: Graph, src: Any, rel: Any, weight: Any, type_dst: Any, *rest: Any) -> Any:
        message, half, largest = rest[_PLAN - 1 :]
        value, arg = out = _Extreme.fake(graph, src, rel, weight, type_dst, *rest)
        kernels.rspmm(
            graph.pattern,
            type_dst.contiguous(),
            src.contiguous(),
            rel.contiguous(),
            None,
            _contiguous(weight),
            None,
            None,
            0,
            MESSAGES.index(message),
            half,
            1 if largest else 2,
            value,
            arg,
            torch.get_num_threads(),
        )
        return out

    reference = staticmethod(extreme)

    @staticmethod
    def fake(graph: Graph, src: Any, *rest: Any) -> Any:
        value = src.new_empty(graph.num_dst, src.size(1))
        return value, torch.empty_like(value, dtype=graph.col.dtype)

    @staticmethod
    def backward(
        call: Any, needs: Any, grads: Any, outputs: Any, graph: Graph, src: Any, rel: Any, weight: Any, *rest: Any
    ) -> Any:
        plan, (message, half, _) = rest[:_PLAN], rest[_PLAN:]
        g, arg = grads[0], outputs[0]
        found: list[Any] = [None] * (3 + _PLAN)
        if g is None:
            return tuple(found)

        def run(to: str, dst: Any, src: Any, rel: Any, weight: Any) -> Any:
            return call(rspmm_op)(graph, dst, src, rel, weight, arg, *plan, to, False, half)

        # With the winning edges fixed it is the sum over these edges alone; x + z is x * 1 + 1 * z.
        adds = message == "add"
        src_one, rel_one = (torch.ones_like(v) if adds else v for v in (src, rel))
        if needs[0]:
            found[0] = run("src", g, None, rel_one, weight)
        if needs[1]:
            found[1] = run("rel", g, src_one, None, weight)
        if needs[2]:
            found[2] = run("edge", g, src, rel_one, None)
            if adds:
                found[2] = found[2] + run("edge", g, src_one, rel, None)
        return tuple(found)

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        if dims[2] is not None:
            found = _one_by_one(rspmm_extreme_op, size, dims, graph, args)
            return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0, 0)
        wide = [fold.into_features(value, dim, size) for value, dim in zip(args[:2], dims[:2], strict=True)]
        out = rspmm_extreme_op(graph, *wide, *args[2:])
        return tuple(part.unflatten(1, (size, -1)) for part in out), (1, 1)


rspmm_op = _Rspmm()
rspmm_extreme_op = _Extreme()

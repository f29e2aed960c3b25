r"""spmm, sddmm and their joint backward: the partial derivatives of one trilinear form, closed under differentiation.

.. math::
    F(g, w, x) = \sum_{e = (j \to i)} \sum_{t, c} s_i \, w_{e,t} \, g_{i,t,c} \, x_{j,t,c} \, [a_{i,t,c} = e]

``s`` is 1, or 1 / degree of a mean; the bracket is there for extremes only, ``a`` naming the edge that won. ``spmm`` is
dF/dg or (transposed) dF/dx, ``sddmm`` dF/dw. As F is linear in each argument, the derivative of one is another, to any
order. Arguments called ``x_dst``, ``arg`` and the mean belong to destinations, whichever way the pattern is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops import fold
from fastgmtl.ops.operator import Operator
from fastgmtl.reference import trilinear as twin


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _scale(graph: Graph, dtype: torch.dtype) -> Tensor:
    return graph.inverse_degree(torch.float64 if dtype == torch.float64 else torch.float32)


def _new_rows(graph: Graph, x: Tensor, weight: Tensor | None, transposed: bool, tasks: bool) -> Tensor:
    rows = graph.num_src if transposed else graph.num_dst
    if not tasks:
        return x.new_empty(rows, x.size(-1))
    return x.new_empty(rows, x.size(1) if weight is None or weight.dim() == 1 else weight.size(1), x.size(-1))


def _arg_of(arg: Tensor | None, transposed: bool) -> int:
    """The C++ ArgOf: none, rows or columns of the pattern that is read."""
    return 0 if arg is None else 2 if transposed else 1


def _fold(size: int, dims: Any, x: Tensor, weight: Tensor | None, arg: Tensor | None) -> tuple[Any, ...]:
    """x, weight, arg with the batch folded in, the number of tasks, and whether it went into the features."""
    x_dim, w_dim, arg_dim = dims
    tasks = fold.num_tasks((x, x_dim, 3), (weight, w_dim, 2))
    if w_dim is None or weight is None:
        return fold.into_features(x, x_dim, size), weight, fold.into_features(arg, arg_dim, size), tasks, True
    shared = x_dim is None and x.dim() == 2
    folded = x if shared else fold.into_tasks(x, x_dim, size, tasks)
    weight = fold.weights_into_tasks(weight, w_dim, tasks)
    return folded, weight, fold.into_tasks(arg, arg_dim, size, tasks), tasks, False


class _Spmm(Operator):
    """dF/dg or, ``transposed``, dF/dx; ``x_tasks`` and ``y_tasks`` say which of input and output have a task axis."""

    name = "spmm"
    tensors = ("x", "weight", "arg")
    options = (("mean", "bool"), ("transposed", "bool"), ("x_tasks", "bool"), ("y_tasks", "bool"))

    @staticmethod
    def kernel(
        kernels: Any,
        graph: Graph,
        x: Any,
        weight: Any,
        arg: Any,
        mean: bool,
        transposed: bool,
        x_tasks: bool,
        y_tasks: bool,
    ) -> Tensor:
        over = graph.t() if transposed else graph
        x = x.contiguous()
        if x_tasks is y_tasks and over.num_src == over.num_dst:
            y = torch.empty_like(x)
        else:
            y = _new_rows(graph, x, weight, transposed, y_tasks)
        kernels.spmm(
            over.pattern,
            x,
            weight if weight is None else weight.contiguous(),
            _scale(graph, x.dtype) if mean else None,
            transposed,
            arg if arg is None else arg.contiguous(),
            0 if arg is None else _arg_of(arg, transposed),
            0,
            y,
            None,
            torch.get_num_threads(),
        )
        return y

    @staticmethod
    def reference(graph: Graph, x: Any, weight: Any, arg: Any, *options: bool) -> Tensor:
        mean, transposed, _, y_tasks = options
        return twin.aggregate(graph, x, weight, arg, mean, transposed, y_tasks)

    @staticmethod
    def fake(graph: Graph, x: Any, weight: Any, arg: Any, *options: bool) -> Tensor:
        return _new_rows(graph, x, weight, options[1], options[3])

    @staticmethod
    def saved(ctx: Any, *tensors: Tensor | None) -> Any:
        x, weight, arg = tensors
        if weight is None and arg is None:
            return ()
        return (x if ctx.needs_input_grad[3] else None), weight, arg

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        _: Any,
        graph: Graph,
        x: Any,
        weight: Any,
        arg: Any,
        mean: bool,
        transposed: bool,
        x_tasks: bool,
        y_tasks: bool,
    ) -> Any:
        (g,) = grads
        if g is None:
            return None, None, None
        if not needs[1]:
            if not needs[0]:
                return None, None, None
            return call(spmm_op)(graph, g, weight, arg, mean, not transposed, y_tasks, x_tasks), None, None
        if needs[0]:
            dx, dw = call(spmm_backward_op)(graph, g, weight, x, arg, mean, not transposed)
            return dx, dw, None
        pair = (x, g) if transposed else (g, x)
        return None, call(sddmm_op)(graph, *pair, arg, mean, weight.dim() == 2), None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, x: Any, weight: Any, arg: Any, *options: bool) -> Any:
        mean, transposed, x_tasks, y_tasks = options
        x, weight, arg, tasks, in_features = _fold(size, dims, x, weight, arg)
        if in_features:
            out = spmm_op(graph, x, weight, arg, mean, transposed, x_tasks, y_tasks)
            return out.unflatten(-1, (size, -1)), out.dim() - 1
        out = spmm_op(graph, x, weight, arg, mean, transposed, x.dim() == 3, True).unflatten(1, (size, tasks))
        return (out if y_tasks else out.sum(2)), 1


class _Extreme(Operator):
    """Maximum or minimum of the messages of each row, and the edge it came from."""

    name = "spmm_extreme"
    tensors = ("x", "weight")
    options = (("largest", "bool"),)
    num_outputs = 2
    saves_outputs = True

    @staticmethod
    def kernel(kernels: Any, graph: Graph, x: Any, weight: Any, largest: bool) -> Any:
        y, arg = _Extreme.fake(graph, x, weight, largest)
        kernels.spmm(
            graph.pattern,
            x.contiguous(),
            _contiguous(weight),
            None,
            False,
            None,
            0,
            1 if largest else 2,
            y,
            arg,
            torch.get_num_threads(),
        )
        return y, arg

    reference = staticmethod(twin.extreme)

    @staticmethod
    def fake(graph: Graph, x: Any, weight: Any, largest: bool) -> Any:
        y = _new_rows(graph, x, weight, False, x.dim() == 3 or (weight is not None and weight.dim() == 2))
        return y, torch.empty_like(y, dtype=graph.col.dtype)

    @staticmethod
    def backward(
        call: Any, needs: Any, grads: Any, outputs: Any, graph: Graph, x: Any, weight: Any, largest: bool
    ) -> Any:
        # With the winning edges fixed it is the sum over these edges alone.
        options = (False, False, x.dim() == 3, outputs[0].dim() == 3)
        return _Spmm.backward(call, needs, grads[:1], (), graph, x, weight, outputs[0], *options)[:2]

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, x: Any, weight: Any, largest: bool) -> Any:
        per_task = fold.rank(x, dims[0]) == 3 or (weight is not None and fold.rank(weight, dims[1]) == 2)
        x, weight, _, tasks, in_features = _fold(size, (*dims, None), x, weight, None)
        out = extreme_op(graph, x, weight, largest)
        if in_features:
            return tuple(o.unflatten(-1, (size, -1)) for o in out), (out[0].dim() - 1,) * 2
        out = tuple(o.unflatten(1, (size, tasks)) for o in out)
        return (out if per_task else tuple(o.squeeze(2) for o in out)), (1, 1)


class _Sddmm(Operator):
    """dF/dw: a dot product for every edge, [E] or (``per_task``) [E, T]."""

    name = "sddmm"
    tensors = ("x_dst", "x_src", "arg")
    options = (("mean", "bool"), ("per_task", "bool"))

    @staticmethod
    def kernel(kernels: Any, graph: Graph, x_dst: Any, x_src: Any, arg: Any, mean: bool, per_task: bool) -> Tensor:
        out = _Sddmm.fake(graph, x_dst, x_src, arg, mean, per_task)
        if not per_task and x_dst.dim() == 3:
            x_dst, x_src = x_dst.flatten(1), x_src.flatten(1)
        kernels.sddmm(
            graph.pattern,
            x_dst.contiguous(),
            x_src.contiguous(),
            _scale(graph, x_dst.dtype) if mean else None,
            False,
            _contiguous(arg),
            _arg_of(arg, False),
            out,
            torch.get_num_threads(),
        )
        return out

    reference = staticmethod(twin.edge_dot)

    @staticmethod
    def fake(graph: Graph, x_dst: Any, x_src: Any, arg: Any, mean: bool, per_task: bool) -> Tensor:
        if not per_task:
            return x_dst.new_empty(graph.num_edges)
        return x_dst.new_empty(graph.num_edges, (x_dst if x_dst.dim() == 3 else x_src).size(1))

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        _: Any,
        graph: Graph,
        x_dst: Any,
        x_src: Any,
        arg: Any,
        mean: bool,
        per_task: bool,
    ) -> Any:
        (v,) = grads
        if v is None:
            return None, None, None
        into = call(spmm_op)
        ranks = x_src.dim() == 3, x_dst.dim() == 3
        d_dst = into(graph, x_src, v, arg, mean, False, *ranks) if needs[0] else None
        d_src = into(graph, x_dst, v, arg, mean, True, *ranks[::-1]) if needs[1] else None
        return d_dst, d_src, None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, x_dst: Any, x_src: Any, arg: Any, mean: bool, per_task: bool) -> Any:
        tasks = fold.num_tasks((x_dst, dims[0], 3), (x_src, dims[1], 3))
        x_dst = fold.into_tasks(x_dst, dims[0], size, tasks)
        x_src = fold.into_tasks(x_src, dims[1], size, tasks)
        out = sddmm_op(graph, x_dst, x_src, fold.into_tasks(arg, dims[2], size, tasks), mean, True)
        out = out.unflatten(1, (size, tasks))
        return (out if per_task else out.sum(2)), 1


class _SpmmBackward(Operator):
    """``(spmm(g, weight), sddmm(g, x))`` in one pass: the gradients of spmm's features and weights.

    ``g`` is what is gathered (destinations if ``transposed``), ``x`` stands on the rows that are written.
    """

    name = "spmm_backward"
    tensors = ("g", "weight", "x", "arg")
    options = (("mean", "bool"), ("transposed", "bool"))
    num_outputs = 2

    @staticmethod
    def kernel(kernels: Any, graph: Graph, g: Any, weight: Any, x: Any, arg: Any, mean: bool, transposed: bool) -> Any:
        dx, dw = out = _SpmmBackward.fake(graph, g, weight, x, arg, mean, transposed)
        if weight.dim() == 1 and x.dim() == 3:
            g, x, dx = g.flatten(1), x.flatten(1), dx.flatten(1)
        kernels.spmm_backward(
            (graph.t() if transposed else graph).pattern,
            x.contiguous(),
            g.contiguous(),
            weight.contiguous(),
            _scale(graph, x.dtype) if mean else None,
            transposed,
            _contiguous(arg),
            _arg_of(arg, transposed),
            dx,
            dw,
            torch.get_num_threads(),
        )
        return out

    @staticmethod
    def reference(graph: Graph, g: Any, weight: Any, x: Any, arg: Any, mean: bool, transposed: bool) -> Any:
        pair = (g, x) if transposed else (x, g)
        return (
            twin.aggregate(graph, g, weight, arg, mean, transposed, x.dim() == 3),
            twin.edge_dot(graph, *pair, arg, mean, weight.dim() == 2),
        )

    @staticmethod
    def fake(graph: Graph, g: Any, weight: Any, x: Any, arg: Any, mean: bool, transposed: bool) -> Any:
        return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(
            weight, memory_format=torch.contiguous_format
        )

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        _: Any,
        graph: Graph,
        g: Any,
        weight: Any,
        x: Any,
        arg: Any,
        mean: bool,
        transposed: bool,
    ) -> Any:
        u, v = grads  # of dx and of dw
        d_g = d_weight = d_x = None
        if needs[0]:
            to_g = call(spmm_op)
            parts = [
                to_g(graph, left, right, arg, mean, not transposed, x.dim() == 3, g.dim() == 3)
                for left, right in ((u, weight), (x, v))
                if left is not None and right is not None
            ]
            d_g = sum(parts[1:], parts[0]) if parts else None
        if needs[1] and u is not None:
            pair = (g, u) if transposed else (u, g)
            d_weight = call(sddmm_op)(graph, *pair, arg, mean, weight.dim() == 2)
        if needs[2] and v is not None:
            d_x = call(spmm_op)(graph, g, v, arg, mean, transposed, g.dim() == 3, x.dim() == 3)
        return d_g, d_weight, d_x, None

    @staticmethod
    def vmap(
        size: int, dims: Any, graph: Graph, g: Any, weight: Any, x: Any, arg: Any, mean: bool, transposed: bool
    ) -> Any:
        g_dim, w_dim, x_dim, arg_dim = dims
        dx, dx_dim = _Spmm.vmap(
            size,
            (g_dim, w_dim, arg_dim),
            graph,
            g,
            weight,
            arg,
            mean,
            transposed,
            fold.rank(g, g_dim) == 3,
            fold.rank(x, x_dim) == 3,
        )
        pair, pair_dims = ((g, x), (g_dim, x_dim)) if transposed else ((x, g), (x_dim, g_dim))
        dw, dw_dim = _Sddmm.vmap(size, (*pair_dims, arg_dim), graph, *pair, arg, mean, fold.rank(weight, w_dim) == 2)
        return (dx, dw), (dx_dim, dw_dim)


spmm_op = _Spmm()
sddmm_op = _Sddmm()
spmm_backward_op = _SpmmBackward()
extreme_op = _Extreme()

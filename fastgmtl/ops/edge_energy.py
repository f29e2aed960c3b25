r"""The operator under flip_energy and edge_delta: sums over edges of what a shift of the field does to an energy.

With softplus S, labels y, signs z = 2 y - 1 and the shift h = factor z w of an edge from j to i in sample b, the terms
are

.. math:: a_{jb} \, c_{ib} \, v_e \, (factor \cdot z_{jb})^n \; \partial_F^m \partial_h^n
    \left[ S(F_{ib} + h_{eb}) - S(F_{ib}) - y_{ib} h_{eb} \right]

The sum is linear in a, c and v, and a derivative by F or w raises m or n: each is the operator itself, so it is
differentiable to the order of MAX_ORDER. Nothing of size E x B is written unless it is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops.check import floating_tensor, graph_argument, same_device
from fastgmtl.ops.operator import Operator
from fastgmtl.reference.edge_energy import edge_energy as twin

TARGETS = ("src", "dst", "edge", "each")
MAX_ORDER = 9


class _EdgeEnergy(Operator):
    """Sums for "src" [N_src, B], "dst" [N_dst, B], "edge" [E] or "each" [E, B], in the user's order of edges.

    a [N_src, B], c [N_dst, B] and v ([E] or [E, B]) may be None, and the one of what is summed for is; v has no more
    axes than weight, and "each" is for a weight of [E, B]. Labels are int32: 0, 1, or -1 where missing.
    """

    name = "edge_energy"
    tensors = ("a", "c", "v", "field", "weight", "label_src", "label_dst")
    options = (("to", "str"), ("field_order", "int"), ("shift_order", "int"), ("factor", "float"))

    @staticmethod
    def kernel(kernels: Any, graph: Graph, *args: Any) -> Tensor:
        out = _EdgeEnergy.fake(graph, *args)
        pattern = graph.t().pattern if args[7] == "src" else graph.pattern
        tensors = [None if v is None else v.contiguous() for v in args[:5]]
        tensors += [v.to(torch.int32).contiguous() for v in args[5:7]]
        kernels.edge_energy(pattern, *tensors, TARGETS.index(args[7]), *args[8:], out, torch.get_num_threads())
        return out

    reference = staticmethod(twin)

    @staticmethod
    def fake(graph: Graph, a: Any, c: Any, v: Any, field: Any, weight: Any, *rest: Any) -> Tensor:
        nodes = {"src": graph.num_src, "dst": graph.num_dst}.get(rest[2], graph.num_edges)
        return field.new_empty(nodes) if rest[2] == "edge" else field.new_empty(nodes, field.size(1))

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        outputs: Any,
        graph: Graph,
        a: Any,
        c: Any,
        v: Any,
        field: Any,
        weight: Any,
        label_src: Any,
        label_dst: Any,
        to: str,
        field_order: int,
        shift_order: int,
        factor: float,
    ) -> Any:
        g = grads[0]
        if g is None:
            return (None,) * 7

        def run(target: str, a: Any, c: Any, v: Any, field_more: int = 0, shift_more: int = 0) -> Any:
            orders = field_order + field_more, shift_order + shift_more
            return call(edge_energy_op)(graph, a, c, v, field, weight, label_src, label_dst, target, *orders, factor)

        # <g, out> is a sum over edges and samples in which g takes the place of the factor that is missing.
        a, c, v = g if to == "src" else a, g if to == "dst" else c, g if to in ("edge", "each") else v
        found: list[Any] = [None] * 7
        if needs[0]:
            found[0] = run("src", None, c, v)
        if needs[1]:
            found[1] = run("dst", a, None, v)
        if needs[2]:
            found[2] = run("edge" if v.dim() == 1 else "each", a, c, None)
        if needs[3]:
            field_hat = run("dst", a, None, v, field_more=1)
            found[3] = field_hat if c is None else c * field_hat
        if needs[4]:
            weight_hat = run("edge" if weight.dim() == 1 else "each", a, c, None, shift_more=1)
            if v is not None:
                weight_hat = weight_hat * (v.unsqueeze(1) if v.dim() < weight.dim() else v)
            found[4] = weight_hat
        return tuple(found)

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, *args: Any) -> Any:
        found = []
        for k in range(size):
            one = [v if d is None else v.select(d, k) for v, d in zip(args[:7], dims, strict=True)]
            found.append(edge_energy_op(graph, *one, *args[7:]))
        return torch.stack(found), 0


edge_energy_op = _EdgeEnergy()


def samples(op: str, graph: Graph, field: Tensor, label: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Field [T, B], label int32 [T, B] and coupling [E] or [E, B] of checked arguments with the samples first."""
    graph_argument(op, graph)
    if graph.num_src != graph.num_dst:
        raise ValueError(f"{op}: graph must be over T tasks, got {graph.num_src} sources and {graph.num_dst} targets")
    tasks, edges = graph.num_dst, graph.num_edges
    floating_tensor(op, "field", field)
    if field.dim() != 2 or field.size(1) != tasks:
        raise ValueError(f"{op}: field must have shape [B, T] = [B, {tasks}], got {list(field.shape)}")
    if not isinstance(label, Tensor) or label.is_floating_point() or label.is_complex():
        given = str(label.dtype).removeprefix("torch.") if isinstance(label, Tensor) else type(label).__name__
        raise TypeError(f"{op}: label must be a tensor of bool or integers (negative: missing), got {given}")
    if label.shape != field.shape:
        raise ValueError(f"{op}: label must have shape [B, T] = {list(field.shape)}, got {list(label.shape)}")
    floating_tensor(op, "coupling", coupling)
    if coupling.shape not in ((edges,), (field.size(0), edges)):
        wanted = f"[{field.size(0)}, {edges}]"
        raise ValueError(f"{op}: coupling must have shape [E] or [B, E] = {wanted}, got {list(coupling.shape)}")
    for value in (field, label, coupling):
        same_device(op, graph, value)
    dtype = torch.promote_types(field.dtype, coupling.dtype)
    # Any positive number is a 1, any negative one is missing.
    codes = label.to(torch.int32) if label.dtype == torch.bool else label.clamp(-1, 1).to(torch.int32)
    return field.to(dtype).t(), codes.t(), (coupling if coupling.dim() == 1 else coupling.t()).to(dtype)

"""flip_energy, edge_delta and the operator within them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import Graph, ops, reference
from fastgmtl.ops.edge_energy import edge_energy_op

CALLS: dict[str, Maker] = {}


def _square(draw: Draw) -> Graph:
    """The same edges over as many sources as destinations: what they join are tasks."""
    n = max(draw.graph.num_src, draw.graph.num_dst)
    return Graph.from_edge_index(draw.graph.edge_index(), n, n)


def _operands(draw: Draw, tasks: int, each: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Field and label [B, T], coupling [E] or [B, E]; B is the width."""
    edges = draw.graph.num_edges
    coupling = draw.normal(draw.width, edges) if each else draw.normal(edges)
    return draw.normal(draw.width, tasks), draw.labels(draw.width, tasks), coupling


def _public(name: str, function: str, each: bool, some: bool) -> Maker:
    def make(draw: Draw) -> Call:
        graph = _square(draw)
        tensors: tuple[Tensor, ...] = _operands(draw, graph.num_dst, each)
        if some:
            tensors = (*tensors, draw.labels(graph.num_edges) > 0)
        run, twin = (lambda *t, m=m: getattr(m, function)(graph, *t) for m in (ops, reference))
        return Call(name, graph, tensors, run, twin)

    return make


def _tensors(slots: str, each: bool) -> Callable[[Draw], tuple[Tensor | None, ...]]:
    def make(d: Draw) -> tuple[Tensor | None, ...]:
        n, m, edges, width = d.graph.num_src, d.graph.num_dst, d.graph.num_edges, d.width
        per_edge = (edges, width) if each else (edges,)
        return (
            d.normal(n, width) if "a" in slots else None,
            d.normal(m, width) if "c" in slots else None,
            d.normal(edges) if "v" in slots else d.normal(edges, width) if "V" in slots else None,
            d.normal(m, width),
            d.normal(*per_edge),
            d.labels(n, width),
            d.labels(m, width),
        )

    return make


def _fill() -> None:
    for each, tag in ((False, "E"), (True, "BE")):
        CALLS[f"flip_energy-{tag}"] = _public(f"flip_energy-{tag}", "flip_energy", each, False)
        CALLS[f"edge_delta-{tag}"] = _public(f"edge_delta-{tag}", "edge_delta", each, False)
        CALLS[f"edge_delta-{tag}-some"] = _public(f"edge_delta-{tag}-some", "edge_delta", each, True)
    # What is summed for, the factors (V: one for each sample), the orders, and whether the weight is [E, B].
    for to, slots, orders, each in (
        ("src", "", (0, 0), False),
        ("src", "cv", (1, 1), False),
        ("src", "cV", (2, 0), True),
        ("dst", "a", (1, 0), False),
        ("dst", "av", (0, 2), True),
        ("edge", "ac", (0, 1), False),
        ("edge", "", (1, 0), True),
        ("each", "a", (0, 1), True),
    ):
        name = f"edge_energy_op-{to}-{slots or 'none'}-{orders[0]}{orders[1]}{'-each' if each else ''}"
        options: dict[str, Any] = {"to": to, "field_order": orders[0], "shift_order": orders[1], "factor": -0.5}
        CALLS[name] = internal(name, edge_energy_op, _tensors(slots, each), **options)


_fill()

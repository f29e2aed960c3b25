"""gather_relu and relu_sum, and the operators within them."""

from __future__ import annotations

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.gather_relu import gather_relu_backward_op, gather_relu_op
from fastgmtl.ops.relu_sum import relu_sum_backward_op, relu_sum_op

CALLS: dict[str, Maker] = {}


def _parts(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Of samples, as many as there are tasks, and of both ends."""
    return draw.normal(draw.tasks, draw.width), draw.nodes("src", 2), draw.nodes("dst", 2)


def _public(draw: Draw) -> Call:
    run, twin = (lambda *t, m=m: m.gather_relu(draw.graph, *t) for m in (ops, reference))
    return Call("gather_relu", draw.graph, _parts(draw), run, twin)


def _some(draw: Draw, slots: str) -> tuple[Tensor | None, ...]:
    """Of the three summands those in ``slots``, and what decides which sums are positive."""
    return *(v if name in slots else None for name, v in zip("hst", _parts(draw), strict=True)), *_parts(draw)


def _backward(draw: Draw) -> tuple[Tensor, ...]:
    return draw.normal(draw.graph.num_edges, draw.tasks, draw.width), *_parts(draw)


def _ends(draw: Draw) -> tuple[Tensor, Tensor]:
    """Of sources and of edges."""
    return draw.nodes("src", 2), draw.normal(draw.graph.num_edges, draw.width)


def _relu_sum(draw: Draw) -> Call:
    run, twin = (lambda *t, m=m: m.relu_sum(draw.graph, *t) for m in (ops, reference))
    return Call("relu_sum", draw.graph, _ends(draw), run, twin)


def _some_ends(draw: Draw, slots: str) -> tuple[Tensor | None, ...]:
    return *(v if name in slots else None for name, v in zip("xe", _ends(draw), strict=True)), *_ends(draw)


def _fill() -> None:
    CALLS["gather_relu"] = _public
    name = "gather_relu_op-relu"
    CALLS[name] = internal(name, gather_relu_op, lambda d: (*_parts(d), None, None, None))
    for slots in ("hst", "ht", "s"):
        name = f"gather_relu_op-{slots}"
        CALLS[name] = internal(name, gather_relu_op, lambda d, s=slots: _some(d, s))
    for wanted in (7, 5, 2, 1):
        name = f"gather_relu_backward_op-{wanted}"
        CALLS[name] = internal(name, gather_relu_backward_op, _backward, wanted=wanted)
    CALLS["relu_sum"] = _relu_sum
    name = "relu_sum_op-relu"
    CALLS[name] = internal(name, relu_sum_op, lambda d: (*_ends(d), None, None))
    for slots in ("xe", "x", "e"):
        name = f"relu_sum_op-{slots}"
        CALLS[name] = internal(name, relu_sum_op, lambda d, s=slots: _some_ends(d, s))
    for wanted in (3, 2, 1):
        name = f"relu_sum_backward_op-{wanted}"
        CALLS[name] = internal(name, relu_sum_backward_op, lambda d: (d.nodes("dst", 2), *_ends(d)), wanted=wanted)


_fill()

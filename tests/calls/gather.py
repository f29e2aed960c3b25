"""gather_relu and the operators within it."""

from __future__ import annotations

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.gather_relu import gather_relu_backward_op, gather_relu_op

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


_fill()

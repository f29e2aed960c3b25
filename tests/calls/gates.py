"""relation_gate and what runs within it."""

from __future__ import annotations

import torch
from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.relation_gate import relation_gate_backward_op, relation_gate_op

CALLS: dict[str, Maker] = {}


def _gate_tensors(draw: Draw, weight: bool, residual: bool, mask: bool) -> tuple[Tensor | None, ...]:
    """z, logits, weight, residual and mask of two relations and two targets; a node for each of the graph's."""
    n, relations, targets = draw.graph.num_dst, 2, 2
    return (
        draw.normal(n, relations, draw.tasks, draw.width),
        draw.normal(n, relations, draw.tasks, targets),
        draw.normal(targets, draw.width) if weight else None,
        draw.normal(n, targets, draw.width) if residual else None,
        torch.rand(n, relations, generator=draw.generator) < 0.6 if mask else None,
    )


def _fill_gates() -> None:
    for tag, weight, residual, mask, activation in (
        ("w-res-elu", True, True, False, "elu"),
        ("w-relu-mask", True, False, True, "relu"),
        ("none", False, False, False, "none"),
        ("res-elu-mask", False, True, True, "elu"),
    ):

        def make(
            draw: Draw,
            tag: str = tag,
            parts: tuple[bool, bool, bool] = (weight, residual, mask),
            activation: str = activation,
        ) -> Call:
            run, twin = (lambda *t, m=m: m.relation_gate(*t, activation) for m in (ops, reference))
            return Call(f"relation_gate-{tag}", draw.graph, _gate_tensors(draw, *parts), run, twin)

        CALLS[f"relation_gate-{tag}"] = make
    for tag, weight, mask in (("w", True, False), ("w-mask", True, True), ("none", False, False)):
        name = f"relation_gate_op-{tag}"
        CALLS[name] = internal(
            name, relation_gate_op, lambda d, w=weight, m=mask: _gate_tensors(d, w, True, m), activation="elu"
        )
        name = f"relation_gate_backward_op-{tag}"

        def tensors(draw: Draw, weight: bool = weight, mask: bool = mask) -> tuple[Tensor | None, ...]:
            z, logits, w, u, here = _gate_tensors(draw, weight, True, mask)
            return u, z, logits, w, here

        CALLS[name] = internal(name, relation_gate_backward_op, tensors)


_fill_gates()

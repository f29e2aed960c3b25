"""The operator within concrete, from order 1 on: order 0 is a step, whose gradient is that of something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calls.base import Draw, Maker, internal
from fastgmtl.ops.concrete import concrete_op

CALLS: dict[str, Maker] = {}


def _all(draw: Draw) -> tuple[Tensor | None, ...]:
    n = draw.graph.num_dst
    return draw.normal(n, n), draw.normal(n, n), None, None, torch.tensor([3 << 40], device=draw.graph.device)


def _listed(draw: Draw) -> tuple[Tensor, ...]:
    edges = draw.graph.num_edges
    return (
        draw.normal(edges),
        draw.normal(edges),
        *draw.graph.edge_index().contiguous(),
        torch.tensor([5], device=draw.graph.device),
    )


def _fill() -> None:
    for order in (1, 2, 3):
        options: dict[str, Any] = {"order": order, "temperature": 0.7, "explore": 0.1}
        for tag, tensors in (("all", _all), ("listed", _listed)):
            name = f"concrete_op-{tag}-{order}"
            CALLS[name] = internal(name, concrete_op, tensors, **options)


_fill()

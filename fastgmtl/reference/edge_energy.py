"""Plain PyTorch twin of the operator of :mod:`fastgmtl.ops.edge_energy`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide


def softplus(x: Tensor, order: int = 0) -> Tensor:
    """log(1 + e^x), or its derivative of that order.

    Each derivative is a polynomial of the logistic function s, and ds = s (1 - s).
    """
    if order == 0:
        return -logsigmoid(-x)
    terms = [0.0, 1.0]
    for _ in range(order - 1):
        slope = [k * term for k, term in enumerate(terms)]
        terms = [a - b for a, b in zip([*slope, 0.0], [0.0, *slope], strict=True)]
    s, total = x.sigmoid(), torch.zeros_like(x)
    for term in reversed(terms):
        total = total * s + term
    return total


def edge_energy(
    graph: Graph,
    a: Tensor | None,
    c: Tensor | None,
    v: Tensor | None,
    field: Tensor,
    weight: Tensor,
    label_src: Tensor,
    label_dst: Tensor,
    to: str,
    field_order: int,
    shift_order: int,
    factor: float,
) -> Tensor:
    """The sums of csrc/contract/edge_energy.h, over the edges of each "src" or "dst", samples ("edge") or "each"."""
    src, dst = edge_ends(graph)
    known = (label_src[src] >= 0) & (label_dst[dst] >= 0)
    sign = factor * (2 * label_src[src] - 1).to(wide(field).dtype)
    label, here = label_dst[dst].to(sign.dtype), wide(field)[dst]
    shift = sign * _per_sample(weight)
    value = softplus(here + shift, field_order + shift_order)
    if shift_order == 0:
        value = value - softplus(here, field_order)
    if field_order == 0 and shift_order < 2:
        value = value - label * (shift if shift_order == 0 else 1)
    value = value * sign**shift_order
    for factors, at in ((a, src), (c, dst)):
        value = value if factors is None else value * wide(factors)[at]
    value = torch.where(known, value if v is None else value * _per_sample(v), 0)
    if to == "src":
        value = value.new_zeros(graph.num_src, field.size(1)).index_add(0, src, value)
    elif to == "dst":
        value = value.new_zeros(graph.num_dst, field.size(1)).index_add(0, dst, value)
    elif to == "edge":
        value = value.sum(1)
    return value.to(field.dtype)


def _per_sample(value: Tensor) -> Tensor:
    return wide(value).unsqueeze(1) if value.dim() == 1 else wide(value)

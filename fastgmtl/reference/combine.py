"""Linear combinations of lists of tensors in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl.reference.gram import Gradients, rows_of


def mixed(rows: Sequence[Sequence[Tensor | None]], weights: Tensor, groups: Sequence[int] | None) -> list[list[Any]]:
    """S lists of N tensors: sums of the T rows with weights [K, S, T], in float32 at least."""
    out = []
    for s in range(weights.size(1)):
        line: list[Any] = []
        for n in range(len(rows[0])):
            k = 0 if groups is None else groups[n]
            total: Any = None
            for t, row in enumerate(rows):
                part = row[n]
                if part is not None:
                    dtype = part.dtype
                    wide = part.double() if dtype == torch.float64 else part.float()
                    term = weights[k, s, t].to(wide.dtype) * wide
                    total = term if total is None else total + term
            line.append(None if total is None else total.to(dtype))
        out.append(line)
    return out


def combine(
    grads: Gradients,
    weights: Tensor,
    out: Any = None,
    accumulate: bool = False,
    scale: Tensor | float | None = None,
    groups: Sequence[int] | None = None,
) -> Any:
    """``d = sum_t w_t g_t``; see :func:`fastgmtl.ops.combine`."""
    rows = rows_of(grads)
    weights = weights if scale is None else weights * scale
    grouped = weights if groups is not None else weights.unsqueeze(0)
    one = grouped.dim() == 2
    found = mixed(rows, grouped.unsqueeze(1) if one else grouped, groups)
    result: Any = found[0] if one else found
    if isinstance(grads, Tensor) or isinstance(grads[0], Tensor):
        result = found[0] if one else [torch.stack(parts) for parts in zip(*found, strict=True)]
    if isinstance(grads, Tensor):
        result = result[0]
    if out is None:
        return result
    for target, value in zip(_flat(out), _flat(result), strict=True):
        if target is not None and value is not None:
            target.copy_(target + value if accumulate else value)
    return out


def _flat(values: Any) -> list[Tensor | None]:
    if values is None or isinstance(values, Tensor):
        return [values]
    return [v for value in values for v in _flat(value)]

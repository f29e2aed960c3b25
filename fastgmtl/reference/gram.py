"""Gram matrices of lists of tensors in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

# T lists of N tensors or None; N tensors with a first axis of T; or [T, P].
Gradients: TypeAlias = "Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor | None]]"


def rows_of(grads: Any) -> list[list[Tensor | None]]:
    """What :func:`fastgmtl.ops.gram` takes as T lists of tensors."""
    if isinstance(grads, Tensor):
        grads = [grads]
    if isinstance(grads[0], Tensor):
        return [list(row) for row in zip(*(tensor.unbind() for tensor in grads), strict=True)]
    return [list(row) for row in grads]


def matrix(rows: Sequence[Sequence[Tensor | None]], members: Sequence[int]) -> Tensor:
    """[T, P] float64: of every row the tensors ``members``, one after another; zeros for those that are missing."""
    columns = []
    for n in members:
        column = [row[n] for row in rows]
        like = next((v for v in column if v is not None), None)
        if like is not None:
            columns.append(
                torch.stack([(torch.zeros_like(like) if v is None else v).reshape(-1).double() for v in column])
            )
    return torch.cat(columns, 1) if columns else torch.zeros(len(rows), 0, dtype=torch.float64)


def cross(
    a: Sequence[Sequence[Tensor | None]],
    b: Sequence[Sequence[Tensor | None]],
    groups: Sequence[int] | None,
    num_groups: int,
) -> Tensor:
    """[K, S, T] float64: products of the rows of a with those of b, for every group."""
    groups = [0] * len(a[0]) if groups is None else list(groups)
    members = [[n for n, group in enumerate(groups) if group == k] for k in range(num_groups)]
    found = [matrix([*a, *b], places) for places in members]
    return torch.stack([m[: len(a)] @ m[len(a) :].T for m in found])


def gram(grads: Gradients, groups: Sequence[int] | None = None) -> Tensor:
    """``G[s, t] = <g_s, g_t>``; see :func:`fastgmtl.ops.gram`."""
    rows = rows_of(grads)
    out = cross(rows, rows, groups, 1 if groups is None else max(groups, default=-1) + 1)
    return out[0] if groups is None else out

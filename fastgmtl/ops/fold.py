"""vmap rules: a batch of calls on one graph is one call with more features or more tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def into_features(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """[n, (T,) d] with a batch axis (or to be repeated) as [n, (T,) size * d]."""
    if value is None:
        return None
    value = value.unsqueeze(-2).expand(*value.shape[:-1], size, -1) if dim is None else value.movedim(dim, -2)
    return value.flatten(-2)


def into_tasks(value: Tensor | None, dim: int | None, size: int, tasks: int) -> Tensor | None:
    """[n, (T,) d] with a batch axis (or to be repeated) as [n, size * tasks, d]; T is 1 or ``tasks``."""
    if value is None:
        return None
    rank = value.dim() - (dim is not None)
    value = value.unsqueeze(1).expand(-1, size, *[-1] * (rank - 1)) if dim is None else value.movedim(dim, 1)
    if rank == 2:
        value = value.unsqueeze(2)
    return value.expand(-1, -1, tasks, -1).flatten(1, 2)


def weights_into_tasks(weight: Tensor, dim: int, tasks: int) -> Tensor:
    """[E] or [E, T] with a batch axis as [E, size * tasks]."""
    weight = weight.movedim(dim, 1)
    if weight.dim() == 2:
        weight = weight.unsqueeze(2)
    return weight.expand(-1, -1, tasks).flatten(1)


def rank(value: Tensor, dim: int | None) -> int:
    """Number of axes without the batch axis."""
    return value.dim() - (dim is not None)


def num_tasks(*pairs: tuple[Any, int | None, int]) -> int:
    """T of the first (value, batch axis, rank with a task axis) that has a task axis, else 1."""
    for value, dim, with_tasks in pairs:
        if value is not None and rank(value, dim) == with_tasks:
            return value.select(dim, 0).size(1) if dim is not None else value.size(1)
    return 1


def each(op: Any, size: int, dims: Any, args: Any) -> Any:
    """Outputs of a batch of calls of an operator without a graph, one call for each, and their batch axes."""
    count, found = len(op.tensors), []
    for i in range(size):
        one = [v if d is None else v.select(d, i) for v, d in zip(args[:count], dims, strict=True)]
        found.append(op(None, *one, *args[count:]))
    if op.num_outputs == 1:
        return torch.stack(found), 0
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0,) * op.num_outputs


def into_heads(value: Tensor | None, dim: int | None, size: int, axis: int) -> Tensor | None:
    """A tensor with K heads at ``axis`` and a batch axis (or to be repeated), with size * K heads there."""
    if value is None:
        return None
    if dim is not None:
        return value.movedim(dim, axis).flatten(axis, axis + 1)
    return value.unsqueeze(axis).expand(*[-1] * axis, size, *[-1] * (value.dim() - axis)).flatten(axis, axis + 1)


def heads_of(value: Tensor, size: int, axis: int) -> Tensor:
    """What :func:`into_heads` folded, with the batch at ``axis``."""
    return value.unflatten(axis, (size, value.size(axis) // size))

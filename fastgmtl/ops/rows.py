"""Gradients of T tasks as the operators on lists take them: one form for three, with errors for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgmtl.ops.check import dense_floating

MAX_TASKS = 64


class Matrix(NamedTuple):
    """T rows of tensors, without the places where no row has one."""

    tensors: tuple[Tensor | None, ...]  # row after row, or (stacked) tensors with a first axis of T
    tasks: int  # T
    stacked: bool
    places: int  # N
    present: tuple[int, ...] | None  # of the N places those that are left; None for all

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return next((v.device for v in self.tensors if v is not None), torch.device("cpu"))

    def like(self) -> list[Tensor]:
        """For every place that is left one of its tensors."""
        if self.stacked:
            return [v for v in self.tensors if v is not None]
        size = len(self.tensors) // self.tasks
        return [next(v for v in self.tensors[n::size] if v is not None) for n in range(size)]

    def kept(self, values: Sequence[Any]) -> Sequence[Any]:
        """Of a value for each of the N places, those of the places that are left."""
        return values if self.present is None or not values else [values[n] for n in self.present]

    def spread(self, values: Sequence[Any]) -> list[Any]:
        """Values of the places that are left, with None between them."""
        if self.present is None:
            return list(values)
        found: list[Any] = [None] * self.places
        for n, value in zip(self.present, values, strict=True):
            found[n] = value
        return found

    def explain(self, op: str) -> None:
        """TypeError or ValueError that says what is wrong with a tensor; nothing if all is well."""
        size = len(self.tensors) // (1 if self.stacked else self.tasks)
        device = self.device
        for k, value in enumerate(self.tensors):
            if value is None:
                continue
            place = (self.present or range(size))[k % size]
            name = f"grads[{place}]" if self.stacked else f"grads[{k // size}][{place}]"
            dense_floating(op, name, value)
            if value.device != device:
                raise ValueError(
                    f"{op}: all gradients must be on one device, {name} is on {value.device}, not {device}"
                )
            first = next(v for v in self.tensors[k % size :: size] if v is not None)
            if value.dtype != first.dtype:
                raise TypeError(
                    f"{op}: {name} must be {first.dtype} as the same gradient of another task, got {value.dtype}"
                )


def parse(op: str, grads: Any) -> Matrix:
    """The three forms of ``grads`` as one; TypeError or ValueError for what is none of them."""
    if isinstance(grads, Tensor):
        if grads.dim() != 2:
            raise ValueError(f"{op}: a tensor of gradients must have shape [T, P], got {list(grads.shape)}")
        return _counted(op, Matrix((grads,), grads.size(0), True, 1, None))
    if not isinstance(grads, Sequence) or not grads:
        raise TypeError(
            f"{op}: grads must be a tensor [T, P] or a list with the gradients of each task, got {_what(grads)}"
        )
    if isinstance(grads[0], Tensor):
        count = grads[0].size(0) if grads[0].dim() else 0
        for n, value in enumerate(grads):
            if not isinstance(value, Tensor) or not value.dim() or value.size(0) != count:
                shape = list(value.shape) if isinstance(value, Tensor) else _what(value)
                raise ValueError(f"{op}: every tensor must have a first axis of T = {count}, grads[{n}] is {shape}")
        return _counted(op, Matrix(tuple(grads), count, True, len(grads), None))
    return _counted(op, _of_lists(op, grads))


def _of_lists(op: str, grads: Sequence[Any]) -> Matrix:
    rows = []
    for t, row in enumerate(grads):
        if not isinstance(row, Sequence):
            raise TypeError(f"{op}: grads[{t}] must be a list of tensors, got {_what(row)}")
        rows.append(tuple(row))
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{op}: every task must have a gradient (or None) for each of the N = {len(rows[0])} tensors of the "
                f"first, grads[{t}] has {len(row)}"
            )
    shapes: list[Any] = [None] * len(rows[0])
    for t, row in enumerate(rows):
        for n, value in enumerate(row):
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{op}: grads[{t}][{n}] must be a tensor or None, got {_what(value)}")
            if shapes[n] is None:
                shapes[n] = value.shape
            elif value.shape != shapes[n]:
                raise ValueError(
                    f"{op}: the tasks' gradients of one tensor must have one shape, grads[{t}][{n}] has "
                    f"{list(value.shape)}, another {list(shapes[n])}"
                )
    present = None
    if None in shapes:
        present = tuple(n for n, shape in enumerate(shapes) if shape is not None)
        rows = [tuple(row[n] for n in present) for row in rows]
    return Matrix(tuple(v for row in rows for v in row), len(rows), False, len(shapes), present)


def _counted(op: str, matrix: Matrix) -> Matrix:
    if not 1 <= matrix.tasks <= MAX_TASKS:
        raise ValueError(f"{op}: there must be 1 to {MAX_TASKS} tasks, got {matrix.tasks}")
    return matrix


def _what(value: Any) -> str:
    return "an empty list" if isinstance(value, Sequence) and not value else type(value).__name__


def groups_argument(op: str, groups: Sequence[int] | None, places: int) -> tuple[list[int], int]:
    """The groups as a list (empty: one for all) and their number; ValueError for what does not fit."""
    if groups is None:
        return [], 1
    found = [int(k) for k in groups]
    if len(found) != places:
        raise ValueError(f"{op}: groups must have an entry for each of the N = {places} tensors, got {len(found)}")
    if min(found, default=0) < 0:
        raise ValueError(f"{op}: groups must be 0 or more, got {min(found)}")
    return found, max(found, default=-1) + 1

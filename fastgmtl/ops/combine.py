"""combine: weighted sums of T gradients, written where they shall lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.ops.bilinear import combine_op
from fastgmtl.ops.operator import _PLAIN, is_transformed
from fastgmtl.ops.rows import Matrix, groups_argument, parse
from fastgmtl.reference.gram import Gradients


def combine(
    grads: Gradients,
    weights: Tensor,
    out: Any = None,
    accumulate: bool = False,
    scale: Tensor | float | None = None,
    groups: Sequence[int] | None = None,
) -> Any:
    r"""Weighted sum of T gradients.

    .. math:: d_n = s \sum_t w_t \, g_{t,n}

    Args:
        grads: as in :func:`fastgmtl.ops.gram`: T lists of N tensors or None, N tensors [T, ...], or a tensor [T, P].
        weights: [T]; or [S, T] for S sums. With groups [K, T] or [K, S, T]: each group has weights of its own.
        out: where the result is written: a tensor [P], or N tensors (``[p.grad for p in parameters]``) of the shapes
            and dtypes of the gradients; None makes new ones. Not differentiable.
        accumulate: add to ``out``.
        scale: a factor on all weights, a number or a tensor [] on the device of the gradients (a clipping factor, one
            over the scale of a loss): nothing waits for its value.
        groups: the group in 0 .. K-1 of each of the N tensors, as in :func:`fastgmtl.ops.gram`.

    Returns:
        The form of ``grads`` without the task axis: a list of N tensors (None where no task has a gradient; such a
        place of ``out`` is left alone), or [P]. For S sums a list of S such lists, N tensors [S, ...], or [S, P].
        Sums are in float32 (float64 for float64), in the order of the tasks.

    Differentiable to any order in gradients and weights.

    Raises:
        TypeError: something is not a dense floating point tensor.
        ValueError: shapes, dtypes or devices do not fit; ``accumulate`` without ``out``; ``out`` with tensors that
            require grad.
    """
    rows = parse("combine", grads)
    key, count = groups_argument("combine", groups, rows.places)
    sums = _weights(rows, weights, groups is not None, count)
    count = 1 if groups is None else weights.size(0)
    if accumulate and out is None:
        raise ValueError("combine: accumulate=True must have out, the tensors to add to")
    if scale is not None:
        weights = weights * scale
    if backend.kernels_for(rows.device) is None and out is None:
        return reference.combine(grads, weights, None, False, None, groups)
    wide = weights.to(torch.float64).reshape(count, sums or 1, rows.tasks).contiguous()
    try:
        if out is not None:
            return _into(rows, wide, rows.kept(key), out, accumulate, sums)
        found = combine_op((rows.tensors, (wide,)), rows.tasks, rows.stacked, *_form(rows, sums), rows.kept(key))
    except (TypeError, ValueError, RuntimeError):
        rows.explain("combine")
        raise
    return _shaped(rows, found, sums, isinstance(grads, Tensor))


def _weights(rows: Matrix, weights: Any, grouped: bool, count: int) -> int:
    """S, or 0 where the weights have no such axis; ValueError or TypeError for those that do not fit."""
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        what = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"combine: weights must be a floating point tensor, got {what}")
    axes = weights.dim() - grouped
    fits = axes in (1, 2) and weights.size(-1) == rows.tasks and not (grouped and weights.size(0) < count)
    if not fits or (axes == 2 and not 1 <= weights.size(-2) <= 64):
        first = f"{count}, " if grouped else ""
        raise ValueError(
            f"combine: weights must have shape [{'K, ' * grouped}T] = [{first}{rows.tasks}] or "
            f"[{'K, ' * grouped}S, T] with S of 1 to 64, got {list(weights.shape)}"
        )
    if weights.device != rows.device:
        raise ValueError(
            f"combine: weights must be on the device of the gradients, {rows.device}, got {weights.device}"
        )
    return weights.size(-2) if axes == 2 else 0


def _form(rows: Matrix, sums: int) -> tuple[int, bool]:
    """Rows of the result, and whether they are stacked."""
    return sums or 1, rows.stacked and sums > 0


def _shaped(rows: Matrix, found: Sequence[Tensor], sums: int, one_tensor: bool) -> Any:
    if one_tensor:
        return found[0]
    if rows.stacked or not sums:
        return rows.spread(found)
    size = len(found) // sums
    return [rows.spread(found[k * size : (k + 1) * size]) for k in range(sums)]


def _into(rows: Matrix, weights: Tensor, groups: Sequence[int], out: Any, accumulate: bool, sums: int) -> Any:
    """Write or add into ``out``; by a copy where its dtype or layout is another, or under a transform."""
    targets = _targets(rows, out, sums)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (*rows.tensors, *targets, weights)):
        raise ValueError("combine: out is not differentiable; leave it out, or call under torch.no_grad()")
    form, kernels = _form(rows, sums), backend.active.get(rows.device.type)
    like = rows.like() * (1 if form[1] else form[0])
    fits = all(
        v.dtype == g.dtype and type(v) in _PLAIN and v.is_contiguous() for v, g in zip(targets, like, strict=True)
    )
    if fits and kernels is not None and not is_transformed():
        tensors = tuple(v if v is None or v.is_contiguous() else v.contiguous() for v in rows.tensors)
        new = (targets, *form)
        kernels.combine((tensors, rows.tasks, rows.stacked), weights, groups, new, accumulate, torch.get_num_threads())
        torch.autograd.graph.increment_version(targets)
        return out
    found = combine_op((rows.tensors, (weights,)), rows.tasks, rows.stacked, *form, groups)
    for target, value in zip(targets, found, strict=True):
        target.add_(value) if accumulate else target.copy_(value)
    return out


def _targets(rows: Matrix, out: Any, sums: int) -> tuple[Tensor, ...]:
    """The tensors of ``out`` for the places that are left; ValueError for those that do not fit."""
    lines = [[out]] if isinstance(out, Tensor) else list(out) if sums and not rows.stacked else [out]
    found: list[Tensor] = []
    for line in lines:
        if len(line) != rows.places:
            raise ValueError(f"combine: out must have N = {rows.places} tensors, got {len(line)}")
        found += rows.kept(list(line))
    like = rows.like()
    if len(found) != len(like) * (1 if rows.stacked else sums or 1):
        raise ValueError(f"combine: out must have S = {sums} lists of tensors, got {len(lines)}")
    for k, value in enumerate(found):
        shape: tuple[int, ...] = tuple(like[k % len(like)].shape)[rows.stacked :]
        shape = (sums, *shape) if rows.stacked and sums else shape
        if not isinstance(value, Tensor) or value.shape != shape:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"combine: out must have tensors of the shapes of the result, {list(shape)}, got {got}")
    return tuple(found)

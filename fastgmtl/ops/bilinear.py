r"""gram and combine on lists of tensors: the two halves of a bilinear pair, closed under differentiation.

.. math:: G_k = A_k B_k^T, \qquad O_k = W_k A_k

for matrices whose rows are lists of tensors (csrc/contract/gram.h) and groups k of their columns. The derivative of
``gram`` in A is ``combine`` of B, that of ``combine`` in A is ``combine`` with the transposed weights, and in W it is
``gram``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl.ops.lists import ListOperator, Tensors
from fastgmtl.reference.combine import mixed
from fastgmtl.reference.gram import cross


def _contiguous(tensors: Tensors) -> Tensors:
    return tuple(v if v is None or v.is_contiguous() else v.contiguous() for v in tensors)


def unstack(tensors: Tensors, count: int, stacked: bool) -> list[list[Tensor | None]]:
    """Rows of tensors, from a flat list or from tensors with a first axis of ``count``."""
    if stacked:
        return [[None if v is None else v[row] for v in tensors] for row in range(count)]
    size = len(tensors) // count
    return [list(tensors[row * size : (row + 1) * size]) for row in range(count)]


def _like(tensors: Tensors, count: int, stacked: bool) -> list[Tensor]:
    """For every part a tensor of its shape, dtype and device."""
    if stacked:
        return [v[0] for v in tensors if v is not None]
    size = len(tensors) // count
    return [next(v for v in tensors[n::size] if v is not None) for n in range(size)]


def _without_none(tensors: Tensors, count: int, stacked: bool) -> list[Tensor]:
    if all(v is not None for v in tensors):
        return list(tensors)  # type: ignore[arg-type]
    like = _like(tensors, count, stacked)
    return [torch.zeros_like(like[k % len(like)]) if v is None else v for k, v in enumerate(tensors)]


class _Gram(ListOperator):
    """[K, S, T] float64; an empty ``b`` is ``a``. ``groups`` has an entry for every part, or none at all."""

    name = "gram"
    lists = ("a", "b")
    options = (
        ("count_a", "int"),
        ("stacked_a", "bool"),
        ("count_b", "int"),
        ("stacked_b", "bool"),
        ("groups", "int[]"),
        ("num_groups", "int"),
    )

    @staticmethod
    def kernel(kernels: Any, lists: Sequence[Tensors], *options: Any) -> tuple[Tensor]:
        count_a, stacked_a, count_b, stacked_b, groups, _ = options
        (a, b), (out,) = map(_contiguous, lists), _Gram.fake(lists, *options)
        kernels.gram((a, count_a, stacked_a), (b, count_b, stacked_b), groups, out, torch.get_num_threads())
        return (out,)

    @staticmethod
    def reference(
        lists: Sequence[Tensors],
        count_a: int,
        stacked_a: bool,
        count_b: int,
        stacked_b: bool,
        groups: Sequence[int],
        num_groups: int,
    ) -> tuple[Tensor]:
        a = unstack(lists[0], count_a, stacked_a)
        b = unstack(lists[1], count_b, stacked_b) if lists[1] else a
        return (cross(a, b, groups or None, num_groups),)

    @staticmethod
    def fake(lists: Sequence[Tensors], *options: Any) -> tuple[Tensor]:
        count_a, _, count_b, _, _, num_groups = options
        device = next((v.device for tensors in lists for v in tensors if v is not None), None)
        size = (num_groups, count_a, count_b if lists[1] else count_a)
        return (torch.empty(size, dtype=torch.float64, device=device),)

    @staticmethod
    def without_none(tensors: Tensors, which: int, options: Any) -> list[Tensor]:
        return _without_none(tensors, *options[2 * which : 2 * which + 2])

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        lists: Sequence[Tensors],
        count_a: int,
        stacked_a: bool,
        count_b: int,
        stacked_b: bool,
        groups: Sequence[int],
        num_groups: int,
    ) -> Any:
        (g,), (a, b) = grads, lists
        back = g.transpose(1, 2)
        if not b:
            return call(combine_op)((a, (g + back,)), count_a, stacked_a, count_a, stacked_a, groups), ()
        d_a: Any = (None,) * len(a)
        d_b: Any = (None,) * len(b)
        if any(needs[0]):
            d_a = call(combine_op)((b, (g,)), count_b, stacked_b, count_a, stacked_a, groups)
        if any(needs[1]):
            d_b = call(combine_op)((a, (back,)), count_a, stacked_a, count_b, stacked_b, groups)
        return d_a, d_b


class _Combine(ListOperator):
    """S rows from T, with weights [K, S, T] float64. Every part must have a tensor in one row at least."""

    name = "combine"
    lists = ("grads", "weights")
    options = (
        ("count", "int"),
        ("stacked", "bool"),
        ("new_count", "int"),
        ("new_stacked", "bool"),
        ("groups", "int[]"),
    )

    @staticmethod
    def kernel(kernels: Any, lists: Sequence[Tensors], *options: Any) -> tuple[Tensor, ...]:
        count, stacked, new_count, new_stacked, groups = options
        (grads, (weights,)), out = map(_contiguous, lists), _Combine.fake(lists, *options)
        rows, new_rows = (grads, count, stacked), (out, new_count, new_stacked)
        kernels.combine(rows, weights, groups, new_rows, False, torch.get_num_threads())
        return out

    @staticmethod
    def reference(
        lists: Sequence[Tensors], count: int, stacked: bool, new_count: int, new_stacked: bool, groups: Sequence[int]
    ) -> tuple[Tensor, ...]:
        grads, (weights,) = lists
        assert weights is not None
        found = mixed(unstack(grads, count, stacked), weights, groups or None)
        if new_stacked:
            return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        return tuple(part for row in found for part in row)

    @staticmethod
    def fake(
        lists: Sequence[Tensors], count: int, stacked: bool, new_count: int, new_stacked: bool, groups: Sequence[int]
    ) -> tuple[Tensor, ...]:
        like = _like(lists[0], count, stacked)
        if new_stacked:
            return tuple(v.new_empty(new_count, *v.shape) for v in like)
        return tuple(v.new_empty(v.shape) for _ in range(new_count) for v in like)

    @staticmethod
    def without_none(tensors: Tensors, which: int, options: Any) -> list[Tensor]:
        return _without_none(tensors, *options[:2]) if which == 0 else list(tensors)  # type: ignore[arg-type]

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        lists: Sequence[Tensors],
        count: int,
        stacked: bool,
        new_count: int,
        new_stacked: bool,
        groups: Sequence[int],
    ) -> Any:
        rows, (weights,) = lists
        assert weights is not None
        like = _like(rows, count, stacked)
        if any(g is None for g in grads):
            shapes = [(new_count, *v.shape) if new_stacked else v.shape for v in like]
            grads = tuple(
                like[k % len(like)].new_zeros(shapes[k % len(like)]) if g is None else g for k, g in enumerate(grads)
            )
        d_rows: Any = (None,) * len(rows)
        d_weights = None
        if any(needs[0]):
            back = weights.transpose(1, 2)
            d_rows = call(combine_op)((grads, (back,)), new_count, new_stacked, count, stacked, groups)
        if needs[1][0]:
            options = (new_count, new_stacked, count, stacked, groups, weights.size(0))
            (d_weights,) = call(gram_op)((grads, rows), *options)
        return d_rows, (d_weights,)


gram_op = _Gram()
combine_op = _Combine()

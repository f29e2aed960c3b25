"""gram and combine, on lists of tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calls.base import Call, Draw, Maker, split
from fastgmtl import ops, reference
from fastgmtl.ops import bilinear
from fastgmtl.ops.lists import ListOperator

CALLS: dict[str, Maker] = {}


def _rows(draw: Draw, count: int) -> tuple[Tensor, ...]:
    """``count`` rows of two tensors, one after another."""
    return tuple(v for _ in range(count) for v in (draw.nodes("src", 2), draw.weight("E")) if v is not None)


def draw_matrix(draw: Draw) -> Tensor:
    """[T, P]"""
    return draw.nodes("src", 3).flatten(2).movedim(1, 0).flatten(1)


def _stacked(draw: Draw) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*split(_rows(draw, draw.tasks), [2] * draw.tasks), strict=True))


def _flat(found: object) -> object:
    """A tuple of tensors for lists of lists of them."""
    if isinstance(found, Tensor):
        return found
    return tuple(v for row in found for v in ([row] if isinstance(row, Tensor) else row))  # type: ignore[attr-defined]


def _fill_lists() -> None:
    def small(draw: Draw, *shape: int) -> Tensor:
        return draw.normal(*shape).double()

    def add(name: str, tensors: Callable[[Draw], tuple[Tensor, ...]], of: Callable[..., object]) -> None:
        """``of(module, tasks, *tensors)``."""

        def make(draw: Draw) -> Call:
            run, twin = (lambda *t, m=m: _flat(of(m, draw.tasks, *t)) for m in (ops, reference))
            return Call(name, draw.graph, tensors(draw), run, twin)

        CALLS[name] = make

    def rows(tensors: Sequence[Tensor], tasks: int) -> object:
        return split(tensors, [2] * tasks)

    every = range(2)
    add("gram", lambda d: _rows(d, d.tasks), lambda m, n, *t: m.gram(rows(t, n)))
    add("gram-groups", lambda d: _rows(d, d.tasks), lambda m, n, *t: m.gram(rows(t, n), every))
    add("gram-stacked", _stacked, lambda m, n, *t: m.gram(t))
    add("gram-matrix", lambda d: (draw_matrix(d),), lambda m, n, t: m.gram(t))
    add(
        "combine",
        lambda d: (small(d, d.tasks), *_rows(d, d.tasks)),
        lambda m, n, w, *t: m.combine(rows(t, n), w, scale=0.5),
    )
    add(
        "combine-sums-groups",
        lambda d: (small(d, 2, 3, d.tasks), *_rows(d, d.tasks)),
        lambda m, n, w, *t: m.combine(rows(t, n), w, groups=every),
    )
    add("combine-stacked", lambda d: (small(d, d.tasks), *_stacked(d)), lambda m, n, w, *t: m.combine(t, w))
    add("combine-stacked-sums", lambda d: (small(d, 2, d.tasks), *_stacked(d)), lambda m, n, w, *t: m.combine(t, w))

    def internal(
        name: str,
        operator: ListOperator,
        tensors: Callable[[Draw], tuple[Tensor, ...]],
        lengths: Callable[[int], tuple[int, ...]],
        options: Callable[[int], tuple[object, ...]],
    ) -> None:
        def make(draw: Draw) -> Call:
            many, rest = lengths(draw.tasks), options(draw.tasks)
            return Call(
                name,
                draw.graph,
                tensors(draw),
                lambda *t: operator(split(t, many), *rest),
                lambda *t: operator.reference(split(t, many), *rest),
                operator,
                rest,
                many,
            )

        CALLS[name] = make

    for a, b in itertools.product((False, True), repeat=2):
        form = f"{'stacked' if a else 'lists'}-{'stacked' if b else 'lists'}"
        internal(
            f"gram_op-{form}",
            bilinear.gram_op,
            lambda d, a=a, b=b: (*(_stacked(d) if a else _rows(d, d.tasks)), *(_stacked(d) if b else _rows(d, 2))),
            lambda n, a=a, b=b: (2 if a else 2 * n, 2 if b else 4),
            lambda n, a=a, b=b: (n, a, n if b else 2, b, [1, 0], 2),
        )
        internal(
            f"combine_op-{form}",
            bilinear.combine_op,
            lambda d, a=a: (*(_stacked(d) if a else _rows(d, d.tasks)), small(d, 2, 2, d.tasks)),
            lambda n, a=a: (2 if a else 2 * n, 1),
            lambda n, a=a, b=b: (n, a, 2, b, [1, 0]),
        )


_fill_lists()

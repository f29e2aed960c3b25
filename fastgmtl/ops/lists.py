"""Operators on lists of tensors: the doors of :mod:`fastgmtl.ops.operator` for any number of tensors.

An argument is a tuple of tensors, some of which may be None in the eager door. The library door has ``Tensor[]`` in its
schema, which knows no None: they become zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.ops.operator import _PLAIN, _functorch_active, is_batched, is_transformed

Tensors = tuple[Tensor | None, ...]


class ListOperator:
    """An operator on ``lists`` (tuples of tensors) and ``options`` (plain values).

    A subclass names its arguments and has four functions of ``(lists, *options)``:

    * ``kernel(kernels, ...)`` and ``reference(...)``: a tuple of tensors;
    * ``fake(...)``: empty tensors of the same shapes and dtypes;
    * ``backward(call, needs, grads, ...)``: a list of gradients for each of ``lists``, made of operators
      ``call(op)(...)``; ``needs`` has a list of bools for each.
    """

    name: str
    lists: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # (name, schema type)

    without_none: Callable[..., list[Tensor]]  # (tensors, which of the lists, options): zeros for None
    kernel: Callable[..., tuple[Tensor, ...]]
    reference: Callable[..., tuple[Tensor, ...]]
    fake: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., Sequence[Sequence[Tensor | None]]]

    def __init__(self) -> None:
        self.eager = _eager_function(self)
        self.twin = _functorch_function(self)
        self.library = _library_op(self)

    def __call__(self, lists: Sequence[Tensors], *options: Any) -> tuple[Tensor, ...]:
        """Run through the door that fits the tensors."""
        flat = tuple(chain.from_iterable(lists))
        lengths = tuple(map(len, lists))
        if is_transformed():
            if _functorch_active() and not torch.compiler.is_compiling():
                return self.twin.apply(lengths, options, *flat)
            return self.library(lists, *options)
        wants_grad = False
        for value in flat:
            if value is not None:
                if is_batched(value):
                    # The batching rules of `is_grads_batched` know no lists: the twin is made of operators they know.
                    return self.reference(lists, *options)
                if type(value) not in _PLAIN:
                    return self.library(lists, *options)
                wants_grad = wants_grad or value.requires_grad
        if wants_grad and torch.is_grad_enabled():
            return self.eager(lengths, options, *flat)
        return self.run(lists, *options)

    def run(self, lists: Sequence[Tensors], *options: Any) -> tuple[Tensor, ...]:
        """Outputs of plain tensors, without a gradient."""
        kernels = backend.active.get(device_type(lists))
        if kernels is None:
            with torch.no_grad():
                return self.reference(lists, *options)
        return self.kernel(kernels, lists, *options)


def device_type(lists: Sequence[Tensors]) -> str:
    """Of the first tensor that is there."""
    return next((v.device.type for v in chain.from_iterable(lists) if v is not None), "cpu")


def _split(flat: Sequence[Any], lengths: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
    def parts() -> Iterator[tuple[Any, ...]]:
        start = 0
        for length in lengths:
            yield tuple(flat[start : start + length])
            start += length

    return tuple(parts())


def _eager_function(op: ListOperator) -> Callable[..., Any]:
    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, lengths: tuple[int, ...], options: tuple[Any, ...], *flat: Tensor | None) -> Any:
            ctx.lengths, ctx.options = lengths, options
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*flat)
            return op.run(_split(flat, lengths), *options)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return (None, None, *_gradients(op, lambda o: o, ctx.needs_input_grad[2:], grads, ctx, ctx.saved_tensors))

    Eager.__name__ = Eager.__qualname__ = op.name
    apply: Callable[..., Any] = super(torch.autograd.Function, Eager).apply
    return apply


def _gradients(
    op: ListOperator,
    call: Callable[..., Any],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
    ctx: Any,
    saved: Sequence[Tensor | None],
) -> Iterator[Tensor | None]:
    if all(g is None for g in grads):
        return iter((None,) * len(saved))
    lists, wanted = _split(saved, ctx.lengths), _split(needs, ctx.lengths)
    found = chain.from_iterable(op.backward(call, wanted, grads, lists, *ctx.options))
    return (None if value is None else grad for value, grad in zip(saved, found, strict=True))


def _functorch_function(op: ListOperator) -> Any:
    class Functorch(torch.autograd.Function):
        @staticmethod
        def forward(lengths: tuple[int, ...], options: tuple[Any, ...], *flat: Tensor | None) -> Any:
            return op.run(_split(flat, lengths), *options)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.lengths, ctx.options = inputs[:2]
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*inputs[2:])

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            saved = ctx.saved_tensors
            needs = [value is not None for value in saved]
            return (None, None, *_gradients(op, lambda o: o, needs, grads, ctx, saved))

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], lengths: tuple[int, ...], options: Any, *flat: Any) -> Any:
            # A batch of matrices is not one matrix: one call for each.
            def item(k: int) -> list[Tensor | None]:
                dims = in_dims[2:]
                return [v if d is None else v.select(d, k) for v, d in zip(flat, dims, strict=True)]

            found = [op(_split(item(k), lengths), *options) for k in range(info.batch_size)]
            out = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
            return out, (0,) * len(out)

    Functorch.__name__ = Functorch.__qualname__ = op.name
    return Functorch


def _library_op(op: ListOperator) -> Callable[..., Any]:
    """Register ``fastgmtl::<name>``."""
    name, count = f"fastgmtl::{op.name}", len(op.lists)
    arguments = [f"Tensor[] {tensors}" for tensors in op.lists] + [f"{kind} {option}" for option, kind in op.options]
    torch.library.define(name, f"({', '.join(arguments)}) -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,))

    def implementation(*args: Any) -> Any:
        # A subclass that gets here has memory of its own: those that have none answer before this.
        lists = [tuple(v if type(v) in _PLAIN else v.as_subclass(Tensor) for v in tensors) for tensors in args[:count]]
        return list(op.run(lists, *args[count:]))

    def fake(*args: Any) -> Any:
        return list(op.fake(args[:count], *args[count:]))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.lengths, ctx.options = tuple(map(len, inputs[:count])), inputs[count:]
        ctx.save_for_backward(*chain.from_iterable(inputs[:count]))

    def backward(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
        saved = ctx.saved_tensors
        # All of them: the dispatcher says for a list as a whole whether it needs a gradient.
        found = _gradients(op, lambda o: o.library, [True] * len(saved), grads, ctx, saved)
        # The form of the arguments, in which an empty list has no place for a gradient.
        nothing: list[Any] = [[] if v == [] else None for v in ctx.options]
        return (*map(list, _split(tuple(found), ctx.lengths)), *nothing)

    torch.library.impl(name, ("CPU", "CUDA"), implementation)
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    packet = getattr(torch.ops.fastgmtl, op.name).default

    def through_library(lists: Sequence[Tensors], *options: Any) -> Any:
        whole = [op.without_none(tensors, k, options) for k, tensors in enumerate(lists)]
        return tuple(packet(*whole, *options))

    return through_library

"""What makes an operator: one kernel call and one backward formula behind three doors.

============  ==================================================  ==================================================
door          who comes through it                                what it is
============  ==================================================  ==================================================
eager         plain tensors                                       ``autograd.Function`` straight to the kernel
functorch     ``torch.func`` transforms                           ``autograd.Function`` with ``setup_context`` and a
                                                                  ``vmap`` rule that folds the batch into an axis
library       ``torch.compile``, export, FakeTensor, subclasses,  op of ``torch.library``: schema, fake, autograd
              dispatch modes, ``is_grads_batched``
============  ==================================================  ==================================================

A kernel must never see a tensor whose memory is not its own (fake, batched, wrapped): :meth:`Operator.__call__` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.graph import Graph

# Private probes of PyTorch, each with what holds where a version lacks it.
_functorch_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: torch._C._functorch.peek_interpreter_stack() is not None
)
_modes_active: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
is_batched: Callable[[Tensor], bool] = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)
_PLAIN = (Tensor, torch.nn.Parameter)


_active = backend.active


def is_transformed() -> bool:
    """Whether anything but plain eager execution is going on: compilation, a dispatch mode, a functorch transform."""
    return torch.compiler.is_compiling() or bool(_modes_active()) or _functorch_active()


class Operator:
    """An operator on a graph, ``tensors`` (some may be None) and ``options`` (plain values).

    With ``takes_graph = False`` the graph is None, and the first tensor is not. A subclass names its arguments and has
    five functions of ``(graph, *tensors, *options)``:

    * ``kernel(kernels, ...)`` and ``reference(...)``: outputs, as a tensor or a tuple of tensors;
    * ``fake(...)``: empty outputs of the same shapes and dtypes;
    * ``backward(call, needs, grads, outputs, ...)``: gradients of the tensors, made of operators ``call(op)(...)``;
    * ``vmap(size, dims, ...)``: outputs and their batch axes, for tensors with batch axes ``dims``.
    """

    name: str
    tensors: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # (name, schema type)
    num_outputs: int = 1
    takes_graph: bool = True
    saves_outputs: bool = False  # whether `backward` reads outputs: all but the first, which are not differentiable,
    differentiable_outputs: bool = False  # or all of them, and all are

    @staticmethod
    def saved(ctx: Any, *tensors: Tensor | None) -> Sequence[Tensor | None]:
        """The tensors (None for the rest) that ``backward`` reads, given ``ctx.needs_input_grad[2:]``; () for none."""
        return tensors

    kernel: Callable[..., Any]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    backward: Callable[..., Any]
    vmap: Callable[..., Any]

    def __init__(self) -> None:
        self.eager = _eager_function(self)
        self.twin = _functorch_function(self)
        self.library = _library_op(self)

    def __call__(self, graph: Graph | None, *args: Any) -> Any:
        """Run on ``args`` = tensors then options, through the door that fits them."""
        if is_transformed():
            if _functorch_active() and not torch.compiler.is_compiling():
                return self.twin.apply(graph, *args)
            return self.library(graph, *args)
        wants_grad = False
        for value in args[: len(self.tensors)]:
            if value is not None:
                if type(value) not in _PLAIN or is_batched(value):
                    return self.library(graph, *args)
                wants_grad = wants_grad or value.requires_grad
        if wants_grad and torch.is_grad_enabled():
            return self.eager(graph, args[len(self.tensors) :], *args[: len(self.tensors)])
        return self.run(graph, *args)

    def outputs_to_save(self, output: Any) -> Any:
        """Of the outputs, those that ``backward`` reads."""
        if not self.saves_outputs:
            return ()
        if not self.differentiable_outputs:
            return output[1:]
        return output if isinstance(output, tuple) else (output,)

    def run(self, graph: Graph | None, *args: Any) -> Any:
        """Outputs of plain tensors, without a gradient.

        On CUDA the work is queued on the current stream of the tensors' device, and the host does not wait for it.
        Contiguous copies and workspaces are given back at once: PyTorch's allocator reuses memory in the order of that
        stream. As with any operator, a tensor that was made on another stream needs ``Tensor.record_stream``.
        """
        kernels = _active.get(args[0].device.type if graph is None else graph.device_type)
        if kernels is None:
            with torch.no_grad():
                return self.reference(graph, *args)
        return self.kernel(kernels, graph, *args)


def _through(op: Operator) -> Callable[..., Any]:
    return op


def _straight(op: Operator) -> Callable[..., Any]:
    return op.run


def _eager_function(op: Operator) -> Callable[..., Any]:
    count = len(op.tensors)
    run, saved, backward_of, outputs_too = op.run, op.saved, op.backward, op.saves_outputs
    constant, outputs_to_save = not op.differentiable_outputs, op.outputs_to_save
    nothing = (None,) * count

    class Eager(torch.autograd.Function):
        # Options come as one tuple: the engine does work for every argument.
        @staticmethod
        def forward(ctx: Any, graph: Graph | None, options: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            out = run(graph, *tensors, *options)
            ctx.graph, ctx.options = graph, options
            ctx.set_materialize_grads(False)
            keep = saved(ctx, *tensors)
            if outputs_too:
                if constant:
                    ctx.mark_non_differentiable(*out[1:])
                ctx.save_for_backward(*keep, *outputs_to_save(out))
            elif keep:
                ctx.save_for_backward(*keep)
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            keep = ctx.saved_tensors or nothing
            # Nothing is recorded and nothing is wrapped: straight to the kernels.
            g = grads[0]
            plain = not torch.is_grad_enabled() and type(g) is Tensor and not is_batched(g) and not is_transformed()
            call = _straight if plain else _through
            needs = ctx.needs_input_grad[2:]
            found = backward_of(call, needs, grads, keep[count:], ctx.graph, *keep[:count], *ctx.options)
            return (None, None, *found)

    Eager.__name__ = Eager.__qualname__ = op.name
    # Past Function.apply, which only looks for functorch's wrappers: those never come through this door.
    apply: Callable[..., Any] = super(torch.autograd.Function, Eager).apply
    return apply


def _functorch_function(op: Operator) -> Any:
    count, extra = len(op.tensors), (None,) * len(op.options)

    class Functorch(torch.autograd.Function):
        @staticmethod
        def forward(graph: Graph | None, *args: Any) -> Any:
            return op.run(graph, *args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.graph, ctx.options = inputs[0], inputs[count + 1 :]
            more = op.outputs_to_save(output)
            if more and not op.differentiable_outputs:
                ctx.mark_non_differentiable(*more)
            ctx.save_for_backward(*inputs[1 : count + 1], *more)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            saved = ctx.saved_tensors
            needs = [value is not None and value.is_floating_point() for value in saved[:count]]
            found = op.backward(_through, needs, grads, saved[count:], ctx.graph, *saved[:count], *ctx.options)
            return (None, *found, *extra)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], graph: Graph | None, *args: Any) -> Any:
            return op.vmap(info.batch_size, in_dims[1 : count + 1], graph, *args)

    Functorch.__name__ = Functorch.__qualname__ = op.name
    return Functorch


# A graph crosses the border of a library op as these; None in a list of tensors would lose its gradients.
GRAPH = "Tensor row_ptr, Tensor col, Tensor? edge_id, Tensor back_ptr, Tensor back_col, Tensor? back_id, SymInt num_src"
PARTS = 7


def flatten(graph: Graph | None) -> tuple[Any, ...]:
    """The arguments that a library op takes for a graph; none for none."""
    if graph is None:
        return ()
    back = graph.t()
    return graph.row_ptr, graph.col, graph.edge_id, back.row_ptr, back.col, back.edge_id, graph.num_src


def unflatten(parts: Sequence[Any]) -> Graph | None:
    """The graph that :func:`flatten` took apart."""
    if not parts:
        return None
    row_ptr, col, edge_id, back_ptr, back_col, back_id, num_src = parts
    graph, back = Graph(row_ptr, col, edge_id, num_src), Graph(back_ptr, back_col, back_id, row_ptr.size(0) - 1)
    graph._lazy["transpose"], back._lazy["transpose"] = back, graph
    return graph


def _library_op(op: Operator) -> Callable[..., Any]:
    """Register ``fastgmtl::<name>``; the graph crosses as the tensors of its pattern and of the transpose."""
    name, count = f"fastgmtl::{op.name}", len(op.tensors)
    arguments = [f"Tensor? {tensor}" for tensor in op.tensors] + [f"{kind} {option}" for option, kind in op.options]
    result = "Tensor" if op.num_outputs == 1 else "(" + ", ".join(["Tensor"] * op.num_outputs) + ")"
    parts = PARTS if op.takes_graph else 0
    if op.takes_graph:
        arguments.insert(0, GRAPH)
    schema = f"({', '.join(arguments)}) -> {result}"
    torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))

    def implementation(*args: Any) -> Any:
        # A subclass that gets here has memory of its own: those that have none answer before this.
        args = tuple(v.as_subclass(Tensor) if isinstance(v, Tensor) and type(v) not in _PLAIN else v for v in args)
        return op.run(unflatten(args[:parts]), *args[parts:])

    def fake(*args: Any) -> Any:
        return op.fake(unflatten(args[:parts]), *args[parts:])

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        graph, args = inputs[:parts], inputs[parts:]
        ctx.num_src, ctx.options = graph[-1:], args[count:]
        more = op.outputs_to_save(output)
        if more and not op.differentiable_outputs:
            ctx.mark_non_differentiable(*more)
        ctx.save_for_backward(*graph[:-1], *args[:count], *more)
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        pattern, saved = ctx.saved_tensors[: max(0, parts - 1)], ctx.saved_tensors[max(0, parts - 1) :]
        graph = unflatten((*pattern, *ctx.num_src))
        needs = ctx.needs_input_grad[parts : parts + count]
        found = op.backward(lambda o: o.library, needs, grads, saved[count:], graph, *saved[:count], *ctx.options)
        return (*[None] * parts, *found, *[None] * len(op.options))

    torch.library.impl(name, ("CPU", "CUDA"), implementation)
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    packet = getattr(torch.ops.fastgmtl, op.name).default

    def through_library(graph: Graph | None, *args: Any) -> Any:
        return packet(*flatten(graph), *args)

    return through_library

"""The targets of fuzz.py for operators on lists of tensors: ``python fuzz_lists.py TARGET``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from cases import DTYPES
from compare import TOLERANCE, close, weighted
from fuzz import anything, main, small, tensors, views
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastgmtl import _C, backend, ops
from fastgmtl.ops.task_weights import METHODS, task_weights


@st.composite
def gradients(draw: Any, dtypes: tuple[torch.dtype, ...] = DTYPES, most: int = 64) -> tuple[Any, int, int]:
    """Of T tasks in one of the three forms; T; the number of tensors of a task."""
    tasks, dtype = draw(st.integers(1, 9) | st.sampled_from([most // 4, most // 2 + 1, most])), st.sampled_from(dtypes)
    form = draw(st.sampled_from(["matrix", "stacked", "lists"]))
    if form == "matrix":
        return draw(tensors((tasks, draw(st.integers(0, 40))), draw(dtype))), tasks, 1
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4))
    stacked = [draw(tensors((tasks, *shape), draw(dtype))) for shape in shapes]
    if form == "stacked":
        return stacked, tasks, len(shapes)
    missing = draw(st.sets(st.tuples(st.integers(0, tasks - 1), st.integers(0, len(shapes) - 1)), max_size=9))
    rows = [[None if (t, n) in missing else v[t] for n, v in enumerate(stacked)] for t in range(tasks)]
    return rows, tasks, len(shapes)


def flat(value: Any) -> list[Tensor]:
    """The tensors of nested lists."""
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for part in value for tensor in flat(part)]


def leaves(value: Any) -> Any:
    """The same nested lists, of new leaves."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_()
    return None if value is None else [leaves(part) for part in value]


def both_backends(call: Callable[[Any], Any], inputs: list[Any]) -> None:
    """Values and gradients of kernels and twins; where there are infinities only whether both run."""
    finite = all(bool(v.isfinite().all()) for v in flat(inputs))
    worst = max((v.dtype for v in flat(inputs)), key=TOLERANCE.__getitem__, default=torch.float64)
    results = []
    for name in ("kernel", "reference"):
        with backend.use_backend(name):
            given = leaves(inputs)
            out = flat(call(*given))
            some = [v for v in out if v.requires_grad]
            total = weighted(tuple(v.double() for v in some)) if some else None
            found = torch.autograd.grad(total, flat(given), allow_unused=True) if some else ()
            results.append([*(v.detach() for v in out), *(torch.zeros(()) if g is None else g for g in found)])
    assert len(results[0]) == len(results[1])
    for got, want in zip(*results, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if finite:
            close(got, want, worst, factor=4)


@given(st.data())
def gram(data: st.DataObject) -> None:
    grads, _, count = data.draw(gradients())
    groups = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=count, max_size=count))
    both_backends(lambda g: ops.gram(g, groups), [grads])


@given(st.data())
def combine(data: st.DataObject) -> None:
    grads, tasks, count = data.draw(gradients())
    groups = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=count, max_size=count))
    shape = [*([max(groups) + 1] if groups else []), *data.draw(st.sampled_from([[], [1], [3]])), tasks]
    weights = data.draw(tensors(tuple(shape), data.draw(st.sampled_from([torch.float32, torch.float64]))))
    both_backends(lambda g, w: ops.combine(g, w, groups=groups), [grads, weights])
    want = ops.combine(grads, weights, groups=groups)
    there = torch.float64 if data.draw(st.booleans()) else None
    fresh = lambda v: (  # noqa: E731
        v.new_ones(v.shape, dtype=there or v.dtype) if isinstance(v, Tensor) else v and [fresh(part) for part in v]
    )
    out, accumulate = fresh(want), data.draw(st.booleans())
    assert ops.combine(grads, weights, out, accumulate, groups=groups) is out
    for got, value in zip(flat(out), flat(want), strict=True):
        if value.isfinite().all():
            close(got, value.double() + accumulate, value.dtype, factor=4)


@given(st.data())
def project(data: st.DataObject) -> None:
    grads, tasks, _ = data.draw(gradients(most=9))
    target = data.draw(st.integers(-tasks, tasks - 1))
    both_backends(lambda g: ops.project(g, target), [grads])


@given(st.data())
def rotate(data: st.DataObject) -> None:
    # In float64: whether two gradients are opposite is a matter of rounding.
    grads, tasks, _ = data.draw(gradients((torch.float64,), 9))
    target, amount = data.draw(st.integers(-tasks, tasks - 1)), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    for name in ("kernel", "reference"):
        with backend.use_backend(name), torch.no_grad():
            found = flat(ops.rotate(grads, amount, target))
        if all(bool(v.isfinite().all()) for v in flat(grads)):
            assert all(bool(v.isfinite().all()) for v in found)


@given(st.data())
def small_problem(data: st.DataObject) -> None:
    tasks, size = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 12))
    matrix = data.draw(tensors((tasks, size), torch.float64)) * data.draw(st.sampled_from([1.0, 1e-15, 1e15]))
    of_gradients = data.draw(st.booleans())
    problem = matrix @ matrix.T if of_gradients else data.draw(tensors((tasks, tasks), torch.float64))
    method = data.draw(st.sampled_from(METHODS))
    p = data.draw(st.none() | st.just(torch.ones(tasks))) if method not in ("rcgrad", "rotated") else torch.ones(tasks)
    order = torch.rand(tasks, tasks).argsort(1) if method in ("pcgrad", "gradvac") else None
    state = torch.zeros_like(problem) if method == "gradvac" else None
    parameter = {"fairgrad": 2.0, "rcgrad": tasks - 1, "rotated": 0}.get(method, 0.5)
    found = task_weights(problem, method, p, order, parameter, state)
    assert found.shape == (tasks,) and (not of_gradients or not matrix.isfinite().all() or found.isfinite().all())


nested = st.lists(anything | st.lists(anything, max_size=3), max_size=3)


@given(nested | anything, anything, nested | anything, st.booleans())
def list_arguments(grads: Any, weights: Any, out: Any, accumulate: Any) -> None:
    for call in (
        lambda: ops.gram(grads),
        lambda: ops.gram(grads, out),
        lambda: ops.combine(grads, weights, out, accumulate),
        lambda: ops.combine(grads, weights, None, accumulate, weights, out),
        lambda: ops.project(grads, accumulate),
        lambda: ops.rotate(grads, weights, accumulate),
        lambda: task_weights(grads, "pcgrad", weights, out),
        lambda: task_weights(weights, "rcgrad", out),
    ):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            call()


@given(st.data())
def list_border(data: st.DataObject) -> None:
    draw = lambda: data.draw(views)  # noqa: E731
    rows = lambda: (  # noqa: E731
        tuple(data.draw(st.lists(views, max_size=6))),
        data.draw(small | st.sampled_from([64, 65])),
        data.draw(st.booleans()),
    )
    groups = lambda: data.draw(st.lists(small, max_size=4))  # noqa: E731
    threads = data.draw(small)
    for call in (
        lambda: _C.gram(rows(), rows(), groups(), draw(), threads),
        lambda: _C.gram(rows(), ((), 0, True), groups(), draw(), threads),
        lambda: _C.combine(rows(), draw(), groups(), rows(), data.draw(st.booleans()), threads),
        lambda: _C.task_weights(data.draw(st.integers(-1, 14)), *(draw() for _ in range(3)), 0.5, draw(), draw()),
    ):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            call()


if __name__ == "__main__":
    main(globals()[sys.argv[1]])

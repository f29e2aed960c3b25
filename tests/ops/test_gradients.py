"""Derivatives of every operator, of first, second and third order, by finite differences and against the reference."""

from __future__ import annotations

import itertools

import cases
import pytest
import torch
from cases import CALLS, FEW, MEDIUM, PATTERNS, Call, call
from compare import case, close, weighted
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from fastgmtl import ops

pytestmark = pytest.mark.usefixtures("kernels")

SHAPES = [n for n in PATTERNS if n not in ("typical", "empty", "no_edges", "no_sources", "no_destinations")]


def outputs(out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("name", CALLS)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    c = call(name, PATTERNS["typical"], tasks=2, width=2)
    function, inputs = c.of_floats(c.run), c.inputs(requires_grad=True)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("pattern", SHAPES)
@pytest.mark.parametrize("name", FEW)
def test_gradgradcheck_of_strange_patterns(name: str, pattern: str) -> None:
    c = call(name, PATTERNS[pattern], tasks=2, width=1)
    function, inputs = c.of_floats(c.run), c.inputs(requires_grad=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


# Without weights, and where it is not bent, it is linear in its inputs, and the gradient constant.
@pytest.mark.parametrize(
    "name",
    [
        n
        for n in FEW
        if "max" not in n
        and "min" not in n
        and n != "spmm-sum-x2-wnone"
        and not n.startswith(("gather_relu", "relu_sum"))
    ],
)
def test_third_order(name: str) -> None:
    c = call(name, PATTERNS["typical"], tasks=2, width=1)
    function, inputs = c.of_floats(c.run), c.inputs(requires_grad=True)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = grad(weighted(function(*inputs)), inputs, create_graph=True, allow_unused=True)
        return tuple(f for f in found if f is not None and f.requires_grad)

    assert gradgradcheck(gradients, inputs, fast_mode=True)


def derivatives(c: Call, of_twin: bool, order: int) -> list[Tensor]:
    """All derivatives of a weighted sum of the outputs, up to ``order``."""
    function, inputs = c.of_floats(c.twin if of_twin else c.run), c.inputs(requires_grad=True)
    value, found = weighted(function(*inputs)), []
    for step in range(order):
        if not value.requires_grad:
            break
        parts = grad(value, inputs, create_graph=True, allow_unused=True)
        parts = [torch.zeros_like(i) if p is None else p for i, p in zip(inputs, parts, strict=True)]
        found += parts
        value = weighted(parts, step + 1.0)
    return [f.detach() for f in found]


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in CALLS for d in cases.DTYPES if d == torch.float64 or n in FEW], ids=str
)
def test_derivatives_equal_the_reference(name: str, dtype: torch.dtype) -> None:
    half = dtype in (torch.bfloat16, torch.float16)
    patterns = PATTERNS.values() if dtype == torch.float64 and name in FEW else [PATTERNS["bipartite"]]
    shapes = [(p, 3, 2) for p in patterns]
    for pattern, tasks, width in [*shapes, (MEDIUM["power_law"], 2, 5)]:
        c = call(name, pattern, tasks, width, dtype)
        with case(pattern.name):
            got, want = (derivatives(c, of_twin, 1 if half else 3) for of_twin in (False, True))
            # Third derivatives add up what is already rounded.
            close(tuple(got), tuple(want), dtype, factor=4)


@pytest.mark.parametrize("name", CALLS)
def test_any_subset_of_inputs_may_require_grad(name: str) -> None:
    c = call(name, MEDIUM["typical"])
    function, whole = c.of_floats(c.run), c.inputs(requires_grad=True)
    want = grad(weighted(function(*whole)), whole)
    for mask in itertools.product([False, True], repeat=len(whole)):
        inputs = [i.requires_grad_(m) for i, m in zip(c.inputs(), mask, strict=True)]
        out = function(*inputs)
        with case(mask):
            assert any(o.requires_grad for o in outputs(out)) == any(mask)
            if not any(mask):
                continue
            weighted(out).backward()
            for i, w, m in zip(inputs, want, mask, strict=True):
                assert (i.grad is None) != m
                if m:
                    close(i.grad, w, torch.float64)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [n for n in CALLS if n.startswith(("spmm_backward", "relation_gate_backward_op-w"))])
def test_one_output_alone_may_be_used(name: str) -> None:
    c = call(name, MEDIUM["bipartite"])
    for k in range(len(c.of_floats(c.run)(*c.inputs()))):
        inputs, twins = c.inputs(requires_grad=True), c.inputs(requires_grad=True)
        got = grad(weighted(c.of_floats(c.run)(*inputs)[k]), inputs, allow_unused=True, create_graph=True)
        want = grad(weighted(c.of_floats(c.twin)(*twins)[k]), twins, allow_unused=True)
        with case("output", k):
            for g, w in zip(got, want, strict=True):
                assert (g is None) == (w is None)
                if g is not None and w is not None:
                    close(g.detach(), w, torch.float64)


@pytest.mark.parametrize("name", [n for n in CALLS if n.startswith("extreme")])
def test_the_winning_edge_has_no_gradient(name: str) -> None:
    c = call(name, MEDIUM["typical"])
    value, arg = c.of_floats(lambda *t: c.run(*t)[0])(*c.inputs(requires_grad=True)), c.run(*c.tensors)[1]
    assert value.requires_grad and not arg.requires_grad and not arg.is_floating_point()


@pytest.mark.parametrize("name", FEW)
def test_batched_gradients(name: str) -> None:
    """``is_grads_batched``: a batch of cotangents, at first and second order, is what a loop over them gives."""
    c = call(name, MEDIUM["bipartite"])
    function = c.of_floats(c.run)
    inputs = c.inputs(requires_grad=True)
    out = outputs(function(*inputs))[0]
    batch = torch.randn(3, *out.shape, generator=cases.generator(name), dtype=out.dtype)
    used = [
        i
        for i, g in zip(inputs, grad(out, inputs, batch[0], retain_graph=True, allow_unused=True), strict=True)
        if g is not None
    ]
    got = grad(out, used, batch, is_grads_batched=True, create_graph=True)
    for k in range(3):
        close(tuple(g[k].detach() for g in got), grad(out, used, batch[k], retain_graph=True), torch.float64)
    if not any(g.requires_grad for g in got):
        return
    second = grad(weighted(got), inputs, allow_unused=True, retain_graph=True)  # an operator may save its result
    rows = [grad(out, used, batch[k], create_graph=True) for k in range(3)]
    want = grad(weighted(tuple(torch.stack(r) for r in zip(*rows, strict=True))), inputs, allow_unused=True)
    close(tuple(s for s in second if s is not None), tuple(w for w in want if w is not None), torch.float64)


@pytest.mark.parametrize("name", FEW)
def test_no_grad_and_inference_mode(name: str) -> None:
    c = call(name, MEDIUM["typical"])
    want = c.run(*c.tensors)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = c.of_floats(c.run)(*c.inputs(requires_grad=mode is torch.no_grad))
        assert not any(o.requires_grad for o in outputs(got))
        close(tuple(o for o in outputs(got)), tuple(o for o in outputs(want) if o.is_floating_point()), torch.float64)


def test_a_graph_first_used_in_inference_mode_can_be_trained_on_later() -> None:
    graph = PATTERNS["typical"].graph()
    x = torch.randn(graph.num_src, 2)
    for reduce in cases.REDUCTIONS:
        with torch.inference_mode():
            ops.spmm(graph, x, None, reduce)
        ops.spmm(graph, x.requires_grad_(), None, reduce).sum().backward()
    assert x.grad is not None

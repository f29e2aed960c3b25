"""relu_sum: messages that are written out, sums by a loop, special values, memory, and what it refuses."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops.relu_sum import relu_sum_backward_op

pytestmark = pytest.mark.usefixtures("kernels")
DTYPE = torch.float64


def parts(graph: Graph, width: int, dtype: torch.dtype = DTYPE) -> tuple[Tensor, Tensor]:
    g = cases.generator("relu_sum")
    x, e = (torch.randn(n, width, generator=g, dtype=DTYPE).to(dtype) for n in (graph.num_src, graph.num_edges))
    return x, e


@pytest.mark.parametrize("name", ["typical", "parallel", "one_row", "one_source", "isolated", "bipartite"])
def test_values_and_gradients_by_a_loop(name: str) -> None:
    graph = cases.PATTERNS[name].graph()
    x, e = (v.requires_grad_() for v in parts(graph, 4))
    out = ops.relu_sum(graph, x, e)
    g = torch.randn(out.shape, generator=cases.generator(name), dtype=DTYPE)
    found = torch.autograd.grad(out, (x, e), g)
    y, d_x, d_e = torch.zeros_like(out), torch.zeros_like(x), torch.zeros_like(e)
    for m, (i, j) in enumerate(graph.edge_index().t().tolist()):
        total = (x[i] + e[m]).detach()
        y[j] += total.clamp(min=0)
        d_e[m] = g[j] * (total > 0)
        d_x[i] += d_e[m]
    close((out.detach(), *found), (y, d_x, d_e), DTYPE)


def test_nothing_of_the_size_of_the_edges_is_kept_but_their_features() -> None:
    graph = cases.MEDIUM["typical"].graph()
    leaves = [v.requires_grad_() for v in parts(graph, 32)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: (kept.append(v.data_ptr()), v)[1], lambda v: v):
        ops.relu_sum(graph, *leaves)
    assert kept == [v.data_ptr() for v in leaves]


def test_any_number_of_threads_gives_the_same_bits(threads: None) -> None:
    graph = cases.large("power_law", 300, 4000).graph()
    for width in (1, 15, 64, 300):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x, e = parts(graph, width, dtype)
            g = torch.randn(graph.num_dst, width, generator=cases.generator("g")).to(dtype)
            torch.set_num_threads(1)
            want = (ops.relu_sum(graph, x, e), *relu_sum_backward_op(graph, g, x, e, 3))
            for number in (2, 7):
                torch.set_num_threads(number)
                got = (ops.relu_sum(graph, x, e), *relu_sum_backward_op(graph, g, x, e, 3))
                with case(width, dtype, number):
                    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("width", [1, 5, 16, 40, 140])
def test_special_values_are_those_of_relu(width: int, kernels: ModuleType) -> None:
    """NaN is passed on, with its gradient; where a sum is 0 there is none; infinities stay; at every level."""
    values = [torch.nan, 0.0, -0.0, 1.0, torch.inf, -torch.inf, 1e-45]
    e = torch.tensor(values * 3).unsqueeze(1).repeat(1, width)
    x = torch.tensor([0.0, -1.0, torch.inf]).unsqueeze(1).repeat(1, width)
    ends = torch.stack([torch.arange(3).repeat_interleave(7), torch.arange(21)])
    graph, before = Graph.from_edge_index(ends, 3, 21), kernels.simd()
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            got, want = ([v.clone().requires_grad_() for v in (x, e)] for _ in range(2))
            out, twin = ops.relu_sum(graph, *got), reference.relu_sum(graph, *want)
            torch.testing.assert_close(out, twin, rtol=0, atol=0, equal_nan=True)
            out.sum().backward(), twin.sum().backward()
            for a, b in zip(got, want, strict=True):
                assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    finally:
        kernels.set_simd(before)


def test_types_are_promoted_and_gradients_come_back_in_their_own() -> None:
    graph = cases.PATTERNS["typical"].graph()
    x, e = (v.to(d).requires_grad_() for v, d in zip(parts(graph, 4), (torch.bfloat16, torch.float32), strict=True))
    out = ops.relu_sum(graph, x, e)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert (x.grad.dtype, e.grad.dtype) == (torch.bfloat16, torch.float32)  # type: ignore[union-attr]


def test_refused() -> None:
    graph = cases.PATTERNS["typical"].graph()
    x, e = parts(graph, 4)
    for args, error, text in (
        ((None, x, e), TypeError, "relu_sum: graph must be a fastgmtl.Graph, got NoneType"),
        ((graph, x.long(), e), TypeError, "relu_sum: x must be floating point, got int64"),
        ((graph, x, 3), TypeError, "relu_sum: e must be a tensor, got int"),
        ((graph, x[1:], e), ValueError, r"relu_sum: x must have shape \[num_src, d\] with num_src = 5, got \[4, 4\]"),
        ((graph, x, e[:, :2]), ValueError, r"relu_sum: e must have shape \[E, d\] = \[9, 4\], got \[9, 2\]"),
        ((graph, x, e.to("meta")), ValueError, "relu_sum: graph and tensors must be on one device, got cpu and meta"),
    ):
        with pytest.raises(error, match=text):
            ops.relu_sum(*args)

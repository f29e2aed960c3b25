"""gather_relu: the layer that it factorises, sums against a loop, special values, and what it refuses."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops.gather_relu import gather_relu_backward_op

pytestmark = pytest.mark.usefixtures("kernels")
DTYPE = torch.float64


def parts(graph: Graph, samples: int, width: int, dtype: torch.dtype = DTYPE) -> tuple[Tensor, Tensor, Tensor]:
    g = cases.generator("gather_relu")
    shapes = (samples, width), (graph.num_src, width), (graph.num_dst, width)
    h, s, t = (torch.randn(*shape, generator=g, dtype=DTYPE).to(dtype) for shape in shapes)
    return h, s, t


def test_it_is_a_linear_layer_of_all_concatenations() -> None:
    graph, g = cases.MEDIUM["bipartite"].graph(), cases.generator("layer")
    x, of_src, of_dst = (torch.randn(n, 3, generator=g, dtype=DTYPE) for n in (5, graph.num_src, graph.num_dst))
    weight, bias = torch.randn(8, 9, generator=g, dtype=DTYPE), torch.randn(8, generator=g, dtype=DTYPE)
    src, dst = graph.edge_index()
    wide = (graph.num_edges, 5, 3)
    pairs = torch.cat([x.expand(wide), of_src[src][:, None].expand(wide), of_dst[dst][:, None].expand(wide)], 2)
    wanted = torch.nn.functional.linear(pairs, weight, bias).relu()
    of_x, to_src, to_dst = weight.split(3, 1)
    close(ops.gather_relu(graph, x @ of_x.t() + bias, of_src @ to_src.t(), of_dst @ to_dst.t()), wanted, DTYPE)


@pytest.mark.parametrize("name", ["typical", "parallel", "one_row", "one_source", "isolated", "bipartite"])
def test_gradients_by_a_loop(name: str) -> None:
    graph = cases.PATTERNS[name].graph()
    h, s, t = (v.requires_grad_() for v in parts(graph, 3, 4))
    out = ops.gather_relu(graph, h, s, t)
    g = torch.randn(out.shape, generator=cases.generator(name), dtype=DTYPE)
    found = torch.autograd.grad(out, (h, s, t), g)
    wanted = [torch.zeros_like(v) for v in (h, s, t)]
    for m, (i, j) in enumerate(graph.edge_index().t().tolist()):
        for b in range(3):
            part = g[m, b] * (h[b] + s[i] + t[j] > 0)
            torch.testing.assert_close(out[m, b].detach(), (h[b] + s[i] + t[j]).detach().clamp(min=0))
            for total, row in zip(wanted, (b, i, j), strict=True):
                total[row] += part
    close(found, tuple(wanted), DTYPE)


def test_no_second_tensor_of_the_size_of_the_result_is_kept() -> None:
    graph = cases.MEDIUM["typical"].graph()
    leaves = [v.requires_grad_() for v in parts(graph, 16, 32)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: (kept.append(v.numel()), v)[1], lambda v: v):
        out = ops.gather_relu(graph, *leaves)
    assert out.requires_grad and sum(kept) <= sum(v.numel() for v in leaves) < out.numel() / 4


def test_many_threads_share_the_columns(threads: None) -> None:
    """More threads than there are chunks of rows: the same bits, for any width."""
    graph = cases.large("power_law", 300, 4000).graph()
    for width in (1, 15, 64, 100):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            h, s, t = parts(graph, 6, width, dtype)
            g = torch.randn(graph.num_edges, 6, width, generator=cases.generator("g")).to(dtype)
            torch.set_num_threads(1)
            want = (ops.gather_relu(graph, h, s, t), *gather_relu_backward_op(graph, g, h, s, t, 7))
            for number in (2, 9, 40):
                torch.set_num_threads(number)
                got = (ops.gather_relu(graph, h, s, t), *gather_relu_backward_op(graph, g, h, s, t, 7))
                with case(width, dtype, number):
                    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("width", [1, 5, 16, 40])
def test_special_values_are_those_of_relu(width: int, kernels: ModuleType) -> None:
    """NaN is passed on, with its gradient; where a sum is 0 there is none; infinities stay; at every level."""
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 1]]), 3, 2)
    h = torch.tensor([torch.nan, 0.0, -0.0, 1.0, torch.inf, -torch.inf, 1e-45]).unsqueeze(1).repeat(1, width)
    s, t = torch.tensor([0.0, -1.0, torch.inf]).unsqueeze(1).repeat(1, width), torch.zeros(2, width)
    before = kernels.simd()
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            got, want = ([v.clone().requires_grad_() for v in (h, s, t)] for _ in range(2))
            out, twin = ops.gather_relu(graph, *got), reference.gather_relu(graph, *want)
            torch.testing.assert_close(out, twin, rtol=0, atol=0, equal_nan=True)
            out.sum().backward(), twin.sum().backward()
            for a, b in zip(got, want, strict=True):
                assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    finally:
        kernels.set_simd(before)


def test_types_are_promoted_and_gradients_come_back_in_their_own() -> None:
    graph = cases.PATTERNS["typical"].graph()
    h, s, t = parts(graph, 3, 4)
    mixed = [v.to(d).requires_grad_() for v, d in ((h, torch.float32), (s, torch.bfloat16), (t, torch.float64))]
    out = ops.gather_relu(graph, *mixed)
    assert out.dtype == DTYPE
    out.sum().backward()
    assert all(v.grad is not None and v.grad.dtype == v.dtype for v in mixed)
    close(out.detach(), reference.gather_relu(graph, *mixed).detach(), DTYPE)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (1, 1)])
def test_empty_axes(shape: tuple[int, int]) -> None:
    for name in ("typical", "no_edges", "empty", "no_sources", "no_destinations"):
        graph = cases.PATTERNS[name].graph()
        leaves = [v.requires_grad_() for v in parts(graph, *shape)]
        out = ops.gather_relu(graph, *leaves)
        assert out.shape == (graph.num_edges, *shape)
        out.sum().backward()
        for leaf in leaves:
            assert leaf.grad is not None and leaf.grad.shape == leaf.shape
            assert graph.num_edges or not leaf.grad.any()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"graph": None}, TypeError, "graph must be a fastgmtl.Graph, got NoneType; build one with "),
        ({"h": torch.zeros(4)}, ValueError, r"h must have shape \[B, d\], got \[4\]$"),
        ({"s": torch.zeros(3, 4)}, ValueError, r"s must have shape \[num_src, d\] = \[7, 4\], got \[3, 4\]$"),
        ({"t": torch.zeros(3, 5)}, ValueError, r"t must have shape \[num_dst, d\] = \[3, 4\], got \[3, 5\]$"),
        ({"t": torch.zeros(3, 4).int()}, TypeError, r"t must be floating point, got int32; convert it with "),
        ({"h": [0.0]}, TypeError, "h must be a tensor, got list; wrap it in torch.as_tensor$"),
    ],
)
def test_refused(change: dict[str, object], error: type[Exception], text: str) -> None:
    graph = cases.PATTERNS["bipartite"].graph()
    given = {"graph": graph, "h": torch.zeros(2, 4), "s": torch.zeros(7, 4), "t": torch.zeros(3, 4)} | change
    with pytest.raises(error, match=f"^gather_relu: {text}"):
        ops.gather_relu(**given)  # type: ignore[arg-type]

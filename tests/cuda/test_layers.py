"""Layers on the GPU: as on the CPU, compiled, in mixed precision."""

from __future__ import annotations

from collections.abc import Iterator

import cases
import pytest
import torch
from cases import MEDIUM, Pattern
from torch import Tensor

from fastgmtl import Graph, nn, ops

FEATURES, CLASSES = 12, 6
LAYERS = ("GCNConv", "SAGEConv", "GINConv", "GraphConv", "GATConv", "GATv2Conv")
PATTERN = Pattern("layers", cases.power_law_edges(80, 900, cases.generator("layers")), 80, 80)


def layer(name: str, tasks: int | None) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "GINConv":
        return nn.GINConv(nn.Linear(FEATURES, CLASSES, num_tasks=tasks), num_tasks=tasks)
    return getattr(nn, name)(FEATURES, CLASSES, num_tasks=tasks)


def features(device: torch.device) -> Tensor:
    return torch.randn(80, FEATURES, generator=cases.generator("x")).to(device).requires_grad_()


def results(module: torch.nn.Module, x: Tensor, edges: object) -> list[Tensor]:
    out = module(x, edges)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), [x, *module.parameters()])]


def same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for g, w in zip(got, want, strict=True):
        scale = float(w.abs().max().clamp(min=1))
        torch.testing.assert_close(g.float().cpu(), w.float().cpu(), rtol=0, atol=tolerance * scale)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("tasks", [None, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_as_on_the_cpu(name: str, tasks: int | None, device: torch.device) -> None:
    """From an edge_index that is sorted there, and from a graph that was moved there."""
    want = results(layer(name, tasks), features(torch.device("cpu")), PATTERN.edge_index)
    for edges in (PATTERN.edge_index.to(device), PATTERN.graph().to(device)):
        same(results(layer(name, tasks).to(device), features(device), edges), want, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [n for n in LAYERS if n != "GATv2Conv"])  # gradients of its queries cancel
def test_mixed_precision(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """Parameters and their gradients stay float32, what is between is of the half type."""
    module, x, edges = layer(name, 2).to(device), features(device), PATTERN.graph().to(device)
    want = results(module, x, edges)
    with torch.autocast(device.type, dtype):
        got = results(module, x, edges)
    assert got[0].dtype == dtype
    assert all(g.dtype == torch.float32 for g in got[1:])
    # One rounding to 8 (11) bits after each product and each sum of neighbours.
    same(got, want, 4e-2 if dtype == torch.bfloat16 else 5e-3)


def test_mixed_precision_of_operators(device: torch.device) -> None:
    """A weight of float32 and features of a half type give what promotion gives, as elsewhere in PyTorch."""
    graph = MEDIUM["typical"].graph().to(device)
    x, w = torch.ones(60, 4, device=device), torch.ones(700, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        half = torch.mm(x, torch.eye(4, device=device))
        assert half.dtype == torch.bfloat16
        assert ops.spmm(graph, half).dtype == torch.bfloat16
        assert ops.spmm(graph, half, w).dtype == torch.float32
        assert ops.sddmm(graph, half, half).dtype == torch.bfloat16


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", LAYERS)
def test_compiled(name: str, device: torch.device) -> None:
    """By Inductor on a GPU; no break in the graph, gradients too."""
    module, x, edges = layer(name, 2).to(device), features(device), PATTERN.graph().to(device)
    want = results(module, x, edges)
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for _ in range(2):
        same(results(compiled, x, edges), want, 1e-5)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_with_cuda_graphs(gpu: torch.device) -> None:
    """mode="reduce-overhead": operators within Inductor's own captures, several times over."""
    module, x, edges = layer("GCNConv", 2).to(gpu), features(gpu), PATTERN.graph().to(gpu)
    want = results(module, x, edges)
    compiled = torch.compile(module, fullgraph=True, mode="reduce-overhead")
    for _ in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        same([r.clone() for r in results(compiled, x, edges)], want, 1e-5)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_under_mixed_precision(device: torch.device) -> None:
    module, x, edges = layer("SAGEConv", None).to(device), features(device), PATTERN.graph().to(device)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return module(x, edges)

    backend = "inductor" if device.type == "cuda" else "aot_eager"
    got, want = torch.compile(run, fullgraph=True, backend=backend)(x), run(x)
    assert got.dtype == want.dtype == torch.bfloat16
    same([got.detach()], [want.detach()], 2e-2)


def test_a_graph_moves_with_what_it_keeps(device: torch.device) -> None:
    graph = PATTERN.graph()
    graph.t()
    there = graph.to(device)
    assert isinstance(there, Graph) and there.device.type == device.type
    assert there.t().col.device.type == device.type and there.t().t() is there
    assert torch.equal(there.edge_index().cpu(), PATTERN.edge_index)

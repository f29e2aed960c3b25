"""The layers under second derivatives, torch.compile, torch.func and inference mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn
from torch._dynamo.testing import CompileCounterWithBackend

from fastgmtl import Graph, nn

N, F = 12, 6


def build(name: str, tasks: int | None, width: int = 3) -> tnn.Module:
    if name == "GINConv":
        h = tnn.Sequential(nn.Linear(F, width, num_tasks=tasks), tnn.Tanh())
        return nn.GINConv(h, train_eps=True, num_tasks=tasks)
    return getattr(nn, name)(F, width, num_tasks=tasks)


LAYERS = pytest.mark.parametrize("name", ["GCNConv", "SAGEConv", "GINConv", "GraphConv", "GATConv", "GATv2Conv"])
TASKS = pytest.mark.parametrize("tasks", [None, 2])


@LAYERS
@TASKS
@pytest.mark.parametrize("width", [2, 7])
def test_second_derivatives(name: str, tasks: int | None, width: int, edge_index: Tensor) -> None:
    layer = build(name, tasks, width).double()
    graph = Graph.from_edge_index(edge_index[:, :12], N, N)
    names = [k for k, _ in layer.named_parameters()]
    x = torch.randn(N, F, dtype=torch.float64, requires_grad=True)
    inputs: list[Tensor] = [x, *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    if name in ("GCNConv", "GraphConv"):
        inputs.append((torch.rand(12, *([tasks] if tasks else []), dtype=torch.float64) + 0.5).requires_grad_())

    def call(x: Tensor, *rest: Tensor) -> Tensor:
        params, weight = dict(zip(names, rest, strict=False)), rest[len(names) :]
        return torch.func.functional_call(layer, params, (x, graph, *weight)).square()

    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@LAYERS
@TASKS
@pytest.mark.parametrize("kind", ["edge_index", "graph"])
def test_compile_without_graph_breaks(name: str, tasks: int | None, kind: str, x: Tensor, edge_index: Tensor) -> None:
    torch._dynamo.reset()
    layer = build(name, tasks)
    edges: Any = Graph.from_edge_index(edge_index, N, N) if kind == "graph" else edge_index
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    expected = layer(x, edge_index)
    grads = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    for _ in range(3):
        out = compiled(x, edges)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        found = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        for a, b in zip(found, grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # Once, and for a Graph once more without the steps whose results it keeps.
    assert counter.frame_count <= (2 if kind == "graph" else 1)


@pytest.mark.parametrize("name", ["GCNConv", "GraphConv"])
def test_compile_with_weights(name: str, x: Tensor, edge_index: Tensor) -> None:
    torch._dynamo.reset()
    layer, weight = build(name, 2), torch.rand(edge_index.size(1), 2)
    graph = Graph.from_edge_index(edge_index, N, N)
    out = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, graph, weight)
    torch.testing.assert_close(out, layer(x, graph, weight), rtol=1e-5, atol=1e-5)


@LAYERS
@TASKS
def test_functional_gradients(name: str, tasks: int | None, x: Tensor, edge_index: Tensor) -> None:
    layer = build(name, tasks)
    fresh = Graph.from_edge_index(edge_index, N, N)  # first used under the transform, then outside of it
    params = dict(layer.named_parameters())

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, params, (x, fresh)).square().sum()

    found = torch.func.grad(loss)(params, x)
    layer(x, fresh).square().sum().backward()
    for key, p in params.items():
        torch.testing.assert_close(found[key], p.grad, rtol=1e-5, atol=1e-5)


@LAYERS
def test_per_sample_gradients(name: str, x: Tensor, edge_index: Tensor) -> None:
    layer = build(name, None)
    batch = torch.stack([x, 2 * x, x.flip(0)])
    params = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, params, (x, edge_index)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch)
    for i, sample in enumerate(batch):
        layer.zero_grad()
        layer(sample, edge_index).square().sum().backward()
        for key, p in layer.named_parameters():
            torch.testing.assert_close(found[key][i], p.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*invariant checks.*")
@LAYERS
@pytest.mark.parametrize("kind", ["edge_index", "graph", "sparse"])
def test_training_after_inference_mode(name: str, kind: str, edge_index: Tensor) -> None:
    layer = build(name, None)
    edges: Any = edge_index
    if kind == "graph":
        edges = Graph.from_edge_index(edge_index, N, N)
    elif kind == "sparse":
        edges = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(edge_index.size(1)), (N, N)).coalesce()
    x = torch.randn(N, F, requires_grad=True)
    with torch.inference_mode():
        first = layer(x, edges)
    out = layer(x, edges)
    out.sum().backward()
    assert torch.equal(first, out)
    assert x.grad is not None


def test_edges_made_or_changed_in_inference_mode(x: Tensor) -> None:
    layer = nn.SAGEConv(F, 3)
    with torch.inference_mode():
        edges = torch.tensor([[0, 1], [1, 2]])
        first = layer(x, edges)
        edges[0, 0] = 5
        second = layer(x, edges)
    assert not torch.equal(first[1], second[1])
    assert torch.equal(first[2:], second[2:])


def test_changed_edges_are_sorted_anew(x: Tensor) -> None:
    layer, edges = nn.SAGEConv(F, 3), torch.tensor([[0, 1], [1, 2]])
    first = layer(x, edges)
    edges[0, 0] = 5
    assert not torch.equal(layer(x, edges)[1], first[1])


@TASKS
def test_same_bits_from_run_to_run(tasks: int | None, x: Tensor, edge_index: Tensor) -> None:
    for name in ("GCNConv", "SAGEConv", "GINConv", "GraphConv", "GATConv", "GATv2Conv"):
        layer = build(name, tasks)
        runs = []
        for _ in range(2):
            out = layer(x, edge_index)
            runs.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))

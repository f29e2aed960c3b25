"""influence against the dense Jacobian, hops against powers of the adjacency matrix, and the roads of a city."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, gradients, nn
from fastgmtl.data import load
from fastgmtl.gradients.influence import neighbourhoods

N, F = 14, 3


@pytest.fixture
def edges() -> Tensor:
    """Directed, with parallel edges and a loop; nodes 12 and 13 are joined to each other alone."""
    g = torch.Generator().manual_seed(2)
    some = torch.randint(12, (2, 16), generator=g)
    return torch.cat([some, torch.tensor([[3, 3, 5, 12], [4, 4, 5, 13]])], 1)


class Model(tnn.Module):
    """Layers of GCN, which know degrees, and a head: [N, 4], or [N, 2, 2]."""

    def __init__(self, layers: int, tasks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = tnn.ModuleList(nn.GCNConv(F, F) for _ in range(layers))
        self.head, self.tasks = tnn.Linear(F, 4), tasks
        self.double()

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        for conv in self.convs:
            x = torch.tanh(conv(x, edge_index))
        out = self.head(x)
        return out.unflatten(1, (2, 2)) if self.tasks else out


def distances(edges: Tensor, hops: int) -> Tensor:
    """d(u -> v) [v, u], -1 beyond."""
    a = torch.eye(N, dtype=torch.float64)
    step = torch.zeros(N, N).double().index_put((edges[1], edges[0]), torch.ones(edges.size(1)).double())
    found = torch.full((N, N), -1)
    for hop in range(hops + 1):
        found[(a > 0) & (found < 0)] = hop
        a = step @ a
    return found


@pytest.mark.parametrize("hops", [0, 1, 3, 20])
def test_exact_hops(edges: Tensor, hops: int) -> None:
    nodes = torch.tensor([4, 13, 0, 4])
    root, node, hop = neighbourhoods(Graph.from_edge_index(edges, N, N), nodes, hops)
    want = distances(edges, hops)[nodes]
    found = torch.full_like(want, -1)
    found[root, node] = hop
    assert torch.equal(found, want) and len(root) == int((want >= 0).sum())


@pytest.mark.parametrize("kind", ["edge_index", "graph"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_is_the_dense_jacobian(edges: Tensor, layers: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all nodes, a few at a time, and for each task; degrees do not see where the neighbourhood ends."""
    monkeypatch.setattr(importlib.import_module("fastgmtl.gradients.influence"), "ROOTS", 5)
    given: Any = edges if kind == "edge_index" else Graph.from_edge_index(edges, N, N)
    model = Model(layers)
    x = torch.randn(N, F, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v, given), x).abs().sum(-1)  # [v, i, u]
    sizes = (1, 3)
    want = torch.stack([part.sum(1) for part in jacobian.split(sizes, 1)], -1)  # [v, u, t]
    found = gradients.influence(model, x, given, torch.arange(N), layers, task_sizes=sizes)
    dense = torch.zeros(N, N, 2).double()
    dense[found.root, found.node] = found.value
    torch.testing.assert_close(dense, want, rtol=1e-10, atol=1e-10)
    far = distances(edges, layers)
    total = torch.stack([(want * (far == k).unsqueeze(-1)).sum(1) for k in range(layers + 1)], -1)
    torch.testing.assert_close(found.total, total, rtol=1e-10, atol=1e-10)
    weights = torch.arange(layers + 1).double()
    torch.testing.assert_close(found.receptive_field, ((total * weights).sum(-1) / total.sum(-1)).mean(0))
    torch.testing.assert_close(found.curve, total.mean(0) / total.mean(0)[:, :1])
    both = gradients.influence(Model(layers, tasks=True), x, given, torch.tensor([3, 3]), layers)
    again = gradients.influence(model, x, given, torch.tensor([3]), layers, task_sizes=(2, 2))
    assert torch.equal(both.total[0], both.total[1])
    torch.testing.assert_close(both.total[:1], again.total, rtol=1e-10, atol=1e-10)


def test_a_deeper_model_needs_a_wider_look(edges: Tensor) -> None:
    """Three layers, one hop: with radius 4 what is within one hop is exact, with the default it is not."""
    model, x, nodes = Model(3), torch.randn(N, F, dtype=torch.float64), torch.arange(N)
    want = gradients.influence(model, x, edges, nodes, 3).total[..., :2]
    torch.testing.assert_close(gradients.influence(model, x, edges, nodes, 1, radius=4).total, want)
    assert not torch.allclose(gradients.influence(model, x, edges, nodes, 1).total, want)


def test_what_does_not_depend_on_x(edges: Tensor) -> None:
    found = gradients.influence(lambda x, _: 0 * x, torch.ones(N, F), edges, torch.tensor([1]), 2)
    assert not found.total.any() and found.receptive_field.tolist() == [0.0]


def test_refused(edges: Tensor) -> None:
    model, x, nodes = Model(1), torch.zeros(N, F, dtype=torch.float64), torch.tensor([1])
    run = gradients.influence
    for kind, call, message in (
        (TypeError, lambda: run(model, x.long(), edges, nodes, 1), "x must be floating point, got torch.int64"),
        (TypeError, lambda: run(model, x, edges, nodes.int(), 1), "nodes must be int64, got torch.int32"),
        (ValueError, lambda: run(model, x[:, 0], edges, nodes, 1), r"x must have shape \[N, F\], got \[14\]"),
        (ValueError, lambda: run(model, x, edges, nodes[:0], 1), r"nodes must have shape \[V\] with V > 0, got \[0\]"),
        (ValueError, lambda: run(model, x, edges, nodes, 2, radius=1), "radius at least hops, got 2 and 1"),
        (ValueError, lambda: run(model, x, edges, nodes, 1, task_sizes=(1, 2)), r"4 columns, got \[1, 2\]"),
        (ValueError, lambda: run(Model(1, True), x, edges, nodes, 1, task_sizes=(4,)), "task_sizes must be None"),
        (ValueError, lambda: run(lambda v, _: v[:, 0], x, edges, nodes, 1), r"the model must give \[N, C\]"),
        (IndexError, lambda: run(model, x, edges, nodes + N, 1), "nodes must be in 0..13, got 15"),
    ):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.usefixtures("data_root")
def test_deeper_models_look_further_on_roads() -> None:
    """Trained for a few steps on Huangpu, with a head for each of its tasks: R grows with the number of layers."""
    data, found = load("city:huangpu"), []
    x = (data.x - data.x.mean(0)) / data.x.std(0).clamp(min=1e-6)
    task = data.tasks["eccentricity_class"]
    for depth in (2, 4):
        torch.manual_seed(0)
        convs = tnn.ModuleList(nn.SAGEConv(37 if i == 0 else 16, 16) for i in range(depth))
        head = tnn.Linear(16, 11)
        optimizer = torch.optim.Adam([*convs.parameters(), *head.parameters()], 0.01)

        def model(x: Tensor, graph: Any, convs: tnn.ModuleList = convs, head: tnn.Module = head) -> Tensor:
            for conv in convs:
                x = conv(x, graph).relu()
            return head(x)

        losses = []
        for _ in range(15):
            total, count = task.loss(model(x, data.graph)[:, :10], "train")
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
            losses.append(float(total.detach()))
        assert losses[-1] < losses[0]
        nodes = torch.arange(0, 5268, 300)
        found.append(gradients.influence(model, x, data.graph, nodes, depth, task_sizes=(10, 1)).receptive_field)
    assert bool((found[1] > found[0]).all()) and bool((found[0] > 0).all())

"""TransformerConv: edge features, tasks, derivatives, what it refuses and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, nn

N, F, D, T = 12, 6, 3, 2


def test_edge_features_as_in_pyg(x: Tensor, edge_index: Tensor) -> None:
    pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of this test")
    for keywords in ({}, {"beta": True}, {"concat": False, "root_weight": False}, {"flow": "target_to_source"}):
        theirs, ours = (m.TransformerConv(F, 4, 2, edge_dim=D, **keywords).double() for m in (pyg, nn))
        ours.load_state_dict(theirs.state_dict())
        given = [x.double().requires_grad_(), torch.randn(edge_index.size(1), D, dtype=torch.float64).requires_grad_()]
        found = []
        for layer in (ours, theirs):
            out, (edges, weight) = layer(given[0], edge_index, given[1], return_attention_weights=True)
            assert torch.equal(edges, edge_index)
            loss = (out * torch.arange(out.numel()).view_as(out).sin()).sum()
            inputs = [*given, *layer.parameters()]
            grads = torch.autograd.grad(loss, inputs, allow_unused=True)
            grads = tuple(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))
            found.append((out, weight, *grads))
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("edge_dim", [None, D])
def test_tasks_are_separate_layers(per_task: bool, edge_dim: int | None, edge_index: Tensor) -> None:
    layers = [nn.TransformerConv(F, 4, 2, edge_dim=edge_dim, beta=True) for _ in range(T)]
    joint = nn.TransformerConv(F, 4, 2, edge_dim=edge_dim, beta=True, num_tasks=T)
    states = [layer.state_dict() for layer in layers]
    joint.load_state_dict({k: torch.stack([state[k] for state in states]) for k in joint.state_dict()})
    x = torch.randn(N, T, F) if per_task else torch.randn(N, F)
    features = None if edge_dim is None else torch.randn(edge_index.size(1), D)
    expected = [layer(x[:, t] if per_task else x, edge_index, features) for t, layer in enumerate(layers)]
    torch.testing.assert_close(joint(x, edge_index, features), torch.stack(expected, 1), rtol=1e-5, atol=1e-5)


def test_second_order(edge_index: Tensor) -> None:
    layer = nn.TransformerConv(3, 2, 2, edge_dim=2).double()
    graph = Graph.from_edge_index(edge_index, N, N)
    x = torch.randn(N, 3, dtype=torch.float64, requires_grad=True)
    features = torch.randn(edge_index.size(1), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: layer(a, graph, b), (x, features))
    assert torch.autograd.gradgradcheck(lambda a, b: layer(a, graph, b), (x, features))


def test_nothing_of_the_size_of_edges_times_width_is_kept() -> None:
    edges, heads, width = torch.randint(0, 50, (2, 3000)), 4, 32
    layer = nn.TransformerConv(F, width, heads, edge_dim=2)
    x, features = torch.randn(50, F, requires_grad=True), torch.randn(3000, 2)
    kept: list[int] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        layer(x, edges, features).sum().backward()
    assert kept and max(kept) <= 3000 * heads * 2


X, EDGES = torch.zeros(3, F), torch.tensor([[0, 1], [1, 2]])
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "aggr": (lambda: nn.TransformerConv(F, 4, aggr="mean"), "aggr must be add or sum, got 'mean'"),
    "pair": (lambda: nn.TransformerConv(F, 4)((X, None), EDGES), "got x_dst None"),
    "no map": (
        lambda: nn.TransformerConv(F, 4)(X, EDGES, torch.ones(2, D)),
        "edge_attr must be None for a layer that was made without edge_dim",
    ),
    "no features": (lambda: nn.TransformerConv(F, 4, edge_dim=D)(X, EDGES), "edge_attr must be given"),
    "features": (
        lambda: nn.TransformerConv(F, 4, edge_dim=D)(X, EDGES, torch.ones(2, 5)),
        r"edge_attr must have shape \[E, D\] = \[2, 3\], got \[2, 5\]",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_refused(case: str) -> None:
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"TransformerConv: .*{message}"):
        call()

"""num_tasks=T against T separate layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn

N, F, T = 12, 6, 3

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "gcn-narrow": ("GCNConv", 1, {}),
    "gcn-middle": ("GCNConv", 4, {}),  # narrower than F, but not for all tasks together
    "gcn-wide": ("GCNConv", 9, {"bias": False}),
    "gcn-plain": ("GCNConv", 4, {"normalize": False}),
    "sage-mean": ("SAGEConv", 1, {}),
    "sage-sum": ("SAGEConv", 4, {"aggr": "sum", "normalize": True}),
    "sage-max": ("SAGEConv", 4, {"aggr": "max"}),
    "sage-project": ("SAGEConv", 4, {"project": True}),
    "graph-add": ("GraphConv", 1, {}),
    "graph-mean": ("GraphConv", 9, {"aggr": "mean"}),
    "graph-min": ("GraphConv", 4, {"aggr": "min", "bias": False}),
    "gat": ("GATConv", 4, {}),
    "gat-heads": ("GATConv", 3, {"heads": 2, "concat": False, "residual": True}),
    "gatv2": ("GATv2Conv", 4, {"heads": 2, "concat": False}),
    "gatv2-shared": ("GATv2Conv", 3, {"share_weights": True, "bias": False}),
    "transformer": ("TransformerConv", 4, {"heads": 2, "concat": False, "beta": True}),
    "gin": ("GINConv", 4, {}),
    "gin-eps": ("GINConv", 4, {"train_eps": True, "eps": 0.5}),
}


def make(case: str, num_tasks: int | None) -> tnn.Module:
    name, width, kwargs = CASES[case]
    if name != "GINConv":
        return getattr(nn, name)(F, width, num_tasks=num_tasks, **kwargs)
    h = tnn.Sequential(nn.Linear(F, 5, num_tasks=num_tasks), tnn.ReLU(), nn.Linear(5, width, num_tasks=num_tasks))
    return nn.GINConv(h, num_tasks=num_tasks, **kwargs)


def stacked_parameters(joint: tnn.Module, layers: list[tnn.Module]) -> dict[str, Tensor]:
    each = [dict(layer.named_parameters()) for layer in layers]
    return {k: torch.stack([parameters[k] for parameters in each]) for k, _ in joint.named_parameters()}


def stacked(case: str) -> tuple[tnn.Module, list[tnn.Module]]:
    """A layer of T tasks with the parameters of T layers, which are random, biases and eps as well."""
    layers, joint = [make(case, None) for _ in range(T)], make(case, T)
    for layer in layers:
        for p in layer.parameters():
            tnn.init.normal_(p)
    state = stacked_parameters(joint, layers)
    missing, unexpected = joint.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"eps", *(f"lin_r.{k}" for k in ("weight", "bias") if "shared" in case)}
    return joint, layers


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("per_task", [False, True], ids=["shared", "per-task"])
@pytest.mark.parametrize("weights", ["none", "E", "ET"])
def test_equals_separate_layers(case: str, per_task: bool, weights: str, edge_index: Tensor) -> None:
    weighted = case.startswith(("gcn", "graph"))
    if weights != "none" and not weighted:
        joint, _ = stacked(case)
        with pytest.raises(TypeError, match="edge_weight"):
            joint(torch.randn(N, F), edge_index, edge_weight=torch.ones(edge_index.size(1)))
        return
    joint, layers = stacked(case)
    edges = edge_index.unique(dim=1)  # without ties of parallel edges, whose gradients have no single truth
    graph = Graph.from_edge_index(edges, N, N)
    x = torch.randn(N, T, F, requires_grad=True) if per_task else torch.randn(N, F, requires_grad=True)
    weight = None if weights == "none" else torch.rand(edges.size(1), *([T] if weights == "ET" else []))
    weight = None if weight is None else weight.requires_grad_()
    args = () if weight is None else (weight,)
    out = joint(x, graph, *args)
    expected = []
    for t, layer in enumerate(layers):
        own = () if weight is None else (weight[:, t] if weights == "ET" else weight,)
        expected.append(layer(x[:, t] if per_task else x, graph, *own))
    want = torch.stack(expected, dim=1)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)

    probe = torch.randn_like(out)
    inputs = [x, *args]
    names = [k for k, _ in joint.named_parameters()]
    ours = torch.autograd.grad((out * probe).sum(), [*inputs, *joint.parameters()])
    each = [dict(layer.named_parameters())[k] for k in names for layer in layers]
    theirs = torch.autograd.grad((want * probe).sum(), [*inputs, *each])
    rest = theirs[len(inputs) :]
    theirs = (*theirs[: len(inputs)], *(torch.stack(rest[i : i + T]) for i in range(0, len(rest), T)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["SAGEConv", "GraphConv", "GINConv"])
@pytest.mark.parametrize("shapes", [(2, 2), (3, 2), (2, 3), (3, 3), (2, 0), (3, 0)])
@pytest.mark.parametrize("train_eps", [False, True])
def test_bipartite(name: str, shapes: tuple[int, int], train_eps: bool) -> None:
    if train_eps and name != "GINConv":
        train_eps = False
    edges = torch.stack([torch.randint(0, 9, (20,)), torch.randint(0, 4, (20,))])
    graph = Graph.from_edge_index(edges, 9, 5)

    def features(rows: int, rank: int) -> Tensor | None:
        return None if rank == 0 else torch.randn(rows, F) if rank == 2 else torch.randn(rows, T, F)

    x = (features(9, shapes[0]), features(5, shapes[1]))

    def build(tasks: int | None) -> tnn.Module:
        if name == "GINConv":
            return nn.GINConv(nn.Linear(F, 4, num_tasks=tasks), 0.5, train_eps, num_tasks=tasks)
        return getattr(nn, name)((F, F), 4, num_tasks=tasks)

    joint, layers = build(T), [build(None) for _ in range(T)]
    state = stacked_parameters(joint, layers)
    joint.load_state_dict(state, strict=False)
    expected = [
        layer(tuple(p if p is None or p.dim() == 2 else p[:, t] for p in x), graph) for t, layer in enumerate(layers)
    ]
    torch.testing.assert_close(joint(x, graph), torch.stack(expected, dim=1), rtol=1e-5, atol=1e-5)


def test_shared_features_are_aggregated_once(monkeypatch: pytest.MonkeyPatch, x: Tensor, edge_index: Tensor) -> None:
    from fastgmtl.nn import conv

    seen, spmm = [], conv.spmm

    def recorded(graph: Graph, features: Tensor, *args: Any) -> Tensor:
        seen.append(tuple(features.shape))
        return spmm(graph, features, *args)

    monkeypatch.setattr(conv, "spmm", recorded)
    for case, shape in {
        "gcn-wide": (N, F),
        "gcn-middle": (N, F),
        "gcn-narrow": (N, T, 1),
        "sage-mean": (N, T, 1),
        "sage-max": (N, F),
        "graph-mean": (N, F),
        "gin": (N, F),
        "gin-eps": (N, F),
    }.items():
        seen.clear()
        make(case, T)(x, edge_index)
        assert seen == [shape], case


@pytest.mark.parametrize("case", CASES)
def test_one_task_and_no_nodes(case: str, x: Tensor, edge_index: Tensor) -> None:
    name, width, kwargs = CASES[case]
    if name == "GINConv":
        layer = nn.GINConv(nn.Linear(F, width, num_tasks=1), num_tasks=1, **kwargs)
    else:
        layer = getattr(nn, name)(F, width, num_tasks=1, **kwargs)
    assert layer(x, edge_index).shape == (N, 1, width)
    none = torch.empty(2, 0, dtype=torch.long)
    assert layer(torch.empty(0, F), none).shape == (0, 1, width)
    assert layer(torch.empty(0, 1, F), none).shape == (0, 1, width)
    assert layer(x[:1], none).shape == (1, 1, width)


def test_parameters_keep_their_names_and_get_a_leading_axis() -> None:
    for case in CASES:
        single, joint = make(case, None), make(case, T)
        assert list(single.state_dict()) == list(joint.state_dict())
        for (_, a), (_, b) in zip(single.named_parameters(), joint.named_parameters(), strict=True):
            assert b.shape == (T, *a.shape)


def test_every_task_is_drawn_from_the_distribution_of_one_layer() -> None:
    single, joint = nn.GCNConv(40, 60), nn.GCNConv(40, 60, num_tasks=8)
    bound = single.lin.weight.abs().max()
    for weight in joint.lin.weight:
        assert 0.95 * bound < weight.abs().max() < 1.05 * bound
        assert abs(weight.mean()) < 0.05 * bound
    assert not torch.equal(joint.lin.weight[0], joint.lin.weight[1])
    lin = nn.Linear(40, 60, num_tasks=8)
    assert lin.weight.abs().max() <= 40**-0.5
    assert lin.bias.abs().max() <= 40**-0.5


def test_lazy(x: Tensor, edge_index: Tensor) -> None:
    for name in ("GCNConv", "SAGEConv", "GraphConv", "GATConv", "GATv2Conv"):
        layer = getattr(nn, name)(-1, 4, num_tasks=T)
        copy = getattr(nn, name)(-1, 4, num_tasks=T)
        out = layer(x, edge_index)
        assert out.shape == (N, T, 4)
        copy.load_state_dict(layer.state_dict())
        assert torch.equal(copy(x, edge_index), out)

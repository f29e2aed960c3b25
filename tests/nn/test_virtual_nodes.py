"""VirtualNodes against the formula, node by node; a batch of graphs against each by itself; the method star."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl import nn

D, G, T = 8, 3, 3
BATCH = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3])  # graph 1 has no nodes
N = len(BATCH)


def make(num_virtual: int = 1, **kwargs: Any) -> nn.VirtualNodes:
    return nn.VirtualNodes(D, num_virtual, **kwargs).double()


def formula(layer: nn.VirtualNodes, x: Tensor, batch: Tensor, s: Tensor, back: Tensor) -> Tensor:
    """Loops over graphs, virtual nodes (or tasks) and nodes; s and back are [N, G]."""
    tasks = layer.num_tasks
    w1, w2 = layer.lin1.weight, layer.lin2.weight
    out = x.clone() if tasks is None else (x if x.dim() == 3 else x.unsqueeze(1).expand(-1, tasks, -1)).clone()
    for b in batch.unique():
        nodes = (batch == b).nonzero()[:, 0].tolist()
        for g in range(s.size(1)):
            each = [x[v] if x.dim() == 2 else x[v, g] for v in nodes]
            first, second = (w1, w2) if tasks is None else (w1[g], w2[g])
            z = sum(s[v, g] * (first @ h) for v, h in zip(nodes, each, strict=True))
            z = z / len(nodes) if layer.aggr == "mean" else z
            for v in nodes:
                said = back[v, g] * (second @ z)
                if tasks is None:
                    out[v] = out[v] + said
                else:
                    out[v, g] = out[v, g] + said
    return out


def inputs(tasks: bool, weighted: bool, count: int) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(N, *([T] if tasks else []), D, dtype=torch.float64)
    return x, torch.rand(N, count, dtype=torch.float64) if weighted else None


@pytest.mark.parametrize("batch", [BATCH, None])
@pytest.mark.parametrize("aggr", ["mean", "sum"])
@pytest.mark.parametrize(("count", "weighted"), [(1, False), (1, True), (G, True)])
def test_layer_is_the_formula(count: int, weighted: bool, aggr: str, batch: Tensor | None) -> None:
    layer, (x, weight) = make(count, aggr=aggr, hidden_channels=2), inputs(False, weighted, count)
    s = torch.ones(N, count).double() if weight is None else weight
    want = formula(layer, x, torch.zeros(N).long() if batch is None else batch, s, s)
    torch.testing.assert_close(layer(x, batch, weight=weight), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [BATCH, None])
@pytest.mark.parametrize("per_task", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_virtual_node_of_each_task(weighted: bool, per_task: bool, batch: Tensor | None) -> None:
    layer, (x, weight) = make(num_tasks=T), inputs(per_task, weighted, T)
    s = torch.ones(N, T).double() if weight is None else weight
    want = formula(layer, x, torch.zeros(N).long() if batch is None else batch, s, s)
    out = layer(x, batch, weight=weight)
    assert out.shape == (N, T, D)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tasks", [None, T])
def test_learned_weights(tasks: int | None) -> None:
    layer = make(1 if tasks else G, num_nodes=N, embedding_dim=2, num_tasks=tasks)
    x, _ = inputs(False, False, 1)
    s, back = layer.weights()
    assert layer.nodes is not None and layer.virtual is not None
    for k, found in enumerate((s, back)):
        want = torch.relu(layer.nodes[k] @ layer.virtual[k].T).softmax(1)
        torch.testing.assert_close(found, want)
    assert not torch.equal(s, back)
    want = formula(layer, x, torch.zeros(N).long(), s, back)
    torch.testing.assert_close(layer(x), want, rtol=1e-10, atol=1e-10)


def test_order_of_nodes_and_number_of_graphs_do_not_matter() -> None:
    layer, (x, weight) = make(G), inputs(False, True, G)
    order = torch.randperm(N)
    want = layer(x, BATCH, weight=weight)[order]
    found = layer(x[order], BATCH[order], batch_size=9, weight=weight[order])
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [BATCH, None])
@pytest.mark.parametrize("tasks", [None, T])
def test_derivatives(tasks: int | None, batch: Tensor | None) -> None:
    layer = make(1 if tasks else G, num_tasks=tasks)
    x, weight = inputs(bool(tasks), True, G)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return layer(x, batch, 4, weight)

    values = (x.requires_grad_(), weight.requires_grad_())  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(run, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, values, fast_mode=True)


def test_any_two_nodes_of_a_graph_reach_each_other_and_no_others() -> None:
    layer, (x, _) = make(), inputs(False, False, 1)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v, BATCH), x).abs().sum((1, 3))
    assert torch.equal(jacobian > 0, BATCH.unsqueeze(0) == BATCH.unsqueeze(1))


def test_empty() -> None:
    none = torch.zeros(0, dtype=torch.long)
    for batch in (none, None):
        assert make()(torch.zeros(0, D).double(), batch).shape == (0, D)
        assert make(num_tasks=T)(torch.zeros(0, D).double(), batch).shape == (0, T, D)


def test_refused() -> None:
    x = torch.zeros(N, D).double()
    for call, message in (
        (lambda: make(aggr="max"), "aggr must be one of mean, sum, got 'max'"),
        (lambda: make(2, num_tasks=2), "num_virtual must be 1 with num_tasks, one for each, got 2"),
        (lambda: make(0), "num_virtual must be an integer of at least 1, got 0"),
        (lambda: make(2)(x), "2 virtual nodes without weights are equal; give weight"),
        (lambda: make()(x[:, :2]), r"x must have shape \[N, d\] and d = 8, got \[9, 2\]"),
        (lambda: make(num_tasks=2)(x.unsqueeze(1)), r"x must have shape \[N, d\] or \[N, T, d\] with T = 2"),
        (lambda: make()(x, BATCH[1:]), r"batch must have shape \[N\] = \[9\], got \[8\]"),
        (lambda: make(2)(x, weight=x), r"weight must have shape \[N, G\] = \[9, 2\], got \[9, 8\]"),
        (lambda: make(num_nodes=5)(x), "its weights are learned for 5 nodes, got 9 nodes"),
        (lambda: make(num_nodes=N)(x, weight=x[:, :1]), "its weights are learned for 9 nodes, got a weight"),
        (lambda: make().weights(), "weights are learned with num_nodes=N only"),
    ):
        with pytest.raises(ValueError, match=f"VirtualNodes: {message}"):
            call()


def test_repr_and_reset() -> None:
    layer = nn.VirtualNodes(D, 2, num_nodes=5)
    assert repr(layer).startswith("VirtualNodes(\n  8, num_virtual=2, aggr=mean")
    assert "8, aggr=mean, num_tasks=2" in repr(nn.VirtualNodes(D, num_tasks=2))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.reset_parameters()
    assert not any(torch.equal(v, before[k]) for k, v in layer.state_dict().items())

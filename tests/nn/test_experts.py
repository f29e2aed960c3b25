"""Experts and gates against their formulas, over layers of the package and over plain linear maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgmtl import Graph
from fastgmtl.nn import PLE, GCNConv, Linear, MMoE, SharedBottom

N, F, C, T = 7, 4, 3, 2


@pytest.fixture
def graph() -> Graph:
    g = torch.Generator().manual_seed(0)
    return Graph.from_edge_index(torch.randint(N, (2, 20), generator=g), N)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, F, generator=torch.Generator().manual_seed(1))


class Experts(nn.Module):
    """Linear maps with a set of weights for each expert; x is shared by them or has an axis of them."""

    def __init__(self, number: int, width: int = F) -> None:
        super().__init__()
        self.lin = Linear(width, C, num_tasks=number)

    def forward(self, x: Tensor, more: float = 0.0) -> Tensor:
        return self.lin(x) + more

    def one(self, k: int, x: Tensor) -> Tensor:
        return x @ self.lin.weight[k].T + self.lin.bias[k]  # type: ignore[index]


def test_shared_bottom_is_one_layer_for_all(graph: Graph, x: Tensor) -> None:
    layer = GCNConv(F, C)
    out = SharedBottom(layer, T)(x, graph)
    assert out.shape == (N, T, C)
    for t in range(T):
        assert torch.equal(out[:, t], layer(x, graph))


def test_mmoe_mixes_experts_by_node(x: Tensor) -> None:
    experts = Experts(5)
    mixture = MMoE(experts, F, 5, T)
    out = mixture(x, more=1.0)
    for t in range(T):
        share = (x @ mixture.gate.weight[t].T).softmax(-1)
        want = sum(share[:, s : s + 1] * (experts.one(s, x) + 1.0) for s in range(5))
        torch.testing.assert_close(out[:, t], want)


def test_mmoe_over_a_layer_of_the_package(graph: Graph, x: Tensor) -> None:
    mixture = MMoE(GCNConv(F, C, num_tasks=3), F, 3, T)
    out = mixture(x, graph)
    assert out.shape == (N, T, C)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixture.parameters())


def test_one_expert_is_a_shared_bottom(graph: Graph, x: Tensor) -> None:
    layer = GCNConv(F, C, num_tasks=1)
    torch.testing.assert_close(MMoE(layer, F, 1, T)(x, graph), layer(x, graph).expand(-1, T, -1))


@pytest.mark.parametrize(("own", "shared"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_ple_is_its_formula(x: Tensor, own: int, shared: int, last: bool, first: bool) -> None:
    experts = Experts(T * own + shared)
    level = PLE(experts, F, T, own, shared, last)
    branches = x if first else torch.randn(N, T + 1, F, generator=torch.Generator().manual_seed(2))
    out = level(branches)
    seen = [x] * (T + 1) if first else list(branches.unbind(1))
    assert out.shape == (N, T if last else T + 1, C)
    everything = [experts.one(t * own + k, seen[t]) for t in range(T) for k in range(own)]
    everything += [experts.one(T * own + k, seen[T]) for k in range(shared)]
    for t in range(T):
        mine = everything[t * own : (t + 1) * own] + everything[T * own :]
        share = (seen[t] @ level.gate.weight[t].T).softmax(-1)
        torch.testing.assert_close(out[:, t], sum(share[:, k : k + 1] * m for k, m in enumerate(mine)))
    if not last:
        share = (seen[T] @ level.shared_gate.weight.T).softmax(-1)  # type: ignore[union-attr]
        torch.testing.assert_close(out[:, T], sum(share[:, k : k + 1] * m for k, m in enumerate(everything)))


def test_levels_of_ple_over_layers(graph: Graph, x: Tensor) -> None:
    levels = [PLE(GCNConv(F, C, num_tasks=T + 1), F, T), PLE(GCNConv(C, C, num_tasks=T + 1), C, T, last=True)]
    out = levels[1](levels[0](x, graph), graph)
    assert out.shape == (N, T, C)
    # A task that does not count gives no gradient to its own experts of the last level.
    out[:, 0].sum().backward()
    own = levels[1].layer.lin.weight.grad
    assert own[0].any() and own[2].any() and not own[1].any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MMoE(Experts(2), F, 0, T), "MMoE: num_tasks must be None or an integer of at least 1, got 0"),
        (lambda: SharedBottom(Experts(2), None), "SharedBottom: num_tasks must be an integer of at least 1, got None"),
        (
            lambda: MMoE(Experts(2), F, 3, T)(torch.zeros(N, F)),
            "MMoE: layer must return [N, S, C] with S = 3 experts, got [7, 2, 3]; give it num_tasks=3",
        ),
        (
            lambda: PLE(Experts(3), F, T)(torch.zeros(N, T, F)),
            "PLE: x must have shape [N, F] or [N, T + 1, F] with T = 2, got [7, 2, 4]",
        ),
    ],
)
def test_what_they_refuse(make: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text

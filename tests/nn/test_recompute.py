from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgmtl import Graph
from fastgmtl.nn import SAGEConv, recompute


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.dropout = SAGEConv(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        self.calls += 1
        return self.dropout(self.norm(self.conv(x, graph)).tanh())


@pytest.fixture
def graph() -> Graph:
    return Graph.from_edge_index(torch.randint(30, (2, 100), generator=torch.Generator().manual_seed(0)), 30, 30)


def _run(again: bool, graph: Graph, times: int = 1) -> tuple[Layer, Tensor, list[Tensor]]:
    layer, x = Layer(), torch.ones(30, 4).cumsum(0).requires_grad_()
    torch.manual_seed(1)
    out = recompute(layer, x, graph, norms=(layer.norm,)) if again else layer(x, graph)
    for _ in range(times):
        grads = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()], retain_graph=True)
    return layer, out, list(grads)


@pytest.mark.parametrize("times", [1, 2])
def test_it_changes_nothing_but_what_is_kept(graph: Graph, times: int) -> None:
    plain, again = _run(False, graph), _run(True, graph, times)
    assert torch.equal(plain[1], again[1])
    for one, other in zip(plain[2], again[2], strict=True):
        assert torch.equal(one, other)
    # The state of the batch norm too: it has counted once.
    for name, value in plain[0].state_dict().items():
        assert torch.equal(value, again[0].state_dict()[name]), name
    assert plain[0].calls == 1 and again[0].calls == 1 + times


def test_inner_tensors_are_not_kept(graph: Graph) -> None:
    kept: list[int] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    layer, x = Layer(), torch.ones(30, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        recompute(layer, x, graph, norms=(layer.norm,))
        recomputed, kept[:] = sum(kept), []
        layer(x, graph)
    assert recomputed < sum(kept) / 3

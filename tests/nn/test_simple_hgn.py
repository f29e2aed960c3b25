"""SimpleHGNConv against its formula, edge by edge, and what its options do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import Graph
from fastgmtl.nn import SimpleHGNConv

N, IN, C, R, H = 6, 4, 3, 2, 2


@pytest.fixture
def graph() -> Graph:
    g = torch.Generator().manual_seed(0)
    edges = torch.randint(N - 1, (2, 15), generator=g)
    return Graph.from_edge_index(edges, N)  # the last node has no edges


@pytest.fixture
def kinds(graph: Graph) -> Tensor:
    return torch.arange(graph.num_edges) % R


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _by_hand(
    conv: SimpleHGNConv, x: Tensor, graph: Graph, kinds: Tensor, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One task: h' and the attention, in the order of the edges."""
    src, dst = graph.edge_index()
    h = (x @ conv.lin.weight.T).view(N, H, C)
    edge = (conv.edge_embedding @ conv.lin_edge.T).view(R, H, -1)
    score = torch.stack(
        [
            (conv.att_dst * h[i]).sum(-1) + (conv.att_src * h[j]).sum(-1) + (conv.att_edge * edge[k]).sum(-1)
            for j, i, k in zip(src.tolist(), dst.tolist(), kinds.tolist(), strict=True)
        ]
    )
    score = F.leaky_relu(score, conv.negative_slope)
    share = torch.zeros_like(score)
    for i in range(N):
        share[dst == i] = score[dst == i].softmax(0)
    if before is not None:
        share = (1 - conv.beta) * share + conv.beta * before
    out = torch.zeros(N, H, C, dtype=x.dtype).index_add(0, dst, share.unsqueeze(-1) * h[src]).flatten(1)
    if conv.residual:
        out = out + (x if conv.res is None else x @ conv.res.weight.T)
    return out, share


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", [IN, H * C])
def test_it_is_the_formula(graph: Graph, kinds: Tensor, width: int, residual: bool, beta: float) -> None:
    torch.manual_seed(0)
    conv = SimpleHGNConv(width, C, R, edge_dim=5, heads=H, residual=residual, beta=beta).double()
    before = _x(graph.num_edges, H).softmax(0) if beta else None
    out, share = conv(_x(N, width), graph, kinds, before, return_attention_weights=True)
    want, want_share = _by_hand(conv, _x(N, width), graph, kinds, before)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(share, want_share, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(conv(_x(N, width), graph.edge_index(), kinds, before), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_tasks_are_layers_side_by_side(graph: Graph, kinds: Tensor, shared: bool) -> None:
    torch.manual_seed(0)
    conv = SimpleHGNConv(H * C, C, R, heads=H, residual=True, beta=0.2, num_tasks=3).double()
    x = _x(N, H * C) if shared else _x(N, 3, H * C)
    before = _x(graph.num_edges, 3, H).softmax(0)
    out, share = conv(x, graph, kinds, before, return_attention_weights=True)
    assert out.shape == (N, 3, H * C) and share.shape == (graph.num_edges, 3, H)
    for t in range(3):
        one = SimpleHGNConv(H * C, C, R, heads=H, residual=True, beta=0.2).double()
        one.load_state_dict({name: value[t] for name, value in conv.state_dict().items()})
        want, want_share = one(x if shared else x[:, t], graph, kinds, before[:, t], return_attention_weights=True)
        torch.testing.assert_close(out[:, t], want, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(share[:, t], want_share, rtol=1e-10, atol=1e-12)


def test_gradients_of_both_orders(graph: Graph, kinds: Tensor) -> None:
    torch.manual_seed(0)
    conv = SimpleHGNConv(H * C, C, R, edge_dim=2, heads=H, residual=True, beta=0.2).double()
    before = _x(graph.num_edges, H).softmax(0)
    x = _x(N, H * C).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: conv(v, graph, kinds, before), x)
    assert torch.autograd.gradgradcheck(lambda v: conv(v, graph, kinds, before), x)


def test_beta_must_leave_something_to_the_layer() -> None:
    with pytest.raises(ValueError, match=r"SimpleHGNConv: beta must be in \[0, 1\), got 1.0"):
        SimpleHGNConv(IN, C, R, beta=1.0)

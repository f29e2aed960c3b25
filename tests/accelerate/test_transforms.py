"""What PyTorch Geometric's fast paths lack: second order, functional transforms, compilation, little memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import F, assert_same, served
from torch import Tensor, nn
from torch_geometric import EdgeIndex

import fastgmtl
from fastgmtl import Graph

N = 12
MAKE: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: pyg.GCNConv(F, 4),
    "sage": lambda: pyg.SAGEConv(F, 4),
    "sage-max": lambda: pyg.SAGEConv(F, 4, aggr="max"),
    "gin": lambda: pyg.GINConv(nn.Linear(F, 4)),
    "graph": lambda: pyg.GraphConv(F, 4),
    "gat": lambda: pyg.GATConv(F, 4, 2),
    "gatv2": lambda: pyg.GATv2Conv(F, 4, 2),
    "transformer": lambda: pyg.TransformerConv(F, 4, 2),
}

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:.*invariant checks.*")


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    theirs = MAKE[name]().double()
    ours = copy.deepcopy(theirs)
    fastgmtl.accelerate_(ours)
    return theirs, ours


def meta_gradient(layer: nn.Module, x: Tensor, edges: Any) -> list[Tensor]:
    """Gradients of a loss after a step of gradient descent on another, through the step."""
    weights = dict(layer.named_parameters())
    first = torch.func.functional_call(layer, weights, (x, edges)).square().sum()
    grads = torch.autograd.grad(first, list(weights.values()), create_graph=True)
    moved = {k: w - 0.01 * g for (k, w), g in zip(weights.items(), grads, strict=True)}
    out = torch.func.functional_call(layer, moved, (x, edges)).sin().sum()
    return [out, *torch.autograd.grad(out, list(weights.values()))]


@pytest.mark.parametrize("name", MAKE)
def test_meta_gradients_on_every_layout(name: str, x: Tensor, simple_edges: Tensor) -> None:
    """Equal to the parent's on edge_index; on its fast layouts the parent has none, or wrong ones."""
    theirs, ours = pair(name)
    x = x.double()
    expected = meta_gradient(theirs, x, simple_edges)
    coo = torch.sparse_coo_tensor(simple_edges.flip(0), torch.ones(simple_edges.size(1)).double(), (N, N)).coalesce()
    forms = [simple_edges, EdgeIndex(simple_edges, sparse_size=(N, N)), coo, coo.to_sparse_csr()]
    for edges in forms:
        assert_same(meta_gradient(ours, x, edges), expected)
    assert served(ours) == 2 * len(forms)


@pytest.mark.parametrize("name", MAKE)
def test_functional_transforms(name: str, x: Tensor, simple_edges: Tensor) -> None:
    _, ours = pair(name)
    weights, x = {k: p.detach() for k, p in ours.named_parameters()}, x.double()

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(ours, weights, (x, simple_edges)).square().sum()

    grads = torch.func.grad(loss)(weights, x)
    expected = torch.autograd.grad(ours(x, simple_edges).square().sum(), list(ours.parameters()))
    assert_same(list(grads.values()), list(expected))
    many = torch.stack([x, 2 * x])
    batched = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, many)
    assert_same([g[0] for g in batched.values()], list(expected))


@pytest.mark.parametrize("name", MAKE)
def test_compiles_whole_with_a_graph(name: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(name)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    out = compiled(x.double(), Graph.from_edge_index(simple_edges, N, N))
    assert_same([out], [theirs(x.double(), simple_edges)])


@pytest.mark.parametrize("name", ["gat", "gatv2", "transformer"])
def test_nothing_of_the_size_of_edges_times_width_is_kept(name: str) -> None:
    edges, x, kept = torch.randint(0, 50, (2, 3000)), torch.randn(50, F).double(), {}
    for layer in pair(name):
        largest: list[int] = []

        def pack(value: Tensor, largest: list[int] = largest) -> Tensor:
            largest.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            layer(x, edges)
        kept[type(layer).__name__[:4]] = max(largest)
    assert kept.pop("Fast") <= 3050 * 2 < max(kept.values())


KEYS = {
    "gcn": ["bias", "lin.weight"],
    "sage": ["lin_l.weight", "lin_l.bias", "lin_r.weight"],
    "gin": ["eps", "nn.weight", "nn.bias"],
    "graph": ["lin_rel.weight", "lin_rel.bias", "lin_root.weight"],
    "gat": ["att_src", "att_dst", "bias", "lin.weight"],
    "gatv2": ["att", "bias", "lin_l.weight", "lin_l.bias", "lin_r.weight", "lin_r.bias"],
    "transformer": [f"lin_{n}.{p}" for n in ("key", "query", "value", "skip") for p in ("weight", "bias")],
}


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_stay(name: str) -> None:
    assert list(pair(name)[1].state_dict()) == KEYS[name]

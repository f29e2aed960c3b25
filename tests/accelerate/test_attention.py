"""Fast layers of attention with what the others do not have: edge features, weights to return, dropout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import F, assert_same, run, served
from torch import Tensor, nn

import fastgmtl

D = 3
WITH_EDGES: dict[str, Callable[[], nn.Module]] = {
    "gat": lambda: pyg.GATConv(F, 4, 2, edge_dim=D),
    "gat-fill": lambda: pyg.GATConv(F, 4, 2, edge_dim=D, fill_value=0.5),
    "gat-fill-max": lambda: pyg.GATConv(F, 4, 2, edge_dim=D, fill_value="max"),
    "gat-fill-tensor": lambda: pyg.GATConv(F, 4, 2, edge_dim=D, fill_value=torch.arange(1.0, 4.0)),
    "gat-no-loops": lambda: pyg.GATConv(F, 4, 2, edge_dim=D, add_self_loops=False),
    "gat-lazy": lambda: pyg.GATConv(F, 4, 2, edge_dim=-1),
    "gat-backwards": lambda: pyg.GATConv(F, 4, 2, edge_dim=D, flow="target_to_source"),
    "gatv2": lambda: pyg.GATv2Conv(F, 4, 2, edge_dim=D),
    "gatv2-average": lambda: pyg.GATv2Conv(F, 4, 2, edge_dim=D, concat=False, add_self_loops=False),
    "transformer": lambda: pyg.TransformerConv(F, 4, 2, edge_dim=D),
    "transformer-beta": lambda: pyg.TransformerConv(F, 4, 2, edge_dim=D, beta=True, concat=False),
    "transformer-backwards": lambda: pyg.TransformerConv(F, 4, 2, edge_dim=D, flow="target_to_source"),
}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "gat": pyg.GATConv,
    "gatv2": pyg.GATv2Conv,
    "transformer": pyg.TransformerConv,
}


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    theirs = make().to(dtype)
    ours = copy.deepcopy(theirs)
    assert fastgmtl.accelerate_(ours).swapped
    return theirs, ours


@pytest.mark.parametrize("case", WITH_EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_features(case: str, dtype: torch.dtype, x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(WITH_EDGES[case], dtype)
    features, x = torch.randn(edge_index.size(1), D, dtype=dtype), x.to(dtype)
    if "lazy" in case:
        for layer in (theirs, ours):
            torch.manual_seed(3)
            layer(x, edge_index, features)
        assert dict(ours._calls) == {"lazy parameters without a shape": 1}
    assert_same(run(ours, x, edge_index, edge_attr=features), run(theirs, x, edge_index, edge_attr=features))
    assert served(ours) == 1


def test_one_number_an_edge_is_a_feature(x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(lambda: pyg.GATConv(F, 4, 2, edge_dim=1))
    features = torch.randn(edge_index.size(1))
    assert_same(run(ours, x, edge_index, edge_attr=features), run(theirs, x, edge_index, edge_attr=features))
    assert served(ours) == 1


def test_features_without_a_map_for_them(x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(lambda: pyg.GATConv(F, 4, 2))
    features = torch.randn(edge_index.size(1), D)
    assert_same([ours(x, edge_index, features)], [theirs(x, edge_index, features)])
    for make in (pyg.GATv2Conv, pyg.TransformerConv):
        ours = pair(lambda make=make: make(F, 4, 2))[1]
        with pytest.raises((AssertionError, ValueError, RuntimeError)):
            ours(x, edge_index, features)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("keywords", [{}, {"flow": "target_to_source"}])
def test_weights_to_return(name: str, keywords: dict[str, Any], x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(lambda: LAYERS[name](F, 4, 2, **keywords))
    expected, (edges, weights) = theirs(x, simple_edges, return_attention_weights=True)
    out, (ours_edges, ours_weights) = ours(x, simple_edges, return_attention_weights=True)
    assert torch.equal(ours_edges, edges) and served(ours) == 1
    assert_same([out, ours_weights], [expected, weights])


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:.*invariant checks.*")
@pytest.mark.parametrize("name", ["gat", "gatv2"])
def test_weights_to_return_of_a_sparse_matrix_are_a_sparse_matrix(name: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(lambda: LAYERS[name](F, 4, 2))
    coo = torch.sparse_coo_tensor(simple_edges.flip(0), torch.ones(simple_edges.size(1)), (12, 12)).coalesce()
    expected, (adj, weights) = theirs(x, coo, return_attention_weights=True)
    out, (ours_adj, ours_weights) = ours(x, coo, return_attention_weights=True)
    assert_same([out, ours_weights], [expected, weights])
    assert_same([ours_adj.to_dense()], [adj.to_dense()])
    assert dict(ours._calls) == {"weights in the layout of the edges": 1}


@pytest.mark.parametrize("name", LAYERS)
def test_dropout(name: str, x: Tensor, simple_edges: Tensor) -> None:
    """The numbers drawn are others: evaluation is the same, training is the same in the mean."""
    theirs, ours = pair(lambda: LAYERS[name](F, 4, 2, dropout=0.5))
    assert_same([ours.eval()(x, simple_edges)], [theirs.eval()(x, simple_edges)])
    expected, ours = theirs(x, simple_edges), ours.train()
    draws = torch.stack([ours(x, simple_edges) for _ in range(400)])
    assert not torch.equal(draws[0], draws[1])
    error = draws.std(0) / 400**0.5
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-6).all()
    torch.manual_seed(5)
    first = ours(x, simple_edges)
    torch.manual_seed(5)
    assert torch.equal(ours(x, simple_edges), first)


def test_a_hook_on_the_map_of_edge_features_is_called(x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(WITH_EDGES["gat"])
    features, seen = torch.randn(edge_index.size(1), D), []
    ours.lin_edge.register_forward_hook(lambda *_: seen.append(1))
    assert_same([ours(x, edge_index, features)], [theirs(x, edge_index, features)])
    assert seen == [1] and dict(ours._calls) == {"a changed map of edge features": 1}


def test_weights_of_a_transformer_are_those_before_dropout(x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(lambda: pyg.TransformerConv(F, 4, 2, dropout=0.5))
    _, (_, expected) = theirs(x, simple_edges, return_attention_weights=True)
    _, (_, weights) = ours(x, simple_edges, return_attention_weights=True)
    assert_same([weights], [expected])
    assert dict(ours._calls) == {"weights before dropout": 1}
    ours.eval()(x, simple_edges, return_attention_weights=False)
    assert served(ours) == 1

"""Layers over typed edges, and models of many relations, against their parents."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import NODES, RELATIONS, F, assert_same, assert_same_half, hetero, outcome, run, served
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.testing import assert_module

import fastgmtl
from fastgmtl import HeteroGraph

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:.*invariant checks.*")
N, R = 12, 3
RGCN: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: pyg.RGCNConv(F, 4, R),
    "bases": lambda: pyg.RGCNConv(F, 8, R, num_bases=2),
    "blocks": lambda: pyg.RGCNConv(F, 4, R, num_blocks=2, bias=False),
    "sum": lambda: pyg.RGCNConv(F, 4, R, aggr="add", root_weight=False),
    "max": lambda: pyg.RGCNConv(F, 4, R, aggr="max"),
    "sorted": lambda: pyg.RGCNConv(F, 4, R, is_sorted=False),
    "backwards": lambda: pyg.RGCNConv(F, 4, R, flow="target_to_source"),
    "many": lambda: pyg.RGCNConv(F, 4, 40),
}


def accelerated(layer: nn.Module) -> nn.Module:
    """A copy of it."""
    ours = copy.deepcopy(layer)
    assert fastgmtl.accelerate_(ours).swapped
    return ours


@pytest.fixture
def types(simple_edges: Tensor) -> Tensor:
    return torch.randint(0, R, (simple_edges.size(1),))


@pytest.mark.parametrize("case", RGCN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rgcn(case: str, dtype: torch.dtype, x: Tensor, simple_edges: Tensor, types: Tensor) -> None:
    theirs = RGCN[case]().to(dtype)
    ours = accelerated(theirs)
    x = x.to(dtype)
    for edges in (simple_edges, EdgeIndex(simple_edges, sparse_size=(N, N))):
        assert_same(run(ours, x, edges, edge_type=types), run(theirs, x, simple_edges, edge_type=types))
    if case != "backwards":
        given = (x, torch.randn(N, F, dtype=dtype))
        assert_same(run(ours, given, simple_edges, edge_type=types), run(theirs, given, simple_edges, edge_type=types))
    assert served(ours) == 2 + (case != "backwards")
    assert type(ours).__name__ == "FastRGCNConv"


@pytest.mark.parametrize("case", [c for c in RGCN if c != "blocks"])
def test_rgcn_on_embeddings(case: str, simple_edges: Tensor, types: Tensor) -> None:
    theirs = RGCN[case]()
    ours = accelerated(theirs)
    numbers = torch.randint(0, F, (N,))
    expected = [theirs(numbers, simple_edges, types)]
    assert_same([ours(numbers, simple_edges, types)], expected)
    edges, kinds = simple_edges % F, types
    assert_same([ours(None, edges, kinds)], [theirs(None, edges, kinds)])
    assert served(ours) == 2


@pytest.mark.parametrize("case", [c for c in RGCN if c != "backwards"])
def test_rgcn_module(case: str, x: Tensor, simple_edges: Tensor, types: Tensor) -> None:
    ours = accelerated(RGCN[case]())
    size = (N, ours.out_channels)
    assert_module(
        ours,
        x,
        simple_edges,
        edge_type=types,
        expected_size=size,
        test_sparse_layouts=[],
        sparse_size=(N, N),
        atol=1e-5,
    )
    assert served(ours) == 2
    sparse = pytest.importorskip("torch_sparse", reason="SparseTensor is torch_sparse's")
    adj_t = sparse.SparseTensor(row=simple_edges[1], col=simple_edges[0], value=types, sparse_sizes=(N, N))
    theirs = copy.deepcopy(ours)
    fastgmtl.deaccelerate_(theirs)
    assert_same([ours(x, adj_t)], [theirs(x, adj_t)])


def test_rgcn_in_half_precision(x: Tensor, simple_edges: Tensor, types: Tensor) -> None:
    theirs = RGCN["plain"]()
    ours = accelerated(theirs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_half(ours(x, simple_edges, types), theirs(x, simple_edges, types))
    theirs, ours, x = theirs.bfloat16(), ours.bfloat16(), x.bfloat16()
    assert_same_half(ours(x, simple_edges, types), theirs(x, simple_edges, types))
    assert served(ours) == 2


# ------------------------------------------------------------------------------------------- dicts of features

METADATA = (list(NODES), RELATIONS)  # one with a name that a dict of parameters has to rename


@pytest.mark.parametrize("width", [F, 8])  # 8: with the skip connection
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hgt(width: int, heads: int, dtype: torch.dtype) -> None:
    theirs = pyg.HGTConv(width, 8, METADATA, heads).to(dtype)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_().mul_(0.5)
    ours = accelerated(theirs)
    x, edges = hetero(width)
    x = {t: v.to(dtype) for t, v in x.items()}
    expected = outcome(theirs, x, edges)
    assert_same(outcome(ours, x, edges), expected)
    assert list(ours(x, edges)) == list(theirs(x, edges))
    assert_same(outcome(ours, x, HeteroGraph.from_dict(edges, NODES)), expected)
    sparse = {
        r: torch.sparse_coo_tensor(e.flip(0), torch.ones(e.size(1)), (NODES[r[2]], NODES[r[0]])).coalesce()
        for r, e in edges.items()
    }
    assert_same(outcome(ours, x, sparse), outcome(theirs, x, sparse))
    some = dict(list(edges.items())[:2])  # a batch without some relations
    assert_same(outcome(ours, x, some), outcome(theirs, x, some))
    assert served(ours) == 5


def test_hgt_state_copies_and_undo() -> None:
    theirs = pyg.HGTConv(F, 8, METADATA, 2)
    ours = accelerated(theirs)
    x, edges = hetero()
    assert repr(ours) == "FastHGTConv(-1, 8, heads=2)" and list(ours.state_dict()) == list(theirs.state_dict())
    expected = list(theirs(x, edges).values())
    for other in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same(list(other(x, edges).values()), expected)
        assert served(other) > 0
    assert fastgmtl.deaccelerate_(ours) == 1 and type(ours) is pyg.HGTConv
    assert_same(list(ours(x, edges).values()), expected)


def test_hgt_in_half_precision() -> None:
    theirs = pyg.HGTConv(F, 8, METADATA, 2)
    ours = accelerated(theirs)
    x, edges = hetero()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(ours(x, edges).values(), theirs(x, edges).values(), strict=True):
            assert_same_half(a, b)
    assert served(ours) == 1


def test_lazy_hgt_is_the_parents_until_it_has_a_shape() -> None:
    theirs = pyg.HGTConv(-1, 8, METADATA, 2)
    ours = accelerated(theirs)
    x, edges = hetero()
    outs = []
    for layer in (theirs, ours):
        torch.manual_seed(3)
        outs.append([v for _ in range(2) for v in layer(x, edges).values()])
    assert_same(outs[1], outs[0])
    assert dict(ours._calls) == {"lazy parameters without a shape": 1, "": 1}


def test_hgt_of_unknown_relations_is_the_parents_error() -> None:
    ours = accelerated(pyg.HGTConv(F, 8, METADATA, 2))
    x, edges = hetero()
    with pytest.raises((KeyError, ValueError)):
        ours(x, edges | {("author", "knows", "author"): edges[RELATIONS[1]] % 7})


@pytest.mark.parametrize("aggr", ["sum", "max", "cat"])
def test_hetero_conv(aggr: str) -> None:
    convs: dict[Any, nn.Module] = {
        RELATIONS[0]: pyg.SAGEConv((F, F), 4),
        RELATIONS[1]: pyg.GCNConv(F, 4),
        RELATIONS[2]: pyg.GATConv((F, F), 4, add_self_loops=False),
        RELATIONS[3]: pyg.GraphConv((F, F), 4),
        RELATIONS[4]: pyg.GATv2Conv((F, F), 4, add_self_loops=False),
    }
    theirs = pyg.HeteroConv(convs, aggr=aggr)
    ours = copy.deepcopy(theirs)
    x, edges = hetero()
    report = fastgmtl.accelerate_(ours, verify=(x, edges))
    assert [row.was for row in report.swapped] == ["SAGEConv", "GCNConv", "GATConv", "GraphConv", "GATv2Conv"]
    assert all(row.max_diff is not None and row.max_diff < 1e-5 for row in report)
    assert_same(outcome(ours, x, edges), outcome(theirs, x, edges))
    assert all(row.calls == {"": 1} for row in report)


@pytest.mark.parametrize("make", [pyg.GraphSAGE, pyg.GAT, pyg.GIN])
def test_to_hetero(make: Any) -> None:
    keywords = {"add_self_loops": False} if make is pyg.GAT else {}
    relations = [(src, name.replace(".", "_"), dst) for src, name, dst in RELATIONS]
    theirs = pyg.to_hetero(make((F, F) if make is pyg.GAT else F, 8, 2, 4, **keywords), (list(NODES), relations))
    ours = copy.deepcopy(theirs)
    x, edges = hetero()
    edges = dict(zip(relations, edges.values(), strict=True))
    report = fastgmtl.accelerate_(ours, verify=(x, edges))
    assert len(report.swapped) == 2 * len(RELATIONS) and not report.left_alone
    assert_same(outcome(ours, x, edges), outcome(theirs, x, edges))
    assert all(row.calls == {"": 1} for row in report)

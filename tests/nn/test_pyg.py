"""The layers against PyTorch Geometric's: values, gradients, initialisation, state, names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn

pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of these tests")
EdgeIndex = pytest.importorskip("torch_geometric").EdgeIndex
assert_module = pytest.importorskip("torch_geometric.testing").assert_module

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta state", "ignore:.*to CSR format.*", "ignore:.*invariant checks.*"
)

N, F = 12, 6


def mlp() -> tnn.Module:
    return tnn.Sequential(tnn.Linear(F, 7), tnn.ReLU(), tnn.Linear(7, 4))


# Narrower and wider outputs than F: the layers aggregate after or before the linear map.
CASES: dict[str, tuple[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "gcn-narrow": ("GCNConv", lambda: ((F, 3), {})),
    "gcn-wide": ("GCNConv", lambda: ((F, 9), {})),
    "gcn-no-bias": ("GCNConv", lambda: ((F, 3), {"bias": False})),
    "gcn-no-loops": ("GCNConv", lambda: ((F, 9), {"add_self_loops": False})),
    "gcn-plain": ("GCNConv", lambda: ((F, 9), {"normalize": False})),
    "gcn-backwards": ("GCNConv", lambda: ((F, 9), {"flow": "target_to_source"})),
    "sage-mean-narrow": ("SAGEConv", lambda: ((F, 3), {})),
    "sage-mean-wide": ("SAGEConv", lambda: ((F, 9), {"normalize": True})),
    "sage-sum": ("SAGEConv", lambda: ((F, 3), {"aggr": "sum", "root_weight": False})),
    "sage-max": ("SAGEConv", lambda: ((F, 3), {"aggr": "max", "bias": False})),
    "sage-min": ("SAGEConv", lambda: ((F, 9), {"aggr": "min"})),
    "sage-project": ("SAGEConv", lambda: ((F, 3), {"project": True})),
    "sage-backwards": ("SAGEConv", lambda: ((F, 3), {"flow": "target_to_source"})),
    "gin": ("GINConv", lambda: ((mlp(),), {})),
    "gin-eps": ("GINConv", lambda: ((mlp(), 0.5, True), {})),
    "gin-max": ("GINConv", lambda: ((mlp(),), {"aggr": "max"})),
    "graph-add": ("GraphConv", lambda: ((F, 3), {})),
    "graph-wide": ("GraphConv", lambda: ((F, 9), {"aggr": "mean"})),
    "graph-max": ("GraphConv", lambda: ((F, 3), {"aggr": "max", "bias": False})),
    "gat": ("GATConv", lambda: ((F, 3), {})),
    "gat-heads": ("GATConv", lambda: ((F, 3, 4), {"negative_slope": 0.3})),
    "gat-average": ("GATConv", lambda: ((F, 3, 4), {"concat": False, "bias": False})),
    "gat-no-loops": ("GATConv", lambda: ((F, 3, 2), {"add_self_loops": False, "residual": True})),
    "gat-pair": ("GATConv", lambda: (((F, F), 3, 2), {})),
    "gat-rectified": ("GATConv", lambda: ((F, 3, 2), {"negative_slope": 0.0})),
    "gat-backwards": ("GATConv", lambda: ((F, 3, 2), {"flow": "target_to_source"})),
    "gatv2": ("GATv2Conv", lambda: ((F, 3, 4), {})),
    "gatv2-shared": ("GATv2Conv", lambda: ((F, 3, 2), {"share_weights": True, "concat": False})),
    "gatv2-no-loops": ("GATv2Conv", lambda: ((F, 3, 2), {"add_self_loops": False, "bias": False, "residual": True})),
    "transformer": ("TransformerConv", lambda: ((F, 3, 4), {})),
    "transformer-beta": ("TransformerConv", lambda: ((F, 3, 2), {"beta": True, "concat": False})),
    "transformer-no-root": ("TransformerConv", lambda: (((F, F), 3, 2), {"root_weight": False, "bias": False})),
    "transformer-backwards": ("TransformerConv", lambda: ((F, 3, 2), {"flow": "target_to_source"})),
    "gatv2-backwards": ("GATv2Conv", lambda: ((F, 3, 2), {"flow": "target_to_source"})),
}
WEIGHTED = [case for case in CASES if case.startswith(("gcn", "graph"))]


def pair(case: str) -> tuple[tnn.Module, tnn.Module]:
    """PyG's layer and ours, made from the same seed."""
    name, arguments = CASES[case]
    layers = []
    for source in (pyg, nn):
        torch.manual_seed(7)
        args, kwargs = arguments()
        layers.append(getattr(source, name)(*args, **kwargs))
    return layers[0], layers[1]


def outcome(layer: tnn.Module, x: Any, edges: Any, *args: Any) -> list[Tensor]:
    """The output and the gradients of the inputs and the parameters, for a loss that is not symmetric."""
    leaves = [t.clone().requires_grad_() for t in (x if isinstance(x, tuple) else (x,)) if t is not None]
    given = (leaves[0], leaves[1] if len(leaves) > 1 else None) if isinstance(x, tuple) else leaves[0]
    args = tuple(a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in args)
    out = layer(given, edges, *args)
    loss = (out.double() * torch.arange(1, out.numel() + 1).view(out.shape).sin()).sum()
    inputs = [*leaves, *(a for a in args if isinstance(a, Tensor)), *layer.parameters()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["edge_index", "graph", "EdgeIndex"])
def test_values_and_gradients(case: str, kind: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    backwards = ours.flow == "target_to_source"
    edges: Any = simple_edges
    if kind == "graph":
        edges = Graph.from_edge_index(simple_edges, N, N)
    elif kind == "EdgeIndex":
        edges = EdgeIndex(simple_edges, sparse_size=(N, N))
    assert backwards == case.endswith("backwards")
    assert_same(outcome(ours, x, edges), outcome(theirs, x, simple_edges))


@pytest.mark.parametrize("case", [c for c in CASES if not c.endswith("backwards")])
@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "SparseTensor"])
def test_sparse_layouts(case: str, layout: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    src, dst = simple_edges
    if layout == "SparseTensor":
        sparse = pytest.importorskip("torch_sparse", reason="SparseTensor is torch_sparse's")
        adj_t = sparse.SparseTensor(row=dst, col=src, sparse_sizes=(N, N))
    else:
        coo = torch.sparse_coo_tensor(torch.stack([dst, src]), torch.ones(src.numel()), (N, N)).coalesce()
        adj_t = {"coo": coo.coalesce, "csr": coo.to_sparse_csr, "csc": coo.to_sparse_csc}[layout]()
    assert_same(outcome(ours, x, adj_t), outcome(theirs, x, simple_edges))


@pytest.mark.parametrize("case", ["gcn-wide", "gcn-plain", "graph-add", "graph-max", "sage-mean-narrow", "gin"])
def test_values_of_a_sparse_matrix_are_weights_as_in_pyg(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    src, dst = simple_edges
    coo = torch.sparse_coo_tensor(torch.stack([dst, src]), torch.rand(src.numel()), (N, N)).coalesce()
    adj_t = coo.to_sparse_csr()
    assert_same([ours(x, adj_t)], [theirs(x, adj_t)])


@pytest.mark.parametrize("case", ["gcn-wide", "graph-add", "sage-mean-narrow", "gin"])
def test_values_of_a_sparse_tensor_as_in_pyg(case: str, x: Tensor, simple_edges: Tensor) -> None:
    sparse = pytest.importorskip("torch_sparse", reason="SparseTensor is torch_sparse's")
    theirs, ours = pair(case)
    src, dst = simple_edges
    adj_t = sparse.SparseTensor(row=dst, col=src, value=torch.rand(src.numel()), sparse_sizes=(N, N))
    assert_same([ours(x, adj_t)], [theirs(x, adj_t)])


@pytest.mark.parametrize("case", [c for c in CASES if not c.endswith(("max", "min"))])
def test_loops_and_parallel_edges(case: str, x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(case)
    assert_same(outcome(ours, x, edge_index), outcome(theirs, x, edge_index))


@pytest.mark.parametrize("case", WEIGHTED)
@pytest.mark.parametrize("loops", [False, True])
def test_edge_weights(case: str, loops: bool, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    # A loop a node: of parallel loops PyG counts the last one, but gives its gradient to all.
    extra = torch.tensor([[3, 3, 5, 0], [3, 1, 5, 1]])
    edges = torch.cat([simple_edges, extra], dim=1) if loops else simple_edges
    weight = torch.rand(edges.size(1)) + 0.1
    assert_same(outcome(ours, x, edges, weight), outcome(theirs, x, edges, weight))


def test_improved_with_and_without_weights(x: Tensor, edge_index: Tensor) -> None:
    # PyG leaves the loops at 1 for an edge_index without weights, against its own formula and its sparse path.
    theirs, ours = pyg.GCNConv(F, 3, improved=True), nn.GCNConv(F, 3, improved=True)
    ours.load_state_dict(theirs.state_dict())
    weight = torch.rand(edge_index.size(1)) + 0.1
    assert_same([ours(x, edge_index, weight)], [theirs(x, edge_index, weight)])
    assert_same([ours(x, edge_index)], [theirs(x, edge_index, torch.ones(edge_index.size(1)))])


@pytest.mark.parametrize("case", CASES)
def test_no_edges(case: str, x: Tensor) -> None:
    theirs, ours = pair(case)
    none = torch.empty(2, 0, dtype=torch.long)
    assert_same(outcome(ours, x, none), outcome(theirs, x, none))


@pytest.mark.parametrize("name", ["SAGEConv", "GraphConv", "GINConv"])
@pytest.mark.parametrize("given", ["both", "src", "src-size"])
def test_bipartite(name: str, given: str) -> None:
    src, dst = 9, 5
    edges = torch.stack([torch.randint(0, src, (20,)), torch.randint(0, dst - 1, (20,))])
    size = (src, dst) if given == "src-size" else None
    x = (torch.randn(src, F), torch.randn(dst, F) if given == "both" else None)
    layers = []
    for source in (pyg, nn):
        torch.manual_seed(3)
        layers.append(getattr(source, name)(mlp()) if name == "GINConv" else getattr(source, name)((F, F), 4))
    args = (None, size) if name == "GraphConv" else (size,)
    theirs = outcome(layers[0], x, edges, *args)
    assert_same(outcome(layers[1], x, edges, *args), theirs)
    if given != "src":  # a Graph knows its sizes
        graph = Graph.from_edge_index(edges, src, dst)
        assert_same(outcome(layers[1], x, graph, *args), theirs)
        assert_same([layers[1](x, graph)], theirs[:1])


def test_bipartite_of_two_widths() -> None:
    edges = torch.stack([torch.randint(0, 9, (20,)), torch.randint(0, 5, (20,))])
    x = (torch.randn(9, 3), torch.randn(5, 8))
    for name in ("SAGEConv", "GraphConv"):
        theirs = getattr(pyg, name)((3, 8), 4)
        ours = getattr(nn, name)((3, 8), 4)
        ours.load_state_dict(theirs.state_dict())
        assert_same(outcome(ours, x, edges), outcome(theirs, x, edges))


@pytest.mark.parametrize("case", CASES)
def test_same_seed_gives_the_same_parameters_and_names(case: str) -> None:
    theirs, ours = pair(case)
    for _ in range(2):
        state, expected = ours.state_dict(), theirs.state_dict()
        assert list(state) == list(expected)
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        for key, value in expected.items():
            assert torch.equal(state[key], value), key
        for layer in (theirs, ours):
            torch.manual_seed(11)
            layer.reset_parameters()
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("case", CASES)
def test_state_loads_both_ways(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    other_theirs, other_ours = copy.deepcopy(theirs), copy.deepcopy(ours)
    for layer in (theirs, ours):
        for p in layer.parameters():
            tnn.init.normal_(p)
    other_ours.load_state_dict(theirs.state_dict())
    other_theirs.load_state_dict(ours.state_dict())
    assert_same([other_ours(x, simple_edges)], [theirs(x, simple_edges)])
    assert_same([ours(x, simple_edges)], [other_theirs(x, simple_edges)])


@pytest.mark.parametrize("name", ["GCNConv", "SAGEConv", "GraphConv", "GATConv", "GATv2Conv", "TransformerConv"])
def test_lazy_layers(name: str, x: Tensor, simple_edges: Tensor) -> None:
    layers = []
    for source in (pyg, nn):
        torch.manual_seed(5)
        layer = getattr(source, name)(-1, 4)
        fresh = getattr(source, name)(-1, 4)
        fresh.load_state_dict(layer.state_dict())
        torch.manual_seed(6)
        layers.append((fresh, fresh(x, simple_edges)))
    (theirs, expected), (ours, out) = layers
    assert repr(ours) == repr(theirs)
    assert_same([out], [expected])
    lazy = getattr(nn, name)(-1, 4)
    lazy.load_state_dict(theirs.state_dict())
    assert_same([lazy(x, simple_edges)], [expected])
    other = getattr(pyg, name)(-1, 4)
    other.load_state_dict(ours.state_dict())
    assert_same([other(x, simple_edges)], [expected])


@pytest.mark.parametrize("case", [c for c in CASES if not c.endswith("backwards")])
def test_assert_module(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    width = theirs(x, simple_edges).size(1)
    with warnings.catch_warnings():  # assert_module adds a filter of its own
        assert_module(ours, x, simple_edges, expected_size=(N, width), atol=1e-6)


@pytest.mark.parametrize("name", ["GCNConv", "SAGEConv", "GraphConv", "GATConv", "GATv2Conv"])
def test_autocast(name: str, x: Tensor, simple_edges: Tensor) -> None:
    for width in (3, 9):
        theirs, ours = getattr(pyg, name)(F, width), getattr(nn, name)(F, width)
        ours.load_state_dict(theirs.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            out, expected = ours(x, simple_edges), theirs(x, simple_edges)
        assert out.dtype == torch.bfloat16  # PyG's GCNConv returns to float32, by its float32 edge weights
        torch.testing.assert_close(out.float(), expected.float(), rtol=2e-2, atol=2e-2)
        out.float().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in ours.parameters())


def test_inside_a_pyg_sequential(x: Tensor, simple_edges: Tensor) -> None:
    model = pyg.Sequential("x, e", [(nn.GCNConv(F, 5), "x, e -> x"), tnn.ReLU(), (nn.SAGEConv(5, 2), "x, e -> x")])
    hidden = model[0](x, simple_edges).relu()
    assert torch.equal(model(x, simple_edges), model[2](hidden, simple_edges))

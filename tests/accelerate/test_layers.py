"""Every replaced layer against its parent: values, gradients, layouts, dtypes, state."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import CASES, FORWARDS, WEIGHTED, F, assert_same, assert_same_half, pair, run, served
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.testing import assert_module

import fastgmtl
from fastgmtl import Graph

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta state", "ignore:.*to CSR format.*", "ignore:.*invariant checks.*"
)
N = 12


def layouts(edges: Tensor, values: Tensor | None = None) -> dict[str, Any]:
    """The forms of edges that PyG's layers take, beside edge_index."""
    ones = torch.ones(edges.size(1)) if values is None else values
    coo = torch.sparse_coo_tensor(edges.flip(0), ones, (N, N)).coalesce()
    found = {
        "EdgeIndex": EdgeIndex(edges, sparse_size=(N, N)),
        "coo": coo,
        "csr": coo.to_sparse_csr(),
        "csc": coo.to_sparse_csc(),
    }
    try:
        from torch_sparse import SparseTensor
    except ImportError:
        return found
    return found | {"SparseTensor": SparseTensor(row=edges[1], col=edges[0], value=values, sparse_sizes=(N, N))}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(case: str, dtype: torch.dtype, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case, dtype)
    assert_same(run(ours, x.to(dtype), simple_edges), run(theirs, x.to(dtype), simple_edges))
    assert served(ours) == (case != "gcn-improved")  # PyG's loops weigh 1 here: its own path


@pytest.mark.parametrize("case", [c for c in CASES if not c.endswith(("max", "min"))])
def test_loops_and_parallel_edges(case: str, x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = pair(case)
    assert_same(run(ours, x, edge_index), run(theirs, x, edge_index))


@pytest.mark.parametrize("case", WEIGHTED)
def test_edge_weights(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    weight = torch.rand(simple_edges.size(1)) + 0.1
    for w in (weight, weight.unsqueeze(1)):
        expected = run(theirs, x, simple_edges, edge_weight=w) if w.dim() == 1 or not case.startswith("gcn") else None
        if expected is not None:
            assert_same(run(ours, x, simple_edges, edge_weight=w), expected)
            assert served(ours) > 0


@pytest.mark.parametrize("case", FORWARDS)
def test_every_layout(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    if "cached" in case:
        theirs.cached = ours.cached = False
    values = torch.rand(simple_edges.size(1)) + 0.1
    tested = 0
    for name, edges in (
        layouts(simple_edges) | {f"{n} of values": e for n, e in layouts(simple_edges, values).items()}
    ).items():
        try:
            expected = run(theirs, x, edges)
        except (NotImplementedError, RuntimeError, ValueError):  # PyG does not take it
            continue
        before = served(ours)
        assert_same(run(ours, x, edges), expected)
        assert served(ours) == before + 1 or case == "gcn-improved", name
        tested += 1
    assert tested >= 4


@pytest.mark.parametrize("case", FORWARDS)
def test_assert_module(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    if "cached" in case:
        theirs.cached = ours.cached = False
    keywords = {"edge_weight": None} if case == "gcn-improved" else {}
    sparse: list[Any] = [] if case == "gcn-improved" else [torch.sparse_csc, torch.sparse_coo]
    with warnings.catch_warnings():  # assert_module adds a filter of its own
        size = (N, theirs(x, simple_edges).size(1))
        assert_module(ours, x, simple_edges, expected_size=size, test_sparse_layouts=sparse, atol=1e-5, **keywords)


@pytest.mark.parametrize("case", CASES)
def test_a_graph_of_fastgmtl(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    expected = run(theirs, x, simple_edges)
    if case != "gcn-improved":
        assert_same(run(ours, x, Graph.from_edge_index(simple_edges, N, N)), expected)


@pytest.mark.parametrize("case", CASES)
def test_no_edges(case: str, x: Tensor) -> None:
    theirs, ours = pair(case)
    none = torch.empty(2, 0, dtype=torch.long)
    assert_same(run(ours, x, none), run(theirs, x, none))


@pytest.mark.parametrize("case", FORWARDS)
def test_bipartite(case: str) -> None:
    theirs, ours = pair(case)
    edges = torch.stack([torch.randint(0, 9, (20,)), torch.randint(0, 5, (20,))])
    src, dst = torch.randn(9, F), torch.randn(5, F)
    size: dict[str, Any] = {"size": (9, 5)} if has_size(theirs) else {}
    for x, keywords in (((src, dst), {}), ((src, dst), size), ((src, None), size), ((src, None), {})):
        try:
            expected = run(theirs, x, edges, **keywords)
        except (ValueError, AssertionError, AttributeError, TypeError):
            with pytest.raises((ValueError, AssertionError, AttributeError, TypeError)):
                run(ours, x, edges, **keywords)
            continue
        assert_same(run(ours, x, edges, **keywords), expected)
        assert served(ours) > 0


def has_size(layer: Any) -> bool:
    return isinstance(layer, (pyg.SAGEConv, pyg.GINConv, pyg.GraphConv, pyg.GATConv))


@pytest.mark.parametrize("case", CASES)
def test_autocast(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case)
    with torch.autocast("cpu", torch.bfloat16):
        expected, out = theirs(x, simple_edges), ours(x, simple_edges)
    assert out.dtype == expected.dtype
    assert_same_half(out, expected)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs, ours = pair(case, torch.bfloat16)
    expected, out = theirs(x.bfloat16(), simple_edges), ours(x.bfloat16(), simple_edges)
    assert out.dtype == expected.dtype and served(ours) == (case != "gcn-improved")
    assert_same_half(out, expected)


@pytest.mark.parametrize("case", CASES)
def test_state_copies_and_undo(case: str, x: Tensor, simple_edges: Tensor) -> None:
    theirs = CASES[case]()
    ours = copy.deepcopy(theirs)
    attributes, objects = set(vars(ours)), [id(p) for p in (*ours.parameters(), *ours.buffers())]
    kind, name = type(ours), repr(ours)
    fastgmtl.accelerate_(ours)
    assert [id(p) for p in (*ours.parameters(), *ours.buffers())] == objects
    assert repr(ours) == f"Fast{name}"
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_()
    expected = ours(x, simple_edges)
    theirs.load_state_dict(ours.state_dict())
    assert_same([theirs(x, simple_edges)], [expected])
    fresh = CASES[case]()
    fastgmtl.accelerate_(fresh)
    fresh.load_state_dict(theirs.state_dict())
    for other in (fresh, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert_same([other(x, simple_edges)], [expected])
        assert served(other) > 0 or case == "gcn-improved"
        assert fastgmtl.deaccelerate_(other) == 1
        assert type(other) is kind
        assert_same([other(x, simple_edges)], [expected])
    assert fastgmtl.deaccelerate_(ours) == 1 and fastgmtl.deaccelerate_(ours) == 0
    assert type(ours) is kind and set(vars(ours)) == attributes
    assert [id(p) for p in (*ours.parameters(), *ours.buffers())] == objects


@pytest.mark.parametrize("case", CASES)
def test_our_arithmetic_hides_nothing_of_the_parent_and_the_parent_nothing_of_ours(case: str) -> None:
    ours = type(pair(case)[1])
    chain = ours.__mro__[:-2]  # without Module and object
    theirs = [c for c in chain if c.__module__.startswith("torch_geometric")]
    mine = [c for c in chain if c.__module__.startswith("fastgmtl.nn")]
    shared = {n for c in theirs for n in vars(c)} & {n for c in mine for n in vars(c)}
    allowed = {"__init__", "__module__", "__doc__", "__repr__", "__annotations__", "__firstlineno__"}
    assert shared - allowed - {"__static_attributes__", "forward", "reset_parameters"} == set()

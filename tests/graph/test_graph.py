"""What a Graph does after it is made: copies, loops, batches, and the cache of the layers."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS, Pattern

from fastgmtl import Graph, ops, reference
from fastgmtl.graph import _known, as_graph

SQUARE = {n: p for n, p in MEDIUM.items() if p.num_src == p.num_dst} | {"empty": PATTERNS["empty"]}


def same(got: Graph, want: Graph) -> None:
    assert (got.num_src, got.num_dst, got.num_edges) == (want.num_src, want.num_dst, want.num_edges)
    assert torch.equal(got.row_ptr, want.row_ptr) and torch.equal(got.col, want.col)
    assert torch.equal(got.edge_index(), want.edge_index())


def test_immutable() -> None:
    graph = PATTERNS["typical"].graph()
    with pytest.raises(AttributeError) as caught:
        graph.num_src = 3
    assert str(caught.value) == "Graph: num_src cannot be set, a graph is immutable; build a new one"
    with pytest.raises(AttributeError, match="anything cannot be set"):
        graph.anything = 3
    assert repr(graph) == "Graph(num_src=5, num_dst=5, num_edges=9, index=int32, device='cpu')"


def test_later_changes_of_the_edge_index_do_not_reach_the_graph() -> None:
    for name in ("typical", "sorted"):
        edges = PATTERNS[name].edge_index.clone()
        for dtype in (torch.int64, torch.int32):
            given = edges.to(dtype).clone()
            graph = Graph.from_edge_index(given, 5)
            given.fill_(0)
            assert torch.equal(graph.edge_index(), edges)


@pytest.mark.parametrize("pattern", MEDIUM.values(), ids=MEDIUM.keys())
def test_transpose(pattern: Pattern) -> None:
    graph = pattern.graph()
    back = graph.t()
    assert back.t() is graph and graph.t() is back
    assert torch.equal(back.edge_index(), graph.edge_index().flip(0))
    assert (back.num_src, back.num_dst) == (graph.num_dst, graph.num_src)
    x = torch.randn(pattern.num_dst, 3, dtype=torch.float64)
    torch.testing.assert_close(ops.spmm(back, x), reference.spmm(back, x))


@pytest.mark.parametrize("name", MEDIUM)
@pytest.mark.parametrize("used", [False, True])
def test_pickle_and_copy(name: str, used: bool, tmp_path: Path) -> None:
    graph = MEDIUM[name].graph()
    if used:
        graph.t()
    torch.save(graph, tmp_path / "graph.pt")
    for got in (
        pickle.loads(pickle.dumps(graph)),
        copy.deepcopy(graph),
        torch.load(tmp_path / "graph.pt", weights_only=False),
    ):
        same(got, graph)
        assert (got.edge_id is None) == (graph.edge_id is None)


def test_to() -> None:
    graph = PATTERNS["typical"].graph()
    graph.t()
    assert graph.to("cpu") is graph
    meta = graph.to("meta")
    assert meta.device.type == "meta" and meta.t().t() is meta
    assert (meta.num_src, meta.num_dst, meta.num_edges) == (5, 5, 9)


def test_tensors_elsewhere_are_refused() -> None:
    graph = PATTERNS["typical"].graph()
    x, far = torch.zeros(5, 2), torch.zeros(5, 2, device="meta")
    text = "{}: graph and tensors must be on one device, got cpu and meta; move the graph with .to(device)"
    for name, call in {
        "spmm": [lambda: ops.spmm(graph, far), lambda: ops.spmm(graph, x, torch.zeros(9, device="meta"))],
        "sddmm": [lambda: ops.sddmm(graph, far, x), lambda: ops.sddmm(graph, x, far)],
    }.items():
        for function in call:
            with pytest.raises(ValueError) as caught:
                function()
            assert str(caught.value) == text.format(name)


# ---------------------------------------------------------------------------------------------- loops


@pytest.mark.parametrize("pattern", SQUARE.values(), ids=SQUARE.keys())
def test_add_self_loops(pattern: Pattern) -> None:
    graph = pattern.graph()
    looped = graph.add_self_loops()
    assert looped is graph.add_self_loops()
    loops = torch.arange(pattern.num_src).repeat(2, 1)
    assert torch.equal(looped.edge_index(), torch.cat([pattern.edge_index, loops], 1))
    want = Graph.from_edge_index(looped.edge_index(), pattern.num_src)
    same(looped, cases.with_wide_columns(want) if looped.col.dtype == torch.int64 else want)


# --------------------------------------------------------------------------------------------------- batches


def test_batch_and_unbatch() -> None:
    parts = [p.graph() for p in PATTERNS.values() if not p.wide]
    batch = Graph.batch(parts)
    assert batch.num_src == sum(p.num_src for p in parts)
    dense = torch.block_diag(*[torch.ones(p.num_dst, p.num_src) for p in parts]).bool()
    src, dst = batch.edge_index()
    assert dense[dst, src].all()
    for again in (batch, pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        for got, want in zip(again.unbatch(), parts, strict=True):
            same(got, want)
    x = torch.randn(batch.num_src, 3, dtype=torch.float64)
    apart = torch.cat([ops.spmm(g, v) for g, v in zip(parts, x.split([p.num_src for p in parts]), strict=True)])
    torch.testing.assert_close(ops.spmm(batch, x), apart)


# ------------------------------------------------------------------------------------------------------ cache


def test_the_graph_of_an_edge_index_is_kept_until_it_changes() -> None:
    edges = MEDIUM["typical"].edge_index.clone()
    graph = as_graph(edges, 60, 60)
    assert as_graph(edges, 60, 60) is graph
    assert as_graph(edges, 61, 61) is not graph
    graph = as_graph(edges, 60, 60)
    edges[0, 0] = (edges[0, 0] + 1) % 60
    changed = as_graph(edges, 60, 60)
    assert changed is not graph
    assert torch.equal(changed.edge_index(), edges)


def test_a_kept_graph_goes_with_its_tensor() -> None:
    before = len(_known)
    edges = MEDIUM["typical"].edge_index.clone()
    as_graph(edges, 60, 60)
    assert len(_known) == before + 1
    del edges
    gc.collect()
    assert len(_known) == before


def test_inference_tensors_are_never_out_of_date() -> None:
    with torch.inference_mode():
        edges = MEDIUM["typical"].edge_index.clone()
        first = as_graph(edges, 60, 60)
        edges[0, 0] = (edges[0, 0] + 1) % 60
        assert torch.equal(as_graph(edges, 60, 60).edge_index(), edges)
    assert not first.col.is_inference() or first is not as_graph(edges, 60, 60)


def test_as_graph_takes_what_layers_are_given() -> None:
    graph = MEDIUM["bipartite"].graph()
    assert as_graph(graph, graph.num_src, graph.num_dst) is graph
    sparse = torch.eye(3).to_sparse()
    same(as_graph(sparse, 3, 3), Graph.from_edge_index(torch.arange(3).repeat(2, 1)))
    with pytest.raises(ValueError) as caught:
        as_graph(graph, 3, 4)
    assert str(caught.value) == "the graph has 62 sources and 31 destinations, the features are for 3 and 4"

"""HeteroGraph: packed patterns against a naive model, PyG's HeteroData, copies, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import cases
import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, HeteroGraph, ops, use_backend
from fastgmtl.hetero import Relation

NODES = {"author": 3, "paper": 5, "term": 4, "venue": 2, "nobody": 0}
# Nothing points to a venue; one relation has no edges; two have the same types; loops and parallel edges.
EDGES = {
    ("author", "writes", "paper"): [[2, 0, 0, 2], [4, 1, 0, 4]],
    ("paper", "by", "author"): [[4, 1, 0], [2, 0, 0]],
    ("paper", "cites", "paper"): [[0, 1, 1, 4, 1], [1, 1, 1, 0, 3]],
    ("paper", "extends", "paper"): [[], []],
    ("term", "in", "paper"): [[3, 0], [0, 0]],
    ("venue", "of", "paper"): [[1], [2]],
    ("paper", "has", "term"): [[0, 4], [3, 3]],
}


def edges(dtype: torch.dtype = torch.int64) -> dict[Relation, Tensor]:
    return {relation: torch.tensor(pairs, dtype=dtype) for relation, pairs in EDGES.items()}


@pytest.fixture
def graph() -> HeteroGraph:
    return HeteroGraph.from_dict(edges(), NODES)


def check(graph: HeteroGraph, edge_index: dict[Relation, Tensor], num_nodes: dict[str, int]) -> None:
    """Every packed pattern is the naive one: for each (node, relation) its neighbours in the given order."""
    assert dict(graph.num_nodes) == num_nodes and graph.node_types == tuple(num_nodes)
    assert graph.relations == tuple(edge_index)
    assert dict(graph.num_edges) == {r: e.size(1) for r, e in edge_index.items()}
    start = {t: sum(list(num_nodes.values())[:i]) for i, t in enumerate(num_nodes)}
    for node_type, number in num_nodes.items():
        assert graph.rows(node_type) == slice(start[node_type], start[node_type] + number)
        packed = graph.packed(node_type)
        into = [r for r in edge_index if r[2] == node_type]
        assert packed.relations == tuple(into) and packed.node_type == node_type
        assert [graph.relations[i] for i in packed.relation_ids] == into
        assert (packed.num_nodes, packed.num_relations) == (number, len(into))
        pattern, want = packed.graph, []
        for node in range(number):
            for relation in into:
                src, dst = edge_index[relation].tolist()
                want.append([s + start[relation[0]] for s, d in zip(src, dst, strict=True) if d == node])
        assert columns_by_row(pattern) == want
        assert (pattern.num_dst, pattern.num_src) == (number * len(into), sum(num_nodes.values()))
        joined, count = packed.by_node(), len(into)
        assert columns_by_row(joined) == [list(chain(*want[i * count : (i + 1) * count])) for i in range(number)]
        assert packed.edge_type().tolist() == [i for i, r in enumerate(into) for _ in range(edge_index[r].size(1))]
        in_rows = packed.edge_type()[joined.sort_edges(torch.arange(joined.num_edges))]
        assert torch.equal(in_rows, pattern.edge_rows() % max(1, count))
    found = graph.edge_index_dict()
    assert list(found) == list(edge_index)
    for relation, e in found.items():
        assert e.dtype == torch.int64 and torch.equal(e, edge_index[relation].long())


def columns_by_row(graph: Graph) -> list[list[int]]:
    return [graph.col[a:b].tolist() for a, b in pairwise(graph.row_ptr.tolist())]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_from_dict(backend: str, dtype: torch.dtype) -> None:
    with use_backend(backend):
        check(HeteroGraph.from_dict(edges(dtype), NODES), edges(), NODES)


def test_nothing_at_all() -> None:
    check(HeteroGraph.from_dict({}, {}), {}, {})
    check(HeteroGraph.from_dict({}, {"a": 2}), {}, {"a": 2})
    assert repr(HeteroGraph.from_dict({}, {})) == "HeteroGraph(nodes: none; edges: none; device='cpu')"


def test_values_of_nodes_and_edges_go_there_and_back(graph: HeteroGraph) -> None:
    x = {t: torch.randn(n, 2) for t, n in NODES.items()}
    table = graph.join_nodes(x)
    assert all(torch.equal(table[graph.rows(t)], v) for t, v in x.items())
    assert {t: v.tolist() for t, v in graph.split_nodes(table).items()} == {t: v.tolist() for t, v in x.items()}
    packed = graph.packed("paper")
    values = {r: torch.randn(graph.num_edges[r]) for r in packed.relations}
    joined = packed.join_edges(values)
    assert {r: v.tolist() for r, v in packed.split_edges(joined).items()} == {r: v.tolist() for r, v in values.items()}
    # The order is the one that operators take weights in.
    sums = ops.spmm(packed.graph, table, joined).unflatten(0, (NODES["paper"], -1))
    for r, relation in enumerate(packed.relations):
        src, dst = edges()[relation]
        want = torch.zeros(NODES["paper"], 2).index_add(0, dst, values[relation][:, None] * x[relation[0]][src])
        torch.testing.assert_close(sums[:, r], want)


def test_by_source(graph: HeteroGraph) -> None:
    """What each node sends along each relation, received: the same as relation by relation."""
    pattern = graph.by_source()
    assert graph.by_source() is pattern
    assert torch.equal(pattern.edge_rows().bincount(minlength=14), graph.to_homogeneous().graph.in_degree())
    leaving = {t: graph.out_of(t) for t in graph.node_types}
    assert leaving["venue"] == (("venue", "of", "paper"),) and leaving["nobody"] == ()
    sent = {t: torch.randn(n, len(leaving[t]), 2) for t, n in NODES.items()}
    got = graph.split_nodes(ops.spmm(pattern, torch.cat([v.flatten(0, 1) for v in sent.values()])))
    for node_type, number in NODES.items():
        want = torch.zeros(number, 2)
        for relation, (src, dst) in edges().items():
            if relation[2] == node_type:
                place = leaving[relation[0]].index(relation)
                want = want.index_add(0, dst, sent[relation[0]][src, place])
        torch.testing.assert_close(got[node_type], want)


def test_pyg_and_back(graph: HeteroGraph) -> None:
    pytest.importorskip("torch_geometric", reason="needs torch-geometric")
    data = graph.to_hetero_data()
    assert (data.node_types, data.edge_types) == (list(graph.node_types), list(graph.relations))
    check(HeteroGraph.from_hetero_data(data), edges(), NODES)
    single, theirs = graph.to_homogeneous(), data.to_homogeneous()
    assert torch.equal(single.graph.edge_index(), theirs.edge_index)
    assert torch.equal(single.edge_type, theirs.edge_type)
    assert torch.equal(single.node_type, theirs.node_type)
    assert (single.graph.num_src, single.graph.num_dst) == (sum(NODES.values()),) * 2


def test_pyg_with_sparse_matrices() -> None:
    geometric = pytest.importorskip("torch_geometric", reason="needs torch-geometric")
    data = geometric.data.HeteroData()
    data["a"].num_nodes, data["b"].num_nodes = 2, 3
    data["a", "x", "b"].adj_t = torch.sparse_coo_tensor(
        [[0, 2, 2], [1, 0, 1]], torch.ones(3), (3, 2), check_invariants=True
    )
    got = HeteroGraph.from_hetero_data(data)
    assert got.edge_index_dict()["a", "x", "b"].tolist() == [[1, 0, 1], [0, 2, 2]]
    data["b", "y", "a"].weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"^HeteroGraph: relation \(b, y, a\) has neither edge_index nor adj_t$"):
        HeteroGraph.from_hetero_data(data)


def test_inverse_and_self_relations(graph: HeteroGraph) -> None:
    back = {(r[2], f"rev_{r[1]}", r[0]): e.flip(0) for r, e in edges().items()}
    check(graph.add_inverse_relations(), edges() | back, NODES)
    one = ("venue", "of", "paper")
    check(graph.add_inverse_relations([one]), edges() | {("paper", "rev_of", "venue"): edges()[one].flip(0)}, NODES)
    loops = {(t, "self", t): torch.arange(n).repeat(2, 1) for t, n in NODES.items()}
    check(graph.add_self_relations(), edges() | loops, NODES)
    check(
        graph.add_self_relations(["term"]), edges() | {("term", "self", "term"): loops["term", "self", "term"]}, NODES
    )
    for call, text in (
        (
            lambda: graph.add_self_relations().add_self_relations(["term"]),
            "relation (term, self, term) must not be there already",
        ),
        (
            lambda: graph.add_inverse_relations().add_inverse_relations([one]),
            "relation (paper, rev_of, venue) must not be there already",
        ),
        (
            lambda: graph.add_self_relations(["tern"]),
            "node type 'tern' is unknown; this graph has author, paper, term, venue, nobody",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == "HeteroGraph: " + text
    with pytest.raises(
        ValueError, match=r"relation \('a', 'x', 'b'\) is unknown; this graph has \(author, writes, paper\), "
    ):
        graph.add_inverse_relations([("a", "x", "b")])


def test_immutable_and_what_it_says(graph: HeteroGraph) -> None:
    with pytest.raises(AttributeError) as caught:
        graph.relations = ()
    assert str(caught.value) == "HeteroGraph: relations cannot be set, a graph is immutable; build a new one"
    with pytest.raises(TypeError):
        graph.num_nodes["author"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        graph.packed("paper").num_nodes = 1  # type: ignore[misc]
    small = HeteroGraph.from_dict({("a", "x", "b"): torch.tensor([[0], [1]])}, {"a": 1, "b": 2})
    assert repr(small) == "HeteroGraph(nodes: a=1, b=2; edges: (a, x, b)=1; device='cpu')"


def test_later_changes_do_not_reach_the_graph() -> None:
    given, counts = edges(), dict(NODES)
    graph = HeteroGraph.from_dict(given, counts)
    for e in given.values():
        e.zero_()
    counts["author"] = 7
    given.clear()
    check(graph, edges(), NODES)
    for e in graph.edge_index_dict().values():
        e.zero_()
    check(graph, edges(), NODES)


def test_pickle_copy_and_to(graph: HeteroGraph) -> None:
    graph.packed("paper").graph.t()
    for again in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        check(again, edges(), NODES)
    assert graph.to("cpu") is graph
    far = graph.to("meta")
    assert far.device.type == "meta" and far.packed("paper").graph.t().device.type == "meta"
    assert dict(far.num_edges) == dict(graph.num_edges) and far.packed("paper").edge_type().device.type == "meta"


def test_first_use_in_inference_mode_can_be_trained_on_later(graph: HeteroGraph) -> None:
    packed = graph.packed("paper")
    with torch.inference_mode():
        joined = packed.by_node()
        assert not packed.edge_type().is_inference()
    x = torch.randn(joined.num_src, 2, requires_grad=True)
    ops.spmm(joined, x, torch.rand(joined.num_edges)).sum().backward()
    assert x.grad is not None


one = {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: HeteroGraph.from_dict({("a", "x", "c"): torch.zeros(2, 1, dtype=torch.long)}, one),
            ValueError,
            "relation (a, x, c): node type c is unknown; num_nodes_dict has a, b",
        ),
        (
            lambda: HeteroGraph.from_dict({("a", "x", "b"): torch.tensor([[0, 2], [0, 0]])}, one),
            IndexError,
            "relation (a, x, b): every source (a) must be in [0, 2), edge 1 has 2",
        ),
        (
            lambda: HeteroGraph.from_dict({("a", "x", "b"): torch.tensor([[0, 1], [0, -1]])}, one),
            IndexError,
            "relation (a, x, b): every destination (b) must be in [0, 3), edge 1 has -1",
        ),
        (
            lambda: HeteroGraph.from_dict({("a", "x", "b"): torch.zeros(2, 3)}, one),
            TypeError,
            "relation (a, x, b): edge_index must be int32 or int64, got float32; convert it with .long()",
        ),
        (
            lambda: HeteroGraph.from_dict({("a", "x", "b"): torch.zeros(3, 2, dtype=torch.long)}, one),
            ValueError,
            "relation (a, x, b): edge_index must have shape [2, E], got [3, 2]; transpose it with .t()",
        ),
        (
            lambda: HeteroGraph.from_dict({"x": torch.zeros(2, 3)}, one),  # type: ignore[dict-item]
            TypeError,
            "a relation must be (source type, name, destination type), three strings, got 'x'",
        ),
        (
            lambda: HeteroGraph.from_dict({("a", "b"): torch.zeros(2, 3)}, one),  # type: ignore[dict-item]
            TypeError,
            "a relation must be (source type, name, destination type), three strings, got ('a', 'b')",
        ),
        (
            lambda: HeteroGraph.from_dict([], one),  # type: ignore[arg-type]
            TypeError,
            "edge_index_dict must map relations to edge indices, got list",
        ),
        (
            lambda: HeteroGraph.from_dict({}, 3),  # type: ignore[arg-type]
            TypeError,
            "num_nodes_dict must map node types to numbers of nodes, got int",
        ),
        (
            lambda: HeteroGraph.from_dict({}, {0: 3}),  # type: ignore[dict-item]
            TypeError,
            "a node type must be a string, got 0",
        ),
        (lambda: HeteroGraph.from_dict({}, {"a": -1}), ValueError, "num_nodes of a must not be negative, got -1"),
        (
            lambda: HeteroGraph.from_dict({}, {"a": None}),  # type: ignore[dict-item]
            TypeError,
            "num_nodes of a must be an integer, got NoneType",
        ),
        (
            lambda: HeteroGraph.from_dict(
                {
                    ("a", "x", "b"): torch.zeros(2, 1, dtype=torch.long),
                    ("a", "y", "b"): torch.zeros(2, 1, dtype=torch.long, device="meta"),
                },
                one,
            ),
            ValueError,
            "relation (a, y, b): edges must be on one device, got cpu and meta",
        ),
        (
            lambda: HeteroGraph.from_dict({}, one).packed("c"),
            ValueError,
            "node type 'c' is unknown; this graph has a, b",
        ),
        (lambda: HeteroGraph.from_dict({}, {}).rows("c"), ValueError, "node type 'c' is unknown; this graph has none"),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == "HeteroGraph: " + text


def test_a_large_graph_is_what_the_naive_model_says() -> None:
    generator = cases.generator("hetero")
    counts = {"a": 40, "b": 25}
    many = {
        (s, f"r{i}", d): torch.stack(
            [torch.randint(counts[s], (60,), generator=generator), torch.randint(counts[d], (60,), generator=generator)]
        )
        for i, (s, d) in enumerate([("a", "b"), ("b", "a"), ("a", "a"), ("b", "b"), ("a", "b")])
    }
    check(HeteroGraph.from_dict(many, counts), many, counts)

"""Graph from every source, against a naive model; and what it refuses, with the exact words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS, Pattern
from torch import Tensor

from fastgmtl import Graph, use_backend

ALL = {f"{size}-{name}": p for size, table in (("small", PATTERNS), ("medium", MEDIUM)) for name, p in table.items()}


def check(graph: Graph, edge_index: Tensor, num_src: int, num_dst: int) -> None:
    """``graph`` is what a stable sort of the edges by destination gives, and its transpose that by source."""
    src, dst = edge_index.tolist()
    for g, row, col, rows, cols in ((graph, dst, src, num_dst, num_src), (graph.t(), src, dst, num_src, num_dst)):
        inward = g is graph
        # The transpose is sorted within a row by destination: by the order of the rows it was made from.
        order = sorted(range(len(row)), key=(lambda e: (row[e], e)) if inward else (lambda e: (row[e], col[e], e)))  # noqa: B023
        assert g.col.tolist() == [col[e] for e in order]
        assert (g.edge_id.tolist() if g.edge_id is not None else list(range(len(row)))) == order
        assert g.row_ptr.tolist() == [sum(r < i for r in row) for i in range(rows + 1)]
        assert (g.num_src, g.num_dst, g.num_edges) == (cols, rows, len(row))
        assert g.row_ptr.dtype == torch.int64 and (g.edge_id is None or g.edge_id.dtype == g.col.dtype)
    assert (graph.edge_id is None) == (dst == sorted(dst))
    assert torch.equal(graph.edge_index(), edge_index.long())
    assert graph.in_degree().tolist() == [dst.count(i) for i in range(num_dst)]
    assert graph.out_degree().tolist() == [src.count(i) for i in range(num_src)]
    value = torch.randn(len(row), 2)
    assert torch.equal(graph.unsort_edges(graph.sort_edges(value)), value)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pattern", ALL.values(), ids=ALL.keys())
def test_from_edge_index(pattern: Pattern, backend: str) -> None:
    with use_backend(backend):
        for dtype in (torch.int64, torch.int32):
            graph = Graph.from_edge_index(pattern.edge_index.to(dtype), pattern.num_src, pattern.num_dst)
            assert graph.col.dtype == torch.int32
            check(graph, pattern.edge_index, pattern.num_src, pattern.num_dst)


@pytest.mark.parametrize("kind", ["power_law", "uniform"])
def test_the_sort_does_not_depend_on_threads(kind: str, threads: None, kernels: object) -> None:
    edge_index = cases.large(kind, 500, 200_000).edge_index
    with use_backend("reference"):
        want = Graph.from_edge_index(edge_index, 500)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        got = Graph.from_edge_index(edge_index, 500)
        for g, w in ((got, want), (got.t(), want.t())):
            assert torch.equal(g.row_ptr, w.row_ptr) and torch.equal(g.col, w.col)
            assert g.edge_id is not None and w.edge_id is not None and torch.equal(g.edge_id, w.edge_id)


def test_sizes_that_are_missing() -> None:
    edges = torch.tensor([[0, 3], [1, 2]])
    assert [(g.num_src, g.num_dst) for g in (Graph.from_edge_index(edges), Graph.from_edge_index(edges, 9))] == [
        (4, 4),
        (9, 9),
    ]
    graph = Graph.from_edge_index(edges, num_dst=5)
    assert (graph.num_src, graph.num_dst) == (5, 5)
    assert Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.long)).num_dst == 0


def test_memory_layout_of_edges_does_not_matter() -> None:
    pairs = cases.random_edges(5, 5, 20, cases.generator("layout")).t().contiguous()
    check(Graph.from_edge_index(pairs.t(), 5), pairs.t(), 5, 5)
    wide = torch.stack([pairs.t(), pairs.t() + 100], 2)
    check(Graph.from_edge_index(wide[:, :, 0], 5), pairs.t(), 5, 5)


def test_from_csr() -> None:
    for pattern in PATTERNS.values():
        want = pattern.graph()
        got = Graph.from_csr(want.row_ptr.int(), want.col, pattern.num_src)
        check(got, torch.stack([want.col.long(), want.edge_rows()]), pattern.num_src, pattern.num_dst)
    assert Graph.from_csr(torch.tensor([0, 2]), torch.tensor([4, 1])).num_src == 5


def no_repeats(pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Edges without repetitions in row-major order (what a sparse matrix holds), and the dense matrix."""
    dense = torch.zeros(pattern.num_dst, pattern.num_src)
    dense[pattern.edge_index[1], pattern.edge_index[0]] = torch.rand(pattern.edge_index.size(1)) + 1
    row, col = dense.nonzero().t()
    return torch.stack([col, row]), dense


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_from_torch_sparse(pattern: Pattern, layout: str) -> None:
    from fastgmtl.convert import sparse_weight

    edges, dense = no_repeats(pattern)
    sparse = getattr(dense, f"to_sparse_{layout}")() if layout != "coo" else dense.to_sparse()
    check(Graph.from_sparse(sparse), edges, pattern.num_src, pattern.num_dst)
    weight = sparse_weight(sparse)
    assert weight is not None and torch.equal(weight, dense[edges[1], edges[0]])


def test_from_torch_sparse_adds_up_repeated_entries() -> None:
    twice = torch.sparse_coo_tensor([[1, 0, 1], [0, 0, 0]], [1.0, 2.0, 3.0], (2, 2), check_invariants=True)
    check(Graph.from_sparse(twice), torch.tensor([[0, 0], [0, 1]]), 2, 2)


@pytest.mark.parametrize("pattern", ["typical", "bipartite", "no_edges"])
def test_from_torch_sparse_tensor_of_torch_sparse(pattern: str) -> None:
    torch_sparse = pytest.importorskip("torch_sparse", reason="needs torch-sparse")
    edges, _ = no_repeats(PATTERNS[pattern])
    sizes = (PATTERNS[pattern].num_dst, PATTERNS[pattern].num_src)
    adj_t = torch_sparse.SparseTensor(row=edges[1], col=edges[0], sparse_sizes=sizes)
    check(Graph.from_sparse(adj_t), edges, *sizes[::-1])


def test_from_pyg() -> None:
    geometric = pytest.importorskip("torch_geometric", reason="needs torch-geometric")
    edges = PATTERNS["typical"].edge_index
    data = geometric.data.Data(edge_index=edges, num_nodes=7)
    check(Graph.from_data(data), edges, 7, 7)
    check(Graph.from_data(geometric.data.Batch.from_data_list([data, data])), torch.cat([edges, edges + 7], 1), 14, 14)
    index = geometric.EdgeIndex(edges, sparse_size=(5, 5))
    check(Graph.from_edge_index(index), edges, 5, 5)
    assert type(Graph.from_edge_index(index).col) is Tensor
    with pytest.raises(
        ValueError, match=r"^graph: from_data needs an object with edge_index or adj_t, got Data with neither$"
    ):
        Graph.from_data(geometric.data.Data(num_nodes=3))


def test_from_dgl_by_what_it_offers() -> None:
    edges = PATTERNS["typical"].edge_index

    class DGLGraph:
        def edges(self, form: str, order: str) -> tuple[Tensor, Tensor]:
            assert (form, order) == ("uv", "eid")
            return edges[0], edges[1]

        def num_nodes(self) -> int:
            return 8

    check(Graph.from_dgl(DGLGraph()), edges, 8, 8)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: Graph.from_edge_index([[0], [1]]),  # type: ignore[arg-type]
            TypeError,
            "graph: edge_index must be a tensor [2, E] of int32 or int64, got list; wrap it in torch.as_tensor",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, 3)),
            TypeError,
            "graph: edge_index must be int32 or int64, got float32; convert it with .long()",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, 3, requires_grad=True)),
            TypeError,
            "graph: edge_index must be int32 or int64, got float32; convert it with .long()",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, 3, dtype=torch.bool)),
            TypeError,
            "graph: edge_index must be int32 or int64, got bool; convert it with .long()",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, 3, dtype=torch.long).to_sparse()),
            TypeError,
            "graph: edge_index must be a dense tensor [2, E], got layout torch.sparse_coo; use Graph.from_sparse",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(7, 2, dtype=torch.long)),
            ValueError,
            "graph: edge_index must have shape [2, E], got [7, 2]; transpose it with .t()",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, dtype=torch.long)),
            ValueError,
            "graph: edge_index must have shape [2, E], got [2]",
        ),
        (
            lambda: Graph.from_edge_index(torch.zeros(2, 3, 1, dtype=torch.long)),
            ValueError,
            "graph: edge_index must have shape [2, E], got [2, 3, 1]",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0, 1, 2], [0, 1, 3]]), 3),
            IndexError,
            "graph: every destination must be in [0, 3), edge 2 has 3; give the number of nodes or mend the edge list",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0, -1], [0, 1]]), 3),
            IndexError,
            "graph: every source must be in [0, 3), edge 1 has -1; give the number of nodes or mend the edge list",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0, -5], [0, 1]])),
            IndexError,
            "graph: every source must be in [0, 2), edge 1 has -5; give the number of nodes or mend the edge list",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[2**62], [0]]), 3, 3),
            IndexError,
            "graph: every source must be in [0, 3), edge 0 has 4611686018427387904; give the number of nodes or mend "
            "the edge list",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0], [0]]), 0, 0),
            IndexError,
            "graph: every destination must be in [0, 0), edge 0 has 0; give the number of nodes or mend the edge list",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0], [0]]), num_src=-1),
            ValueError,
            "graph: num_src must not be negative, got -1",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0], [0]]), num_dst=2.0),  # type: ignore[arg-type]
            TypeError,
            "graph: num_src must be an integer, got float",
        ),
        (
            lambda: Graph.from_edge_index(torch.tensor([[0], [0]]), True),
            TypeError,
            "graph: num_src must be an integer, got bool",
        ),
        (
            lambda: Graph.from_csr(torch.tensor([0, 1]), torch.tensor([0, 1])),
            ValueError,
            "graph: row_ptr must begin with 0 and end with the number of edges 2, got ends [0, 1]",
        ),
        (
            lambda: Graph.from_csr(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)),
            ValueError,
            "graph: row_ptr must begin with 0 and end with the number of edges 0, got ends []",
        ),
        (
            lambda: Graph.from_csr(torch.tensor([0, 2, 1, 2]), torch.tensor([0, 1])),
            ValueError,
            "graph: row_ptr must not decrease",
        ),
        (
            lambda: Graph.from_csr(torch.tensor([0, 2]), torch.tensor([0, 5]), 5),
            IndexError,
            "graph: every source must be in [0, 5), edge 1 has 5",
        ),
        (
            lambda: Graph.from_csr(torch.tensor([0.0, 2.0]), torch.tensor([0, 5])),
            TypeError,
            "graph: row_ptr must be a 1-d tensor of int32 or int64, got torch.float32 [2]",
        ),
        (
            lambda: Graph.from_csr(torch.tensor([0, 1]), [0]),  # type: ignore[arg-type]
            TypeError,
            "graph: col must be a 1-d tensor of int32 or int64, got list",
        ),
        (
            lambda: Graph.from_sparse(torch.zeros(2, 2)),
            TypeError,
            "graph: a 2-d sparse tensor is required, got layout torch.strided with shape [2, 2]",
        ),
        (
            lambda: Graph.from_sparse("edges"),
            TypeError,
            "graph: edges must be a Graph, an edge_index tensor [2, E], a torch sparse tensor or a torch_sparse "
            "SparseTensor, got str",
        ),
        (
            lambda: Graph.from_data(SimpleNamespace(x=1)),
            ValueError,
            "graph: from_data needs an object with edge_index or adj_t, got SimpleNamespace with neither",
        ),
        (lambda: Graph.batch([]), ValueError, "Graph.batch: at least one graph is required, got an empty sequence"),
        (
            lambda: PATTERNS["typical"].graph().unbatch(),
            ValueError,
            "Graph.unbatch: this graph was not made by Graph.batch",
        ),
        (
            lambda: PATTERNS["bipartite"].graph().add_self_loops(),
            ValueError,
            "Graph.add_self_loops: the graph must have as many sources as destinations, got 7 and 3",
        ),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("row", [0, 1])
def test_a_bad_index_is_named_wherever_it_stands(row: int, backend: str) -> None:
    name = ("source", "destination")[row]
    for at, value in ((0, -1), (70_000, 10), (99_999, -(2**63))):
        edges = torch.randint(10, (2, 100_000), generator=cases.generator("bad"))
        edges[row, at] = value
        with (
            use_backend(backend),
            pytest.raises(IndexError, match=rf"every {name} must be in \[0, 10\), edge {at} has {value};"),
        ):
            Graph.from_edge_index(edges, 10)


def test_int32_indices_that_are_bad() -> None:
    with pytest.raises(IndexError, match=r"every source must be in \[0, 4\), edge 1 has -7;"):
        Graph.from_edge_index(torch.tensor([[0, -7], [0, 1]], dtype=torch.int32), 4)


def test_construction_from_many_threads_at_once() -> None:
    patterns = [*MEDIUM.values()] * 2
    wanted = [(g := p.graph()).t() and g for p in patterns]
    got: list[Graph | None] = [None] * len(patterns)
    shared, backs = MEDIUM["typical"].graph(), []

    def work(k: int) -> None:
        got[k] = patterns[k].graph()
        backs.append(shared.t())
        got[k].t()  # type: ignore[union-attr]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(patterns))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for g, w in zip(got, wanted, strict=True):
        assert g is not None
        assert torch.equal(g.col, w.col) and torch.equal(g.t().col, w.t().col)
    assert all(torch.equal(b.col, shared.t().col) and torch.equal(b.row_ptr, shared.t().row_ptr) for b in backs)

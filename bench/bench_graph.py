"""The graph: from an edge_index in random order, its transpose, GCN normalisation. Nothing is kept between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import Absent, need
from fastgmtl import Graph, ops


def is_quick(size: str, threads: int) -> bool:
    return size == "small" and threads == 1


SIZES = pytest.mark.parametrize(("size", "threads"), cases(("small", "big"), (1, 2), quick=is_quick))


def optional(make: Callable[[], Provider], *packages: str) -> Provider | str:
    try:
        need(*packages)
    except Absent as reason:
        return str(reason)
    return make()


def same(row_ptr: Tensor) -> Callable[[Any], float]:
    """``error`` of a provider whose result begins with the row pointer."""
    return lambda result: difference([result[0][1:]], [row_ptr[1:]])


@SIZES
def test_construct(benchmark: Any, settings: Settings, size: str, threads: int) -> None:
    """(row_ptr, col, permutation) of E edges in random order, validated by those who validate."""
    (count, num_edges), (edge_index, _) = graphs.SIZES[size], graphs.shuffled(graphs.edges(size))
    error = same(graphs.graph(size).row_ptr)

    def sort() -> tuple[Tensor, ...]:
        dst, order = torch.sort(edge_index[1], stable=True)
        return torch._convert_indices_from_coo_to_csr(dst, count), edge_index[0][order], order

    def torch_sparse() -> Provider:
        from torch_sparse import SparseTensor

        def run() -> tuple[Tensor, ...]:
            made = SparseTensor(row=edge_index[1], col=edge_index[0], sparse_sizes=(count, count))
            return made.storage.rowptr(), made.storage.col()

        return Provider(run, error)

    def edge_index_class() -> Provider:
        from torch_geometric import EdgeIndex

        def run() -> tuple[Tensor, ...]:
            made = EdgeIndex(edge_index, sparse_size=(count, count)).sort_by("col")
            return made.values.get_indptr(), made.values.as_tensor(), made.indices

        return Provider(run, error)

    providers = {
        OURS: Provider(lambda: Graph.from_edge_index(edge_index, count, count).pattern, error),
        "torch.sort": Provider(sort, error),
        "torch_sparse.SparseTensor": optional(torch_sparse, "torch_sparse", "torch_scatter"),
        "PyG EdgeIndex.sort_by": optional(edge_index_class, "torch_geometric"),
    }
    case = Case("graph", "construction from edge_index", "construct", threads, count, num_edges, 0, dtype="int64")
    output = 8 * (count + 1) + 8 * num_edges  # row_ptr in int64, col and edge_id in int32
    settings.measure(benchmark, case, providers, Floors(16 * num_edges + output, None, output))


@SIZES
def test_transpose(benchmark: Any, settings: Settings, size: str, threads: int) -> None:
    """The transpose of a sorted graph with its permutation, which is what a backward needs."""
    graph = graphs.graph(size)
    rows, col, count = graph.edge_rows(), graph.col.long(), graph.num_src
    error = same(graph.t().row_ptr)

    def sort() -> tuple[Tensor, ...]:
        src, order = torch.sort(col, stable=True)
        return torch._convert_indices_from_coo_to_csr(src, count), rows[order], order

    def torch_csr() -> tuple[Tensor, ...]:
        made = matrix.to_sparse_csc()  # its values are the positions of the edges
        return made.ccol_indices(), made.row_indices(), made.values()

    def torch_sparse() -> Provider:
        from torch_sparse import SparseTensor

        def run() -> tuple[Tensor, ...]:
            made = SparseTensor(row=rows, rowptr=graph.row_ptr, col=col, sparse_sizes=(count, count), is_sorted=True)
            return made.storage.colptr(), made.storage.csr2csc()

        return Provider(run, error)

    def edge_index_class() -> Provider:
        from torch_geometric import EdgeIndex

        def run() -> tuple[Tensor, ...]:
            made = EdgeIndex(pairs, sparse_size=(count, count), sort_order="col")
            (row_ptr, others), order = made.get_csr()
            return row_ptr, others, order

        return Provider(run, error)

    matrix = torch.sparse_csr_tensor(graph.row_ptr, col, torch.arange(graph.num_edges), (count, count))
    pairs = torch.stack([col, rows])
    providers = {
        OURS: Provider(lambda: Graph(*graph.pattern).t().pattern, error),
        "torch.sort": Provider(sort, error),
        "torch CSR to_sparse_csc": Provider(torch_csr, error),
        "torch_sparse csr2csc": optional(torch_sparse, "torch_sparse", "torch_scatter"),
        "PyG EdgeIndex.get_csr": optional(edge_index_class, "torch_geometric"),
    }
    case = Case("graph", "transpose", "transpose", threads, count, graph.num_edges, 0, dtype="int32")
    output = 8 * (count + 1) + 8 * graph.num_edges
    moved = 4 * graph.num_edges + 8 * (graph.num_dst + 1) + output
    settings.measure(benchmark, case, providers, Floors(moved, None, output))


@SIZES
def test_gcn_norm(benchmark: Any, settings: Settings, size: str, threads: int) -> None:
    """Self loops and symmetric normalisation of a graph that is there; ours gives a sorted graph as well."""
    graph = graphs.graph(size)
    pairs, count = torch.stack([graph.col.long(), graph.edge_rows()]), graph.num_dst
    wanted = ops.gcn_norm(graph)[1].sort().values
    # Loops of the given graph stay in ours, with weight 0: the others drop them.
    size_of = lambda w: wanted[wanted.size(0) - w.size(0) :]  # noqa: E731

    def error(result: Any) -> float:
        weight = result[1].sort().values
        return difference([weight], [size_of(weight)])

    def pyg(sparse: bool) -> Provider:
        from torch_geometric.nn.conv.gcn_conv import gcn_norm

        if not sparse:
            return Provider(lambda: gcn_norm(pairs, None, count), error)
        matrix = torch.sparse_csr_tensor(graph.row_ptr, graph.col.long(), torch.ones(graph.num_edges), (count, count))
        return Provider(lambda: gcn_norm(matrix, None, count))

    providers = {
        OURS: Provider(lambda: ops.gcn_norm(Graph(*graph.pattern)), error),
        "PyG gcn_norm, edge_index": optional(lambda: pyg(False), "torch_geometric"),
        "PyG gcn_norm, CSR": optional(lambda: pyg(True), "torch_geometric"),
    }
    case = Case("graph", "gcn_norm with self loops", "gcn_norm", threads, count, graph.num_edges, 0)
    output = 8 * (count + 1) + 12 * (graph.num_edges + count)
    moved = 8 * graph.num_edges + 8 * (count + 1) + output
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

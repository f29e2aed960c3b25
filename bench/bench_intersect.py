"""Sums over common neighbours beside PyTorch, SciPy and the way of NCN's authors, for pairs of nodes of a graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from fastgmtl import Graph, ops, reference

# A graph and how many pairs are asked for.
SIZES = {"tiny, 20k pairs": ("tiny", 20_000), "small, 100k pairs": ("small", 100_000)}
WIDTH = 64


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size.startswith("tiny") and threads == 1 and mode == "fwdbwd"


def by_authors(graph: Graph) -> Callable[[Tensor], Tensor]:
    """Entries (pair, neighbour) of both ends as keys, the shorter list searched in the longer one; [2, E']."""
    start, size = graph.row_ptr, graph.num_src

    def keys(nodes: Tensor) -> Tensor:
        count = start.diff()[nodes]
        query = torch.arange(len(nodes)).repeat_interleave(count)
        place = torch.arange(len(query)) - (count.cumsum(0) - count)[query] + start[nodes][query]
        return query * size + graph.col[place]

    def run(pairs: Tensor) -> Tensor:
        short, long = sorted((keys(pairs[0]), keys(pairs[1])), key=len)
        place = torch.searchsorted(long, short).clamp(max=len(long) - 1)
        found = short[long[place] == short]
        return torch.stack([found // size, found % size])

    return run


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("pairs", "fwd", "fwdbwd"), quick=is_quick))
def test_intersect(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    (name, queries), train = SIZES[size], mode == "fwdbwd"
    edges = graphs.edges(name)
    nodes = graphs.SIZES[name][0]
    graph = Graph.from_edge_index(torch.cat([edges, edges.flip(1)], 1), nodes, nodes).neighbor_sets()
    # Half of the pairs are edges, which have more in common.
    g = torch.Generator().manual_seed(0)
    picked = edges[:, torch.randint(edges.size(1), (queries // 2,), generator=g)]
    pairs = torch.cat([picked, torch.randint(nodes, (2, queries - queries // 2), generator=g)], 1)
    h, grad = graphs.random(nodes, WIDTH, seed=1).requires_grad_(train), graphs.random(queries, WIDTH, seed=2)

    def summed(found: Graph) -> tuple[Tensor, ...]:
        if mode == "pairs":
            return (found.row_ptr, found.col)
        out = ops.spmm(found, h)
        return (out.detach(), *(torch.autograd.grad(out, h, grad) if train else ()))

    authors = by_authors(graph)

    def added(row: Tensor, col: Tensor) -> tuple[Tensor, ...]:
        """As a sparse product, which PyTorch differentiates."""
        if mode == "pairs":
            return (row, col)
        matrix = torch.sparse_coo_tensor(torch.stack([row, col]), torch.ones(len(row)), (queries, nodes))
        out = matrix.coalesce() @ h
        return (out.detach(), *(torch.autograd.grad(out, h, grad) if train else ()))

    wanted = summed(reference.intersect(graph, pairs))  # type: ignore[arg-type]

    def error(result: tuple[Tensor, ...]) -> float:
        return difference(result, wanted)

    of_sums = None if mode == "pairs" else error
    providers: dict[str, Provider | str] = {
        OURS: Provider(lambda: summed(ops.intersect(graph, pairs)), error),
        "PyTorch, isin": Provider(lambda: summed(reference.intersect(graph, pairs)), error),  # type: ignore[arg-type]
        "as NCN's authors": Provider(lambda: added(*authors(pairs)), of_sums),
    }
    if importlib.util.find_spec("scipy") is None:
        providers["SciPy"] = "scipy is not installed"
    else:
        from scipy.sparse import csr_array

        ones = torch.ones(graph.num_edges)
        there = csr_array((ones.numpy(), graph.col.numpy(), graph.row_ptr.numpy()), (nodes, nodes))

        def by_scipy() -> tuple[Tensor, ...]:
            found = (there[pairs[0].numpy()] * there[pairs[1].numpy()]).tocoo()
            return added(torch.from_numpy(found.row).long(), torch.from_numpy(found.col).long())

        providers["SciPy"] = Provider(by_scipy, of_sums)
    # Both rows of a pair twice, what they have in common once, and the features of it.
    both, index = wanted[1].numel() if mode == "pairs" else ops.intersect(graph, pairs).num_edges, 4
    read = int(graph.in_degree()[pairs].sum()) * index * 2 + both * index
    moved = read + (0 if mode == "pairs" else 4 * (nodes + queries) * WIDTH * (2 if train else 1))
    output = sum(v.numel() * v.element_size() for v in wanted)
    case = Case("intersect", size, mode, threads, queries, both, WIDTH)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

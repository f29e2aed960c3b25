"""neighbor_sample on Amazon Computers and Slashdot, beside the sampler of torch_sparse (which has one thread)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import OURS, Case, Provider, Settings, cases
from bench.peers import Absent, need
from fastgmtl import Graph
from fastgmtl.data.files import find_folder, read_npz, read_text
from fastgmtl.ops import neighbor_sample

FANOUTS = {"10, 10": [10, 10], "15, 10, 5": [15, 10, 5], "all, 5": [-1, 5]}
ROUNDS = 10  # calls a round


def is_quick(data: str, fanouts: str, seeds: int, mode: str, threads: int) -> bool:
    return data == "Amazon Computers" and fanouts == "10, 10" and seeds == 128 and threads == 1


@lru_cache
def graph_of(data: str) -> Graph:
    """The graph, or a skip that says what is missing."""
    try:
        if data == "Slashdot":
            folder = find_folder("slashdot0902")
            edges = torch.from_numpy(read_text(folder / "soc-Slashdot0902.txt", True, delimiter="\t", skip=4)).t()
            return Graph.from_edge_index(edges.contiguous())
        path = find_folder("gnn_benchmark_npz") / "amazon_cs.npz"
        found = read_npz(path, {"adj_indptr": ("iu", 1), "adj_indices": ("iu", 1)})
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return Graph.from_csr(*(torch.from_numpy(found[name]).long() for name in ("adj_indptr", "adj_indices")))


def holds(graph: Graph, found: tuple[Tensor, ...], seeds: Tensor) -> float:
    """0 where every edge of a sample exists and the seeds are its first nodes, else 1."""
    node, row, col, edge = found
    src, dst = graph.edge_index()[:, edge]
    right = torch.equal(node[row], src) and torch.equal(node[col], dst) and torch.equal(node[: len(seeds)], seeds)
    return 0.0 if right else 1.0


@pytest.mark.parametrize(
    ("data", "fanouts", "seeds", "mode", "threads"),
    cases(("Amazon Computers", "Slashdot"), FANOUTS, (128, 1024), ("distinct", "replace"), (1, 2), quick=is_quick),
)
def test_sampler(
    benchmark: Any, settings: Settings, data: str, fanouts: str, seeds: int, mode: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    graph, hops, replace = graph_of(data), FANOUTS[fanouts], mode == "replace"
    nodes = torch.randperm(graph.num_dst, generator=torch.Generator().manual_seed(0))[:seeds]

    def ours() -> tuple[Tensor, ...]:
        found = neighbor_sample(graph, nodes, hops, replace)
        return found.node, found.row, found.col, found.edge

    providers: dict[str, Provider | str] = {OURS: Provider(ours, lambda found: holds(graph, found, nodes))}
    try:
        need("torch_sparse")
        import torch_sparse  # noqa: F401

        col, order = graph.col.long(), graph.edge_id

        def theirs() -> tuple[Tensor, ...]:
            return torch.ops.torch_sparse.neighbor_sample(graph.row_ptr, col, nodes, hops, replace, True)

        def error(found: tuple[Tensor, ...]) -> float:
            node, row, into, edge = found
            return holds(graph, (node, row, into, edge if order is None else order[edge].long()), nodes)

        providers["torch_sparse"] = Provider(theirs, error)
    except Absent as absent:
        providers["torch_sparse"] = str(absent)
    label = f"{data}, {fanouts}, {seeds} seeds"
    case = Case("sampler", label, mode, threads, graph.num_dst, graph.num_edges, 0)
    settings.measure(benchmark, case, providers, calls=ROUNDS)

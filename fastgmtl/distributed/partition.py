"""Which rank has which node."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from fastgmtl.graph import Graph

METHODS = ("auto", "metis", "blocks")


def partition(graph: Graph, parts: int, work: Tensor | None = None, method: str = "auto") -> Tensor:
    """The part of each node, int64 [N] in 0 .. parts - 1, so that parts have about equal work and few edges between.

    Args:
        graph: a square graph.
        parts: how many; some are empty where there are fewer nodes.
        work: of each node, int64 [N], at least 1; None for 1 + its in-degree.
        method: "metis" (Karypis and Kumar 1998; needs pymetis), "blocks" (runs of nodes in their order, of equal work:
            good where neighbours have near numbers) or "auto", metis where pymetis is installed.

    Raises:
        ValueError: the graph is not square, an argument does not fit.
        ModuleNotFoundError: method is "metis", and pymetis is not installed.
    """
    if not graph.is_square:
        raise ValueError(f"partition: the graph must be square, got {graph.num_src} to {graph.num_dst} nodes")
    if parts < 1:
        raise ValueError(f"partition: parts must be at least 1, got {parts}")
    if method not in METHODS:
        raise ValueError(f"partition: method must be one of {', '.join(METHODS)}, got {method!r}")
    work = graph.in_degree() + 1 if work is None else work
    if list(work.shape) != [graph.num_dst]:
        raise ValueError(f"partition: work must have shape [N] = [{graph.num_dst}], got {list(work.shape)}")
    if method == "auto":
        method = "blocks" if find_spec("pymetis") is None else "metis"
    if parts == 1 or graph.num_dst == 0:
        return torch.zeros(graph.num_dst, dtype=torch.int64)
    return _metis(graph, parts, work.cpu()) if method == "metis" else _blocks(parts, work.cpu())


def _blocks(parts: int, work: Tensor) -> Tensor:
    """A node goes to the part in which the middle of its own work falls."""
    before = work.cumsum(0).double() - work.double() / 2
    return (before * parts / work.sum()).long().clamp(max=parts - 1)


def _metis(graph: Graph, parts: int, work: Tensor) -> Tensor:
    try:
        import pymetis
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'partition: method "metis" needs pymetis, which is not installed; do: pip install "fastgmtl[dist]", '
            'or take method "blocks"',
            name="pymetis",
        ) from None
    n = graph.num_dst
    src, dst = graph.edge_index().cpu()
    # METIS wants each neighbour once, in both directions, and no loops.
    keys = torch.cat((src * n + dst, dst * n + src))[(src != dst).repeat(2)].unique()
    near = Graph.from_csr(torch.searchsorted(keys, torch.arange(n + 1) * n), keys % n, n)
    pattern = pymetis.CSRAdjacency(adj_starts=near.row_ptr.tolist(), adjacent=near.col.tolist())
    where = pymetis.part_graph(parts, pattern, vweights=work.tolist()).vertex_part
    return torch.as_tensor(where, dtype=torch.int64)

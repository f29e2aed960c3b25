"""intersect: the neighbours that both nodes of a pair have, for many pairs at once, as a graph."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgmtl import backend, csr, reference
from fastgmtl.graph import Graph, _plain
from fastgmtl.ops.check import graph_argument


@overload
def intersect(
    graph: Graph, pairs: Tensor, without: Tensor | None = None, difference: Literal[False] = False
) -> Graph: ...
@overload
def intersect(
    graph: Graph, pairs: Tensor, without: Tensor | None = None, *, difference: Literal[True]
) -> tuple[Graph, Graph, Graph]: ...
def intersect(
    graph: Graph, pairs: Tensor, without: Tensor | None = None, difference: bool = False
) -> Graph | tuple[Graph, Graph, Graph]:
    r"""The common neighbours of pairs of nodes, as a graph from neighbours to pairs.

    .. math:: N_q = N(i_q) \cap N(j_q) \setminus W_q, \qquad N(i) = \{u : u \to i\}

    Sums over common neighbours, and their derivatives, are those of :func:`fastgmtl.ops.spmm` on this graph: nothing
    but the graph is of the size of what pairs have in common.

    Args:
        graph: of M destinations and N sources. Neighbourhoods are sets: of parallel edges one counts.
        pairs: the nodes i and j of each pair, [2, Q], int64 or int32, in [0, M).
        without: sources that are left out for each pair, W [K, Q]: with ``pairs`` itself those two nodes are no
            neighbours of one another nor of themselves, so that the link that is asked for does not answer. A
            number that is no source leaves nothing out.
        difference: whether the neighbours of i alone and of j alone are asked for as well.

    Returns:
        The graph of Q destinations and N sources whose row q is N_q, sources ascending; with ``difference`` three
        graphs: of both nodes, of the first alone, of the second alone.

    The first call sorts the columns of the graph's rows, which it keeps. Then two passes: one counts, one lists. Rows
    are merged, or searched where one is far longer; bit-equal for any number of threads. How many there are must be
    known to make a graph: on a GPU the host waits for this number, torch.compile runs it beside its own code. It has
    no derivative; within torch.func graph and pairs are constants.

    Source: Wang, Yang and Zhang, Neural common neighbor with completion for link prediction, ICLR 2024.

    Raises:
        TypeError: graph is not a Graph, pairs or without are not integer tensors (plain ones).
        ValueError: shapes or devices do not fit.
        IndexError: a node of a pair is none.
    """
    graph_argument("intersect", graph)
    pairs = _index(graph, "pairs", pairs, "[2, Q]")
    if pairs.size(0) != 2:
        raise ValueError(f"intersect: pairs must have shape [2, Q], got {list(pairs.shape)}")
    if without is not None:
        without = _index(graph, "without", without, "[K, Q]")
        if without.size(1) != pairs.size(1):
            wanted = f"[K, Q] with Q = {pairs.size(1)}"
            raise ValueError(f"intersect: without must have shape {wanted}, got {list(without.shape)}")
    found = _found(graph, pairs, without, difference)
    return found if difference else found[0]


def _index(graph: Graph, name: str, value: Any, shape: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32):
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"intersect: {name} must be an int64 or int32 tensor, got {what}".replace("torch.", ""))
    if value.dim() != 2:
        raise ValueError(f"intersect: {name} must have shape {shape}, got {list(value.shape)}")
    if value.device != graph.device:
        raise ValueError(f"intersect: graph and {name} must be on one device, got {graph.device} and {value.device}")
    return value


@torch.compiler.disable
def _found(graph: Graph, pairs: Tensor, without: Tensor | None, difference: bool) -> Any:
    if type(pairs) is not Tensor or type(without) not in (Tensor, type(None)) or csr.is_symbolic(graph.col):
        raise TypeError(
            "intersect: graph, pairs and without must be plain (how many neighbours there are depends on their "
            "values), not FakeTensors or subclasses; intersect outside, and give the graph to what is traced"
        )
    with _plain():
        _check_nodes(graph, pairs)
        kernels = backend.kernels_for(graph.device)
        if kernels is None:
            found = reference.intersect(graph, pairs, without, difference=difference)
            return found if difference else (found,)
        pairs = pairs.long().contiguous()
        without = None if without is None else without.long().contiguous()
        sets, queries, threads = graph.neighbor_sets(), pairs.size(1), torch.get_num_threads()
        counts = torch.zeros(3 if difference else 1, queries + 1, dtype=torch.int64, device=graph.device)
        kernels.intersect(sets.pattern, pairs, without, counts, None, None, None, threads)
        row_ptr = counts.cumsum(1)
        totals = row_ptr[:, -1].tolist()
        dtype = csr.index_dtype(*totals, queries, graph.num_src)
        cols = [torch.empty(total, dtype=dtype, device=graph.device) for total in totals]
        kernels.intersect(sets.pattern, pairs, without, row_ptr, *cols, *[None] * (3 - len(cols)), threads)
        return tuple(Graph(p.contiguous(), c, None, graph.num_src) for p, c in zip(row_ptr, cols, strict=True))


def _check_nodes(graph: Graph, pairs: Tensor) -> None:
    bad = (pairs < 0) | (pairs >= graph.num_dst)
    if bool(bad.any()):
        side, place = bad.nonzero()[0].tolist()
        raise IndexError(
            f"intersect: every node of pairs must be in [0, {graph.num_dst}), pair {place} has "
            f"{int(pairs[side, place])}"
        )

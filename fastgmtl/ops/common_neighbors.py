"""common_neighbors: sums of features over the neighbours that both nodes of a pair have."""

from __future__ import annotations

from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.ops.check import features, floating_tensor, graph_argument
from fastgmtl.ops.intersect import intersect
from fastgmtl.ops.spmm import spmm


def common_neighbors(
    graph: Graph, pairs: Tensor, h: Tensor, weight: Tensor | None = None, without: Tensor | None = None
) -> Tensor:
    r"""Sum the features of the common neighbours of each pair of nodes.

    .. math:: y_q = \sum_{u \in N(i_q) \cap N(j_q) \setminus W_q} p_u h_u

    Args:
        graph: of M destinations and N sources.
        pairs: [2, Q], int64 or int32, in [0, M).
        h: [N, d] or [N, T, d].
        weight: p, [N], or None (ones).
        without: W [K, Q], sources that are left out; see :func:`fastgmtl.ops.intersect`.

    Returns:
        [Q, d] or [Q, T, d], of the promoted dtype of h and weight; 0 for pairs without common neighbours.

    It is :func:`fastgmtl.ops.spmm` on the graph of :func:`fastgmtl.ops.intersect`, so any order of derivative by h and
    weight is right, deterministic and free of atomics. Who asks for the same pairs again keeps that graph.

    Source: Wang, Yang and Zhang, ICLR 2024, equation 9.

    Raises:
        TypeError, ValueError, IndexError: as of both.
    """
    # Before the pairs are gone through.
    graph_argument("common_neighbors", graph)
    features("common_neighbors", "h", h, graph.num_src, "num_src")
    if weight is not None:
        floating_tensor("common_neighbors", "weight", weight)
        if list(weight.shape) != [h.size(0)]:
            raise ValueError(f"common_neighbors: weight must have shape [N] = [{h.size(0)}], got {list(weight.shape)}")
        h = h * weight.reshape(-1, *[1] * (h.dim() - 1))
    return spmm(intersect(graph, pairs, without), h)

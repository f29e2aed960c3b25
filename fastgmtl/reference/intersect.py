"""intersect in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph


def intersect(
    graph: Graph, pairs: Tensor, without: Tensor | None = None, difference: bool = False
) -> Graph | tuple[Graph, Graph, Graph]:
    """Neighbours that both nodes of a pair have, and those of one alone; see :func:`fastgmtl.ops.intersect`."""
    size, queries = max(1, graph.num_src), torch.arange(pairs.size(1), device=graph.device)
    src, dst = graph.edge_index()
    known = torch.unique(dst * size + src)
    start = torch.searchsorted(known, torch.arange(graph.num_dst + 1, device=graph.device) * size)
    left_out = known[:0]
    if without is not None:
        left_out = (queries * size + without)[(without >= 0) & (without < size)]

    def keys(nodes: Tensor) -> Tensor:
        """``q * size + u`` for every u in N(nodes[q]), ascending."""
        first, count = start[nodes.long()], start.diff()[nodes.long()]
        query = queries.repeat_interleave(count)
        place = torch.arange(query.numel(), device=graph.device) - (count.cumsum(0) - count)[query] + first[query]
        found = query * size + known[place] % size
        return found[~torch.isin(found, left_out)]

    def over(keys: Tensor) -> Graph:
        return Graph.from_edge_index(torch.stack([keys % size, keys // size]), graph.num_src, pairs.size(1))

    i, j = keys(pairs[0]), keys(pairs[1])
    both = over(i[torch.isin(i, j)])
    return (both, over(i[~torch.isin(i, j)]), over(j[~torch.isin(j, i)])) if difference else both

"""Inference over all nodes of a large graph: layer by layer, each in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgmtl.graph import Graph

Layer = Callable[[tuple[Tensor, Tensor], Graph], Tensor]


def layerwise(
    layers: Sequence[Layer], x: Tensor, graph: Graph, rows: int = 1 << 16, out: Tensor | None = None
) -> Tensor:
    """The outputs of the last of ``layers`` for all nodes, without gradients.

    Every layer is applied to all nodes before the next one, ``rows`` destinations at a time: each neighbour's features
    are computed once, as in one forward pass and unlike in sampled batches. Kept are the input and the output of one
    layer, [N, C] each, and of what is inside of a layer no more than a block.

    Args:
        layers: each takes ``((h, h[block]), block)``, where block is the bipartite graph of all edges into some rows,
            and gives their [rows, C']. Layers that take a pair of features do so as they are: ``SAGEConv``,
            ``GATConv``, ``GINConv``, ``GraphConv``, ``TransformerConv``; for what is between them take a function.
            Whatever depends on the degrees of sources (``GCNConv``) does not fit.
        x: [N, F], in memory or mapped.
        graph: over one set of N nodes, on the device of x. Without edge weights.
        rows: destinations at a time.
        out: where to put the result, [N, C] of its dtype: for instance ``torch.from_numpy`` of a ``numpy.memmap``.

    Returns:
        ``out``, or a new tensor.

    Raises ValueError for a graph that is not over the nodes of ``x``, no layers, and an ``out`` of another shape or
    dtype.
    """
    n = x.shape[0]
    if (graph.num_src, graph.num_dst) != (n, n):
        raise ValueError(
            f"layerwise: graph must be over the {n} nodes of x, got {graph.num_src} sources and {graph.num_dst} "
            "destinations"
        )
    if not layers or rows < 1:
        raise ValueError(f"layerwise: a layer and rows of at least 1 are required, got {len(layers)} and {rows}")
    with torch.no_grad():
        for number, layer in enumerate(layers, start=1):
            x = _apply(layer, x, graph, rows, out if number == len(layers) else None)
    return x


def _apply(layer: Layer, x: Tensor, graph: Graph, rows: int, out: Tensor | None) -> Tensor:
    n = x.shape[0]
    for begin in range(0, max(n, 1), rows):
        end = min(n, begin + rows)
        part = layer((x, x[begin:end]), row_block(graph, begin, end))
        if out is None:
            out = part.new_empty(n, *part.shape[1:])
        if (out.dtype, out.shape) != (part.dtype, (n, *part.shape[1:])):
            wanted = f"{part.dtype} {[n, *part.shape[1:]]}".replace("torch.", "")
            given = f"{out.dtype} {list(out.shape)}".replace("torch.", "")
            raise ValueError(f"layerwise: out must be {wanted}, got {given}")
        out[begin:end] = part
    assert out is not None
    return out


def row_block(graph: Graph, begin: int, end: int) -> Graph:
    """The edges into destinations [begin, end), from all sources; nothing but row pointers is copied.

    Edges are in row order: without the ``edge_id`` of the graph.
    """
    rows = graph.row_ptr[begin : end + 1]
    first, last = int(rows[0]), int(rows[-1])
    return Graph(rows - first, graph.col[first:last], None, graph.num_src)

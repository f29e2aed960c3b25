"""block_spmm in plain PyTorch, and the twins of the operators of :mod:`fastgmtl.ops.block_spmm`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide


def block_spmm(graph: Graph, blocks: Tensor, x: Tensor) -> Tensor:
    """Sums of ``blocks[e] @ x[src]`` by destination, [M, a, c]; see :func:`fastgmtl.ops.block_spmm`."""
    dtype = torch.promote_types(blocks.dtype, x.dtype)
    return block_products(graph, blocks.to(dtype), x.to(dtype), False)


def block_products(graph: Graph, blocks: Tensor, x: Tensor, back: bool) -> Tensor:
    """The same, or (``back``) the sums of the transposed blocks times the rows of destinations, by source."""
    src, dst = edge_ends(graph)
    near, far, rows = (src, dst, graph.num_src) if back else (dst, src, graph.num_dst)
    matrices = wide(blocks).transpose(1, 2) if back else wide(blocks)
    products = matrices @ wide(x)[far]
    return products.new_zeros(rows, *products.shape[1:]).index_add(0, near, products).to(blocks.dtype)


def block_sddmm(graph: Graph, g: Tensor, x: Tensor) -> Tensor:
    """``g[dst] @ x[src]^T`` of every edge, [E, a, b]."""
    src, dst = edge_ends(graph)
    return (wide(g)[dst] @ wide(x)[src].transpose(1, 2)).to(g.dtype)

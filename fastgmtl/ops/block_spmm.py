r"""block_spmm: products with a sparse matrix of small dense blocks, and the operators within.

.. math:: T = \sum_{e = (j \to i)} \langle y_i, M_e x_j \rangle

is linear in the blocks M, in x and in y. The three derivatives (by y: block_spmm; by x: the same over the transposed
graph, with the blocks transposed; by M: block_sddmm) are each linear in the other two, with these as derivatives: any
order is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.check import floating_tensor, graph_argument, same_device
from fastgmtl.ops.operator import Operator
from fastgmtl.reference.block_spmm import block_products, block_sddmm


class _BlockSpmm(Operator):
    """Sums of M x by destination, [num_dst, a, c]; or (``back``) of M^T x by source, [num_src, b, c]."""

    name = "block_spmm"
    tensors = ("blocks", "x")
    options = (("back", "bool"),)

    @staticmethod
    def kernel(kernels: Any, graph: Graph, blocks: Any, x: Any, back: bool) -> Tensor:
        out = _BlockSpmm.fake(graph, blocks, x, back)
        pattern = graph.t().pattern if back else graph.pattern
        kernels.block_spmm(pattern, blocks.contiguous(), x.contiguous(), back, out, torch.get_num_threads())
        return out

    reference = staticmethod(block_products)

    @staticmethod
    def fake(graph: Graph, blocks: Any, x: Any, back: bool) -> Tensor:
        rows = graph.num_src if back else graph.num_dst
        return x.new_empty(rows, blocks.size(2 if back else 1), x.size(2))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, blocks: Any, x: Any, back: bool) -> Any:
        g = grads[0]
        if g is None:
            return (None,) * 2
        ends = (x, g) if back else (g, x)  # of destinations and of sources
        d_blocks = call(block_sddmm_op)(graph, *ends) if needs[0] else None
        return d_blocks, call(block_spmm_op)(graph, blocks, g, not back) if needs[1] else None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, blocks: Any, x: Any, back: bool) -> Any:
        x = _into_columns(x, dims[1], size) if dims[1] is not None else x
        if dims[0] is None:
            return block_spmm_op(graph, blocks, x, back).unflatten(2, (size, -1)), 2
        each = x.unflatten(2, (size, -1)).unbind(2) if dims[1] is not None else (x,) * size
        found = [block_spmm_op(graph, m, v, back) for m, v in zip(blocks.unbind(dims[0]), each, strict=True)]
        return torch.stack(found), 0


class _BlockSddmm(Operator):
    """g x^T of the two ends of every edge, [E, a, b] in the user's order."""

    name = "block_sddmm"
    tensors = ("g", "x")
    options = ()

    @staticmethod
    def kernel(kernels: Any, graph: Graph, g: Any, x: Any) -> Tensor:
        out = _BlockSddmm.fake(graph, g, x)
        kernels.block_sddmm(graph.pattern, g.contiguous(), x.contiguous(), out, torch.get_num_threads())
        return out

    reference = staticmethod(block_sddmm)

    @staticmethod
    def fake(graph: Graph, g: Any, x: Any) -> Tensor:
        return g.new_empty(graph.num_edges, g.size(1), x.size(1))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, _: Any, graph: Graph, g: Any, x: Any) -> Any:
        u = grads[0]
        if u is None:
            return (None,) * 2
        d_g = call(block_spmm_op)(graph, u, x, False) if needs[0] else None
        return d_g, call(block_spmm_op)(graph, u, g, True) if needs[1] else None

    @staticmethod
    def vmap(size: int, dims: Any, graph: Graph, g: Any, x: Any) -> Any:
        """A batch goes into the lines of the blocks, where but one of the two has it."""
        g_dim, x_dim = dims
        if x_dim is None:
            return block_sddmm_op(graph, g.movedim(g_dim, 1).flatten(1, 2), x).unflatten(1, (size, -1)), 1
        if g_dim is None:
            return block_sddmm_op(graph, g, x.movedim(x_dim, 1).flatten(1, 2)).unflatten(2, (size, -1)), 2
        pairs = zip(g.unbind(g_dim), x.unbind(x_dim), strict=True)
        return torch.stack([block_sddmm_op(graph, a, b) for a, b in pairs]), 0


def _into_columns(value: Tensor, dim: int, size: int) -> Tensor:
    """[n, b, c] with a batch axis as [n, b, size * c]."""
    return value.movedim(dim, 2).flatten(2)


block_spmm_op = _BlockSpmm()
block_sddmm_op = _BlockSddmm()


def block_spmm(graph: Graph, blocks: Tensor, x: Tensor) -> Tensor:
    r"""Multiply by a sparse matrix whose entries are small dense matrices.

    .. math:: y_i = \sum_{e = (j \to i)} M_e \, x_j

    Args:
        graph: of N sources and M destinations, E edges.
        blocks: M, [E, a, b], in the order in which the edges were given; float32, float64, bfloat16 or float16.
        x: [N, b, c].

    Returns:
        [M, a, c], of the promoted dtype; 0 for rows without edges. NaN propagates.

    Differentiable to any order, without atomics; the matrix is never assembled and nothing of size E x a x c is
    written. Sums are accumulated in float32 (float64 for float64), bit-equal for any number of threads. For diagonal
    blocks see :func:`fastgmtl.ops.spmm` with weights [E, T].

    Source: the sheaf Laplacian of Bodnar et al., Neural sheaf diffusion, NeurIPS 2022, is such a matrix.

    Raises:
        TypeError: graph is not a Graph, a tensor is not a floating point tensor.
        ValueError: shapes or devices do not fit.
    """
    graph_argument("block_spmm", graph)
    for name, value in (("blocks", blocks), ("x", x)):
        floating_tensor("block_spmm", name, value)
    if blocks.dim() != 3 or blocks.size(0) != graph.num_edges:
        wanted = f"[E, a, b] with E = {graph.num_edges}"
        raise ValueError(f"block_spmm: blocks must have shape {wanted}, got {list(blocks.shape)}")
    if x.dim() != 3 or x.size(0) != graph.num_src or x.size(1) != blocks.size(2):
        wanted = f"[num_src, b, c] with num_src = {graph.num_src} and b = {blocks.size(2)}"
        raise ValueError(f"block_spmm: x must have shape {wanted}, got {list(x.shape)}")
    for value in (blocks, x):
        same_device("block_spmm", graph, value)
    if backend.kernels_for(x.device) is None:
        return reference.block_spmm(graph, blocks, x)
    dtype = torch.promote_types(blocks.dtype, x.dtype)
    return block_spmm_op(graph, blocks.to(dtype), x.to(dtype), False)

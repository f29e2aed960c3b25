"""block_spmm: the matrix that it stands for, diagonal blocks, sizes of blocks, threads, memory, and what it refuses."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops.block_spmm import block_sddmm_op, block_spmm_op

pytestmark = pytest.mark.usefixtures("kernels")
DTYPE = torch.float64


def parts(graph: Graph, lines: int, columns: int, width: int, dtype: torch.dtype = DTYPE) -> tuple[Tensor, Tensor]:
    g = cases.generator("block_spmm")
    blocks = torch.randn(graph.num_edges, lines, columns, generator=g, dtype=DTYPE)
    return blocks.to(dtype), torch.randn(graph.num_src, columns, width, generator=g, dtype=DTYPE).to(dtype)


@pytest.mark.parametrize("name", ["typical", "parallel", "one_row", "one_source", "isolated", "bipartite", "no_edges"])
def test_it_is_a_product_with_the_assembled_matrix(name: str) -> None:
    graph = cases.PATTERNS[name].graph()
    blocks, x = (v.requires_grad_() for v in parts(graph, 2, 3, 4))
    dense = torch.zeros(graph.num_dst, 2, graph.num_src, 3, dtype=DTYPE)
    for m, (j, i) in enumerate(graph.edge_index().t().tolist()):
        place = torch.zeros_like(dense)
        place[i, :, j] = 1
        dense = dense + place * blocks[m][None, :, None, :]
    want = (dense.flatten(2).flatten(0, 1) @ x.flatten(0, 1)).unflatten(0, (graph.num_dst, 2))
    got = ops.block_spmm(graph, blocks, x)
    close(got.detach(), want.detach(), DTYPE)
    if graph.num_edges:
        g = torch.randn(got.shape, generator=cases.generator(name), dtype=DTYPE)
        close(torch.autograd.grad(got, (blocks, x), g), torch.autograd.grad(want, (blocks, x), g), DTYPE)


def test_diagonal_blocks_are_weights_of_tasks() -> None:
    graph = cases.MEDIUM["typical"].graph()
    _, x = parts(graph, 3, 3, 5)
    weight = torch.randn(graph.num_edges, 3, generator=cases.generator("diagonal"), dtype=DTYPE)
    close(ops.block_spmm(graph, torch.diag_embed(weight), x), ops.spmm(graph, x, weight), DTYPE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lines", [1, 2, 3, 5, 7, 8, 9, 13])
def test_blocks_of_every_size(lines: int, dtype: torch.dtype, kernels: ModuleType) -> None:
    """On every instruction set, with columns below, at and beyond a vector."""
    graph, before = cases.MEDIUM["power_law"].graph(), kernels.simd()
    for columns, width in ((1, 1), (lines, 7), (4, 16), (3, 35)):
        blocks, x = parts(graph, lines, columns, width, dtype)
        g = torch.randn(graph.num_dst, lines, width, generator=cases.generator("g")).to(dtype)
        want = (
            reference.block_spmm(graph, blocks, x),
            reference.block_spmm(graph.t(), blocks.transpose(1, 2), g),
            block_sddmm_op.reference(graph, g, x),
        )
        try:
            for level in kernels.simd_levels():
                kernels.set_simd(level)
                got = ops.block_spmm(graph, blocks, x), block_spmm_op(graph, blocks, g, True)
                with case(columns, width, level):
                    close((*got, block_sddmm_op(graph, g, x)), want, dtype, factor=2)
        finally:
            kernels.set_simd(before)


def test_any_number_of_threads_gives_the_same_bits(threads: None) -> None:
    graph = cases.large("power_law", 300, 4000).graph()
    for size, width in ((2, 3), (4, 32)):
        blocks, x = parts(graph, size, size, width, torch.float32)
        found = []
        for number in (1, 2, 7):
            torch.set_num_threads(number)
            found.append((ops.block_spmm(graph, blocks, x), block_sddmm_op(graph, x, x)))
        assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_no_products_of_edges_are_kept() -> None:
    graph = cases.MEDIUM["typical"].graph()
    leaves = [v.requires_grad_() for v in parts(graph, 3, 3, 16)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: (kept.append(v.data_ptr()), v)[1], lambda v: v):
        ops.block_spmm(graph, *leaves)
    assert kept == [v.data_ptr() for v in leaves]


def test_refused() -> None:
    graph = cases.PATTERNS["typical"].graph()
    blocks, x = parts(graph, 2, 3, 4)
    for args, error, text in (
        ((None, blocks, x), TypeError, "block_spmm: graph must be a fastgmtl.Graph, got NoneType"),
        ((graph, blocks.long(), x), TypeError, "block_spmm: blocks must be floating point, got int64"),
        (
            (graph, blocks[1:], x),
            ValueError,
            r"block_spmm: blocks must have shape \[E, a, b\] with E = 9, got \[8, 2, 3\]",
        ),
        (
            (graph, blocks, x[1:]),
            ValueError,
            r"x must have shape \[num_src, b, c\] with num_src = 5 and b = 3, got \[4,",
        ),
        ((graph, blocks, x[:, :2]), ValueError, r"num_src = 5 and b = 3, got \[5, 2, 4\]"),
        ((graph, blocks, x.to("meta")), ValueError, "graph and tensors must be on one device, got cpu and meta"),
    ):
        with pytest.raises(error, match=text):
            ops.block_spmm(*args)

"""The CUDA kernels of block_spmm, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph, reference
from fastgmtl.reference.block_spmm import block_sddmm

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS = 40
# (rows, lines and columns of a block, width, degrees): lines on both sides of what a thread takes; widths with and
# without whole vectors, within and beyond a warp.
SIZES = [(rows, 3, 3, 8, "power") for rows in (0, 1, 33, 300)] + [(12, 2, 5, 5, "border"), (33, 1, 1, 1, "one")]
SIZES += [(8, 9, 2, 40, "power"), (5, 17, 3, 7, "power"), (33, 4, 4, 16, "one")]


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 2 * TOLERANCE[got.dtype] * scale).all())


def check(
    host: Host, degrees: list[int], sizes: tuple[int, int, int], dtype: torch.dtype, index: torch.dtype, ids: bool
) -> None:
    """Products, those with blocks transposed, and outer products."""
    lines, columns, width = sizes
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph, g = Graph(p.row_ptr, p.col, p.edge_id, p.cols), torch.Generator().manual_seed(1)
    blocks = torch.randn(p.edges, lines, columns, generator=g).to(dtype)
    x = torch.randn(COLUMNS, columns, width, generator=g).to(dtype)
    y = torch.zeros(p.rows, lines, width, dtype=dtype)
    host.block_spmm(p, blocks, x, False, y)
    want = reference.block_spmm(graph, blocks, x)
    assert close(y, want)
    host.block_spmm(p, blocks.transpose(1, 2).contiguous(), x, True, y)
    assert close(y, want)
    out = torch.zeros_like(blocks)
    ends = torch.randn(p.rows, lines, width, generator=g).to(dtype)
    host.block_sddmm(p, ends, x, out)
    assert close(out, block_sddmm(graph, ends, x))


@pytest.mark.parametrize(("rows", "lines", "columns", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, lines: int, columns: int, width: int, kind: str) -> None:
    check(host, degrees_of(rows, kind), (lines, columns, width), dtype, INDICES[rows % 2], width % 2 == 0)


def test_what_does_not_fit(host: Host) -> None:
    p = pattern_of([1, 2], 4)
    blocks, x = torch.zeros(3, 2, 2), torch.zeros(4, 2, 5)
    with pytest.raises(HostError, match=r"block_spmm: blocks must have shape \[3, 3, 2\], got \[3, 2, 2\]"):
        host.block_spmm(p, blocks, x, False, torch.zeros(2, 3, 5))


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, width in product(DTYPES, (8, 5)):
        check(host, [1, 70], (3, 2, width), dtype, torch.int32, True)
    known, executed = host.kernels()
    mine = {name for name in known if "block_spmm_" in name or "block_sddmm_" in name}
    assert len(mine) == 12
    assert not sorted(mine - executed)

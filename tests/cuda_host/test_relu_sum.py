"""The CUDA kernels of relu_sum, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.reference.relu_sum import masked_row_sums, relu_sum_backward

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS = 40
# (rows, width, degrees): rows without, with few and with many edges; widths with and without whole vectors, and beyond
# a warp.
SIZES = [(rows, 8, "power") for rows in (0, 1, 33, 300)] + [(12, 5, "border"), (33, 1, "one"), (33, 40, "one")]
SIZES += [(8, 136, "power"), (5, 260, "power")]


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 2 * TOLERANCE[got.dtype] * scale).all())


def check(
    host: Host,
    degrees: list[int],
    width: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    ids: bool = True,
    slots: str = "xe",
    wanted: int = 3,
) -> None:
    """Relu, sums of the summands in ``slots`` where others are positive, and the gradients ``wanted``; long columns."""
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph = Graph(p.row_ptr, p.col, p.edge_id, p.cols)
    generator = torch.Generator().manual_seed(1)
    at_x, at_e, x, e = (torch.randn(n, width, generator=generator).to(dtype) for n in 2 * (COLUMNS, p.edges))
    y = torch.zeros(p.rows, width, dtype=dtype)
    host.relu_sum(p, [at_x, at_e, at_x, at_e], y)
    assert close(y, masked_row_sums(graph, at_x, at_e, None, None))
    some = [v if name in slots else None for name, v in (("x", x), ("e", e))]
    host.relu_sum(p, [*some, at_x, at_e], y)
    assert close(y, masked_row_sums(graph, *some, at_x, at_e))
    # Read the other way round: the rows of the pattern are sources.
    g, at = torch.randn(COLUMNS, width, generator=generator).to(dtype), torch.zeros(p.rows, width, dtype=dtype)
    at += torch.randn(p.rows, width, generator=generator).to(dtype)
    found = [torch.zeros(n, width, dtype=dtype) if wanted >> k & 1 else None for k, n in enumerate((p.rows, p.edges))]
    host.relu_sum_backward(p, [g, at, at_e], found)
    back = graph.t()
    for got, want in zip(found, relu_sum_backward(back, g, at, at_e), strict=True):
        assert got is None or close(got, want)


@pytest.mark.parametrize(("rows", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, width: int, kind: str) -> None:
    check(host, degrees_of(rows, kind), width, dtype, INDICES[rows % 2], ids=width % 2 == 0)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_modes(host: Host, index: torch.dtype) -> None:
    """Every set of summands and of gradients."""
    for slots, wanted, width in product(("xe", "x", "e"), (3, 2, 1), (8, 3)):
        check(host, [3, 0, 1, 9, 66, 2, 140], width, torch.float32, index, width > 3, slots, wanted)


def test_what_does_not_fit(host: Host) -> None:
    p = pattern_of([1, 2], 4)
    x, e = torch.zeros(4, 2), torch.zeros(3, 2)
    with pytest.raises(HostError, match=r"relu_sum: x must have shape \[4, 2\], got \[3, 2\]"):
        host.relu_sum(p, [x, e, e, e], torch.zeros(2, 2))
    with pytest.raises(HostError, match="relu_sum: a summand must be given"):
        host.relu_sum(p, [None, None, x, e], torch.zeros(2, 2))


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, width in product(DTYPES, (8, 5)):
        check(host, [1, 70], width, dtype)
    known, executed = host.kernels()
    mine = {name for name in known if "relu_sum_" in name}
    assert len(mine) == 16
    assert not sorted(mine - executed)

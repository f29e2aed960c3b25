"""The CUDA kernels of gather_relu, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.reference.gather_relu import gather_relu_backward, masked_sums

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS = 40
# (rows, samples, width, degrees): rows without, with few and with many edges; widths with and without whole vectors,
# and beyond a warp; samples on both sides of what a group takes.
SIZES = [(rows, 5, 8, "power") for rows in (0, 1, 33, 300)] + [(12, 3, 5, "border"), (33, 1, 1, "one")]
SIZES += [(33, 9, 40, "one"), (8, 17, 136, "power"), (5, 8, 260, "power"), (5, 0, 8, "power")]


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 2 * TOLERANCE[got.dtype] * scale).all())


def check(
    host: Host,
    degrees: list[int],
    samples: int,
    width: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    ids: bool = True,
    slots: str = "hst",
    wanted: int = 7,
) -> None:
    """Relu, sums of the summands in ``slots`` where others are positive, and the gradients ``wanted``."""
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph = Graph(p.row_ptr, p.col, p.edge_id, p.cols)
    nodes = (samples, COLUMNS, p.rows)
    at, given = ([draw(n, width, dtype=dtype, seed=seed + k) for k, n in enumerate(nodes)] for seed in (1, 4))
    out = torch.zeros(p.edges, samples, width, dtype=dtype)
    host.gather_relu(p, [*at, *at], out)
    assert torch.equal(out, masked_sums(graph, *at, None, None, None))
    some = [v if name in slots else None for name, v in zip("hst", given, strict=True)]
    host.gather_relu(p, [*some, *at], out)
    assert close(out, masked_sums(graph, *some, *at))
    g, back = draw(*out.shape, dtype=dtype, seed=7), graph.t()
    turned = Pattern(back.row_ptr, back.col.to(index), None if back.edge_id is None else back.edge_id.to(index), p.rows)
    sums = [torch.zeros(n, width, dtype=dtype) if wanted >> k & 1 else None for k, n in enumerate(nodes)]
    host.gather_relu_backward(p, turned, [g, *at], sums)
    for got, want in zip(sums, gather_relu_backward(graph, g, *at), strict=True):
        assert got is None or close(got, want)


@pytest.mark.parametrize(("rows", "samples", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, samples: int, width: int, kind: str) -> None:
    check(host, degrees_of(rows, kind), samples, width, dtype, INDICES[rows % 2], ids=width % 2 == 0)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_modes(host: Host, index: torch.dtype) -> None:
    """Every set of summands and of gradients."""
    for slots, width in product(("hst", "hs", "ht", "st", "h", "s", "t"), (8, 3)):
        check(host, [3, 0, 1, 9, 66, 2, 140], 6, width, torch.float32, index, width > 3, slots)
    for wanted, width in product(range(1, 8), (8, 3)):
        check(host, [3, 0, 1, 9, 66, 2, 140], 6, width, torch.float64, index, width > 3, wanted=wanted)


def test_special_values(host: Host) -> None:
    """NaN is passed on, where a sum is 0 nothing is."""
    p = pattern_of([1, 2], 3, ids=False)
    h = torch.tensor([[torch.nan], [0.0], [-0.0], [1.0]]).repeat(1, 4)
    at = [h, torch.zeros(3, 4), torch.zeros(2, 4)]
    out = torch.zeros(3, 4, 4)
    host.gather_relu(p, [*at, *at], out)
    assert torch.equal(out[0, :, 0].nan_to_num(7.0), torch.tensor([7.0, 0.0, 0.0, 1.0]))
    d_h = torch.zeros(4, 4)
    back = Graph(p.row_ptr, p.col, None, 3).t()
    turned = Pattern(back.row_ptr, back.col, back.edge_id, 2)
    host.gather_relu_backward(p, turned, [torch.ones(3, 4, 4), *at], [d_h, None, None])
    assert d_h[:, 0].tolist() == [3, 0, 0, 3]


def test_what_does_not_fit(host: Host) -> None:
    p = pattern_of([1, 2], 3)
    at = [torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(2, 2)]
    with pytest.raises(HostError, match=r"gather_relu: s must have shape \[3, 2\], got \[2, 2\]"):
        host.gather_relu(p, [None, None, None, at[0], at[2], at[2]], torch.zeros(3, 4, 2))
    with pytest.raises(HostError, match=r"gather_relu: a summand must have shape \[4, 2\], got \[3, 2\]"):
        host.gather_relu(p, [at[1], None, None, *at], torch.zeros(3, 4, 2))


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, width in product(DTYPES, (8, 5)):
        check(host, [1, 70], 5, width, dtype)
    known, executed = host.kernels()
    mine = {name for name in known if "gather_relu_" in name}
    assert len(mine) == 28
    assert not sorted(mine - executed)

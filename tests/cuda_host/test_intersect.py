"""The CUDA kernel of intersect, run on the CPU, against its twin in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph, reference

COLUMNS = 90


def check(host: Host, degrees: list[int], queries: int, index: torch.dtype, left_out: int, parts: int) -> None:
    p = pattern_of(degrees, COLUMNS, torch.int32, False)
    graph = Graph(p.row_ptr, p.col, None, p.cols)
    sets = graph.neighbor_sets()
    sorted_ = Pattern(sets.row_ptr, sets.col.to(index), None, p.cols)
    generator = torch.Generator().manual_seed(queries)
    pairs = torch.randint(max(1, p.rows), (2, queries), generator=generator)
    without = torch.randint(COLUMNS, (left_out, queries), generator=generator) if left_out else None
    counts = torch.zeros(parts, queries + 1, dtype=torch.int64)
    host.intersect(sorted_, pairs, without, counts)
    found = reference.intersect(graph, pairs, without, difference=True)[:parts]
    row_ptr = counts.cumsum(1)
    for got, want in zip(row_ptr, found, strict=True):
        assert torch.equal(got, want.row_ptr)
    cols: list[Tensor | None] = [torch.full_like(want.col, -1, dtype=index) for want in found]
    host.intersect(sorted_, pairs, without, row_ptr, [*cols, *[None] * (3 - parts)])
    for listed, want in zip(cols, found, strict=True):
        assert listed is not None and torch.equal(listed, want.col.to(index))


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("kind", ["power", "border", "one"])
def test_sizes(host: Host, kind: str, index: torch.dtype) -> None:
    """Rows without columns, shorter and longer than a warp; pairs that fill blocks and do not."""
    degrees = degrees_of(30, kind)
    for queries, left_out, parts in ((1, 1, 3), (33, 0, 1), (50, 3, 3)):
        check(host, degrees, queries, index, left_out, parts)


def test_what_does_not_fit(host: Host) -> None:
    p = pattern_of([2, 3], 5, torch.int32, False)
    with pytest.raises(HostError, match=r"intersect: pairs must have shape \[2, Q\], got \[4\]"):
        host.intersect(p, torch.zeros(4).long(), None, torch.zeros(1, 5).long())


def test_every_kernel_has_run(host: Host) -> None:
    check(host, degrees_of(30, "power"), 20, torch.int32, 1, 3)
    known, executed = host.kernels()
    mine = {name for name in known if "intersect_" in name}
    assert len(mine) == 1 and mine <= executed

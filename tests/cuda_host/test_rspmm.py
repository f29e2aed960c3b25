"""The CUDA kernels of rspmm, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.ops.relational import MESSAGES, ROLES
from fastgmtl.ops.relations import Relations, relations
from fastgmtl.reference import trilinear
from fastgmtl.reference.rspmm import extreme
from fastgmtl.reference.rspmm import product as twin

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS, RELATIONS = 40, 5
# (rows, half of the columns, degrees): rows without, with few and with many edges; both sides of a vector and a warp.
SIZES = [(rows, 4, "power") for rows in (0, 1, 33, 300)] + [(12, 8, "border"), (33, 1, "one"), (33, 20, "one")]
SIZES += [(8, 130, "power"), (9, 3, "power")]


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 4 * TOLERANCE[got.dtype] * scale).all())


def typed(degrees: list[int], index: torch.dtype, ids: bool) -> tuple[Pattern, Graph, Relations]:
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph = Graph(p.row_ptr, p.col, p.edge_id, p.cols)
    types = torch.randint(RELATIONS, (p.edges,), generator=torch.Generator().manual_seed(9)).to(index)
    return p, graph, relations("rspmm", graph, types, RELATIONS)


def cast(pattern: tuple[Tensor, Tensor, Tensor | None, int], index: torch.dtype) -> Pattern:
    row_ptr, col, edge_id, cols = pattern
    return Pattern(row_ptr, col.to(index), None if edge_id is None else edge_id.to(index), cols)


def width_of(half: int, kind: int) -> int:
    """Columns of a rotation, or of a product: there may be an odd number."""
    return 2 * half if kind else 2 * half - half % 2


def check_sums(
    host: Host,
    degrees: list[int],
    half: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    weighted: bool = True,
    mean: bool = False,
    chosen: bool = False,
    ids: bool = True,
) -> None:
    """All four ways of summing both products."""
    p, graph, plan = typed(degrees, index, ids)
    nodes = {"dst": p.rows, "src": p.cols, "rel": RELATIONS}
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    weight = draw(p.edges, dtype=dtype, seed=4) if weighted else None
    scale = graph.inverse_degree(acc) if mean else None
    for (number, to), kind in product(enumerate(ROLES), (0, half)):
        width = width_of(half, kind)
        arg = None
        if chosen:  # edges that the destinations could have taken
            values = draw(graph.num_src, width, dtype=torch.float64, seed=7)
            arg = trilinear.extreme(graph, values, None, True)[1].to(index)
        g, x, z = (
            None if to == role else draw(n, width, dtype=dtype, seed=k) for k, (role, n) in enumerate(nodes.items())
        )
        w = None if to == "edge" else weight
        pattern, two, a, b, c = p, plan.type_dst, x, z, None
        if to == "src":
            pattern, two, a = cast(graph.t().pattern, index), plan.type_src, g
        elif to == "rel":
            pattern, two, a, b = Pattern(plan.rel_ptr, plan.rel_dst, plan.rel_id, p.rows), plan.rel_src, g, x
        elif to == "edge":
            c = g
        wanted = twin(graph, g, x, z, w, arg, *plan, to, mean, kind)
        out = torch.zeros_like(wanted)
        host.rspmm(pattern, [two, a, b, c, w, scale, arg], [number, 2 if kind else 0, kind, 0], out)
        assert close(out, wanted), (to, kind)


def check_extremes(host: Host, degrees: list[int], half: int, dtype: torch.dtype, index: torch.dtype) -> None:
    """Numbers so few that most rows have ties; products of them are exact."""
    p, graph, plan = typed(degrees, index, True)
    for (number, message), largest in product(enumerate(MESSAGES), (True, False)):
        kind = half if message == "rotate" else 0
        width = width_of(half, kind)
        shapes = (p.cols, width), (RELATIONS, width), (p.edges,)
        x, z, w = (draw(*shape, dtype=dtype, seed=seed).round() for seed, shape in enumerate(shapes))
        wanted, winner = extreme(graph, x, z, w, *plan, message, kind, largest)
        y, new_arg = torch.zeros_like(wanted), torch.zeros_like(winner)
        host.rspmm(p, [plan.type_dst, x, z, None, w, None, None], [0, number, kind, 1 if largest else 2], y, new_arg)
        assert torch.equal(new_arg, winner) and torch.equal(y, wanted), message


@pytest.mark.parametrize(("rows", "half", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, half: int, kind: str) -> None:
    degrees, index = degrees_of(rows, kind), INDICES[rows % 2]
    check_sums(host, degrees, half, dtype, index, ids=half % 2 == 0)
    check_extremes(host, degrees, half, dtype, index)


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modes(host: Host, dtype: torch.dtype, index: torch.dtype) -> None:
    """With and without weights, means, a choice of edges and ids; a vector or an element at a time."""
    for weighted, mean, chosen, ids, half in product(*[(True, False)] * 4, (8, 3)):
        check_sums(host, [3, 0, 1, 9, 66, 2, 140], half, dtype, index, weighted, mean, chosen, ids)


def test_an_infinity_stays_one(host: Host) -> None:
    """In the last edge of a row, which a batch takes again for the edges that it lacks: infinity times 0 is NaN."""
    p, _, plan = typed([3, 1, 5, 2, 66, 7], torch.int32, True)
    x, z, w = torch.ones(p.cols, 8), torch.ones(RELATIONS, 8), torch.ones(p.edges)
    x[p.col[p.row_ptr[1:] - 1].long()] = torch.inf
    y = torch.zeros(p.rows, 8)
    host.rspmm(p, [plan.type_dst, x, z, None, w, None, None], [0, 0, 0, 0], y)
    assert y.isposinf().all()


def test_what_does_not_fit(host: Host) -> None:
    p = pattern_of([1, 2], 3)
    two, x, z, y = torch.zeros(3, dtype=torch.int32), torch.zeros(3, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    given = [two, x, z, None, None, None, None]
    arg = torch.zeros(2, 4, dtype=torch.int32)
    for options, text in (
        ([4, 0, 0, 0], "to must be 0 to 3"),
        ([0, 3, 0, 0], "message must be 0, 1 or 2"),
        ([0, 0, 0, 3], "reduce must be 0, 1 or 2"),
        ([0, 2, 3, 0], "half must divide the columns"),
        ([0, 0, 2, 0], "half must divide the columns"),
        ([0, 1, 0, 0], "sums of x . z are spmm's"),
        ([3, 0, 0, 0], "c is for edges alone"),
        ([0, 0, 0, 1], "an extreme needs new_arg"),
        ([1, 0, 0, 1], "an extreme is over all edges of destinations"),
    ):
        with pytest.raises(HostError, match=f"rspmm: {text}"):
            host.rspmm(p, given, options, y)
    with pytest.raises(HostError, match=r"rspmm: two must have shape \[3\], got \[2\]"):
        host.rspmm(p, [two[:2], *given[1:]], [0, 0, 0, 0], y)
    with pytest.raises(HostError, match=r"rspmm: b must have shape \[2, 4\], got \[2, 2\]"):
        host.rspmm(p, [two, x, torch.zeros(2, 2), *given[3:]], [0, 0, 0, 0], y)
    with pytest.raises(HostError, match="rspmm: new_arg must be int32, got int64"):
        host.rspmm(p, given, [0, 0, 0, 1], y, arg.long())


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, half in product(DTYPES, (8, 3)):
        check_extremes(host, [1, 70], half, dtype, torch.int32)
        for chosen in (True, False):
            check_sums(host, [1, 70], half, dtype, chosen=chosen)
    known, executed = host.kernels()
    mine = {name for name in known if "rspmm_" in name}
    assert len(mine) == 64
    assert not sorted(mine - executed)

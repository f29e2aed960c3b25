"""Every kernel of csrc/cuda, run on the CPU, against the contract: every mode, dtype and index type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from math import inf, nan

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import (
    COLS,
    MAX,
    MIN,
    NONE,
    ROWS,
    SUM,
    acc,
    close,
    degrees_of,
    dots,
    edge_rows,
    extremes,
    ids_of,
    pattern_of,
    sums,
)
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
ROWS_TO_TEST = [0, 1, 31, 32, 33, 1025]
WIDTHS = [1, 3, 4, 7, 8, 16, 33, 64, 130]
COLUMNS = 40


ON_LISTS = re.compile("gram_|clear_kernel|mix_kernel|task_weights")  # test_lists.py
OF_OTHER_FILES = re.compile(
    "attention_|gatv2_|edge_energy_|gibbs_|rspmm_|concrete_|gather_relu_|relu_sum_|block_s|intersect_"
)


def randn(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def features(nodes: int, tasks: int, width: int, task_axis: bool, dtype: torch.dtype, seed: int = 1) -> Tensor:
    shape = (nodes, tasks, width) if task_axis else (nodes, width)
    return randn(*shape, dtype=dtype, seed=seed)


def weights(p: Pattern, tasks: int | None, dtype: torch.dtype) -> Tensor | None:
    """Of shape [E, T], [E] for 0 tasks, or None."""
    if tasks is None:
        return None
    return randn(*((p.edges, tasks) if tasks else (p.edges,)), dtype=dtype, seed=2)


def scale_for(p: Pattern, of: str, dtype: torch.dtype) -> Tensor | None:
    nodes = {"none": None, "rows": p.rows, "cols": p.cols}[of]
    return None if nodes is None else randn(nodes, dtype=acc(dtype), seed=3).abs()


def args_for(p: Pattern, arg_of: int, columns: int) -> Tensor | None:
    """Random edge ids, half of them of edges that the row (column) has."""
    if arg_of == NONE:
        return None
    generator = torch.Generator().manual_seed(4)
    nodes = p.rows if arg_of == ROWS else p.cols
    arg = torch.randint(-1, max(p.edges, 1), (nodes, columns), generator=generator)
    owner = torch.repeat_interleave(torch.arange(p.rows), p.row_ptr.diff()) if arg_of == ROWS else p.col.long()
    for node in range(nodes):
        mine = ids_of(p)[owner == node]
        if len(mine):
            pick = mine[torch.randint(len(mine), (columns,), generator=generator)]
            arg[node] = torch.where(torch.rand(columns, generator=generator) < 0.7, pick, arg[node])
    return arg.to(p.col.dtype)


def check_sum(
    host: Host, p: Pattern, x: Tensor, w: Tensor | None, tasks: int, width: int, task_axis: bool, **options: object
) -> None:
    y = features(p.rows, tasks, width, task_axis, x.dtype)
    host.spmm(p, x, w, y, **options)  # type: ignore[arg-type]
    expected, size = sums(p, x, w, tasks, task_axis, **options)  # type: ignore[arg-type]
    assert close(y, expected.reshape(y.shape), size.reshape(y.shape))


def check_extreme(host: Host, p: Pattern, x: Tensor, w: Tensor | None, tasks: int, reduce: int) -> None:
    expected, winner = extremes(p, x, w, tasks, reduce == MAX)
    task_axis = x.dim() == 3 or (w is not None and w.dim() == 2)
    shape = expected.shape if task_axis else (p.rows, x.shape[-1])
    y, new_arg = torch.zeros(shape, dtype=x.dtype), torch.zeros(shape, dtype=p.col.dtype)
    host.spmm(p, x, w, y, reduce=reduce, new_arg=new_arg)
    assert torch.equal(new_arg.long(), winner.reshape(shape))
    assert torch.equal(y.nan_to_num(12345.0), expected.reshape(shape).nan_to_num(12345.0))


def check_dots(
    host: Host, p: Pattern, a: Tensor, b: Tensor, tasks: int, w: Tensor | None, fused: bool, **options: object
) -> None:
    out = torch.zeros(p.edges, tasks, dtype=b.dtype)
    y = torch.zeros_like(a) if fused else None
    host.sddmm(p, a, b, out, w=w, y=y, **options)  # type: ignore[arg-type]
    expected, size = dots(p, a, b, tasks, **options)  # type: ignore[arg-type]
    assert close(out, expected, size)
    if y is not None:
        expected, size = sums(p, b, w, tasks, a.dim() == 3, **options)  # type: ignore[arg-type]
        assert close(y, expected, size)


# ------------------------------------------------------------------------------------------------------------- sums

SIZES = [(rows, 4, "power") for rows in ROWS_TO_TEST] + [(33, width, "power") for width in WIDTHS]
SIZES += [(rows, 4, "border") for rows in (6, 12)]
SIZES += [(33, width, "one") for width in (1, 7, 16, 130)] + [(1, 4, "one"), (8, 1100, "power")]


@pytest.mark.parametrize(("rows", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, width: int, kind: str) -> None:
    """All operators at every size, one and three tasks with weights of their own."""
    p = pattern_of(degrees_of(rows, kind), COLUMNS, INDICES[rows % 2], ids=width % 2 == 0)
    for tasks in (1, 3) if rows < 1000 else (2,):
        x, g = (features(n, tasks, width, True, dtype, seed=n) for n in (COLUMNS, rows))
        w = weights(p, tasks, dtype)
        check_sum(host, p, x, w, tasks, width, True)
        check_extreme(host, p, x, w, tasks, MAX)
        check_dots(host, p, g, x, tasks, w, fused=True)
        check_dots(host, p, g, x, tasks, None, fused=False)


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_modes(host: Host, dtype: torch.dtype, index: torch.dtype) -> None:
    """Weights none, [E], [E, T]; T in x, y or both; scales; both kinds of arg; with and without edge ids."""
    axes = {
        None: [(False, False), (True, True)],
        0: [(False, False), (True, True)],
        3: [(True, True), (False, True), (True, False)],
    }
    for weight_tasks, scale_of, arg_of, ids, width in product(
        axes, ("none", "rows", "cols"), (NONE, ROWS, COLS), (True, False), (8, 5)
    ):
        p = pattern_of([3, 0, 1, 9, 66, 2, 140], 11, index, ids)
        for x_axis, y_axis in axes[weight_tasks]:
            tasks = 3 if x_axis or y_axis else 1
            x = features(p.cols, tasks, width, x_axis, dtype)
            options = {
                "scale": scale_for(p, scale_of, dtype),
                "scale_of_cols": scale_of == "cols",
                "arg": args_for(p, arg_of, tasks * width),
                "arg_of": arg_of,
            }
            check_sum(host, p, x, weights(p, weight_tasks, dtype), tasks, width, y_axis, **options)


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dot_modes(host: Host, dtype: torch.dtype, index: torch.dtype) -> None:
    """The same for sddmm and the fused backward; T in a, b or both."""
    for scale_of, arg_of, ids, width, fused in product(
        ("none", "rows", "cols"), (NONE, ROWS, COLS), (True, False), (8, 5), (True, False)
    ):
        p = pattern_of([3, 0, 1, 9, 66, 2, 140], 11, index, ids)
        for tasks, a_axis, b_axis in ((1, False, False), (3, True, True), (3, True, False), (3, False, True)):
            a, b = features(p.rows, tasks, width, a_axis, dtype, 5), features(p.cols, tasks, width, b_axis, dtype, 6)
            options = {
                "scale": scale_for(p, scale_of, dtype),
                "scale_of_cols": scale_of == "cols",
                "arg": args_for(p, arg_of, tasks * width),
                "arg_of": arg_of,
            }
            w = weights(p, tasks, dtype) if ids else None
            check_dots(host, p, a, b, tasks, w, fused, **options)


# --------------------------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_modes(host: Host, dtype: torch.dtype, index: torch.dtype) -> None:
    """Few distinct values, so that most rows have ties; long rows too."""
    for reduce, weight_tasks, ids, width in product((MAX, MIN), (None, 0, 3), (True, False), (8, 5)):
        p = pattern_of([3, 0, 1, 9, 66, 2, 300], 11, index, ids)
        for x_axis in (True, False):
            x = features(p.cols, 3, width, x_axis, dtype).round()
            w = weights(p, weight_tasks, dtype)
            tasks = 3 if x_axis or weight_tasks else 1
            check_extreme(host, p, x, None if w is None else w.round(), tasks, reduce)


@pytest.mark.parametrize("reduce", [MAX, MIN])
@pytest.mark.parametrize("width", [4, 5])
def test_extremes_of_special_values(host: Host, reduce: int, width: int) -> None:
    """A NaN wins and stays, the first of several; infinities and signed zeros; within a piece and across pieces."""
    p = pattern_of([5, 1, 0, 400, 64, 65], 300, torch.int32)
    for seed in range(6):
        x = randn(300, width, dtype=torch.float32, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for value, share in ((inf, 0.05), (-inf, 0.05), (nan, 0.02), (-0.0, 0.1), (0.0, 0.1)):
            x[torch.rand(x.shape, generator=generator) < share * (seed % 3)] = value
        check_extreme(host, p, x, None, 1, reduce)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_ties_across_pieces(host: Host, value: float) -> None:
    """Equal extremes at neighbouring edges in different pieces, and in pieces that different threads combine."""
    p = Pattern(torch.tensor([0, 700]), torch.arange(700, dtype=torch.int32), None, 700)
    for places in ((63, 64), (127, 128, 129), (255, 256), (65, 320), (200, 64 * 5), (0, 699), (319, 320, 64 * 9)):
        for reduce in (MAX, MIN):
            x = torch.zeros(700, 5)
            x[list(places)] = value if reduce == MAX else -value
            check_extreme(host, p, x, None, 1, reduce)


# --------------------------------------------------------------------------------------------------- values and errors


def test_nan_and_infinity_stay_in_their_edges(host: Host) -> None:
    """What a batch loads for edges that are not there must not reach a sum: column 0 of x is NaN and in no edge."""
    for width, tasks in ((8, 1), (5, 1), (8, 3), (130, 2)):
        p = pattern_of([3, 0, 1, 9, 66, 2, 140], 11)
        p = Pattern(p.row_ptr, p.col.clamp(min=1), p.edge_id, p.cols)
        x, g = randn(11, tasks, width, dtype=torch.float32), randn(7, tasks, width, dtype=torch.float32)
        x[0] = nan
        w = weights(p, tasks, torch.float32)
        y, out, back = torch.zeros_like(g), torch.zeros(p.edges, tasks), torch.zeros_like(g)
        host.spmm(p, x, w, y)
        host.sddmm(p, g, x, out, w=w, y=back)
        assert y.isfinite().all() and out.isfinite().all() and back.isfinite().all()
        for edge in (0, int(ids_of(p)[4])):  # the user's first edge, and the first one of row 3
            one = w.clone()
            one[edge] = nan
            row = edge_rows(p)[ids_of(p) == edge]
            host.spmm(p, x, one, y)
            host.sddmm(p, g, x, out, w=one, y=back)
            for result in (y, back):
                assert torch.equal(result.isnan().flatten(1).all(1), torch.arange(7) == row)
                assert result[torch.arange(7) != row].isfinite().all()


@pytest.mark.parametrize("where", ["x", "w"])
def test_an_infinity_stays_one(host: Host, where: str) -> None:
    """In the last edge of a row, which a batch takes again for the edges that it lacks: infinity times 0 is NaN."""
    p = pattern_of([3, 1, 5, 2, 66, 7], 90)
    last = p.row_ptr[1:] - 1
    col = torch.arange(p.edges, dtype=p.col.dtype)  # each edge has a source of its own
    p = Pattern(p.row_ptr, col, p.edge_id, p.edges)
    for width, tasks in ((8, 1), (5, 1), (8, 3), (260, 1)):
        x = torch.ones(p.edges, tasks, width)
        g, w = torch.ones(6, tasks, width), torch.ones(p.edges, tasks)
        if where == "x":
            x[last] = inf
        else:
            w[ids_of(p)[last]] = inf
        y, out, back = torch.zeros_like(g), torch.zeros(p.edges, tasks), torch.zeros_like(g)
        host.spmm(p, x, w, y)
        host.sddmm(p, g, x, out, w=w, y=back)
        assert y.isposinf().all() and back.isposinf().all() and not out.isnan().any()


def test_unaligned_pointers(host: Host) -> None:
    """Contiguous tensors that do not start at 16 bytes take the path of single elements."""
    p = pattern_of([3, 0, 1, 9, 66, 2], 11)
    x = randn(11 * 8 + 1, dtype=torch.float32)[1:].reshape(11, 8)
    g = randn(6 * 8 + 1, dtype=torch.float32)[1:].reshape(6, 8)
    check_sum(host, p, x, weights(p, 0, torch.float32), 1, 8, False)
    check_dots(host, p, g, randn(11, 8, dtype=torch.float32), 1, None, fused=True)


@pytest.mark.parametrize("width", [130, 520])
def test_same_bits_again(host: Host, width: int) -> None:
    p = pattern_of(degrees_of(33, "one"), COLUMNS)
    x, w = randn(COLUMNS, width, dtype=torch.float32), weights(p, 0, torch.float32)
    first, second = torch.zeros(33, width), torch.ones(33, width)
    host.spmm(p, x, w, first)
    host.spmm(p, x, w, second)
    assert torch.equal(first, second)


@pytest.fixture
def workspaces(host: Host) -> Iterator[Callable[..., None]]:
    yield host.workspaces
    host.workspaces()


def test_workspace_of_cuda(host: Host, workspaces: Callable[..., None]) -> None:
    """PyTorch before 2.10 offers no allocator."""
    workspaces(of_torch=False)
    p = pattern_of(degrees_of(33, "one"), COLUMNS)
    x = randn(COLUMNS, 8, dtype=torch.float32)
    check_sum(host, p, x, weights(p, 0, torch.float32), 1, 8, False)
    check_extreme(host, p, x, None, 1, MAX)


@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="PyTorch before 2.10")
def test_workspace_that_torch_cannot_give(host: Host, workspaces: Callable[..., None]) -> None:
    """The error has what PyTorch says; the device is put back, and the next call is as if nothing had happened."""
    p = pattern_of(degrees_of(33, "one"), COLUMNS)
    x = randn(COLUMNS, 8, dtype=torch.float32)
    workspaces(more=1 << 61)
    with pytest.raises(HostError, match=r"workspace of \d{19} bytes: .*(alloc|memory)"):
        check_sum(host, p, x, None, 1, 8, False)
    workspaces()
    check_sum(host, p, x, None, 1, 8, False)


def test_errors(host: Host) -> None:
    p = pattern_of([1, 2], 3)
    x, w = randn(3, 2, 4, dtype=torch.float32), weights(p, 2, torch.float32)
    y, new_arg = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(HostError, match="spmm: an extreme needs the task axis in y"):
        host.spmm(p, x, w, y, reduce=MAX, new_arg=new_arg)
    wide = torch.zeros(1, 65536 * 128 + 1)
    with pytest.raises(HostError, match=r"spmm_sum<4>: a grid may have 2147483647 x 65535 blocks, .* x 65537"):
        host.spmm(pattern_of([1], 1), wide, None, torch.zeros_like(wide), reduce=SUM)


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, width, tasks in product(DTYPES, (8, 5, 33, 128, 256, 514), (1, 4)):
        p = pattern_of([1, 70], 3)
        x, g = features(3, tasks, width, True, dtype), features(2, tasks, width, True, dtype)
        w = weights(p, tasks, dtype)
        check_sum(host, p, x, w, tasks, width, True)
        check_extreme(host, p, x, w, tasks, MIN)
        check_dots(host, p, g, x, tasks, w, fused=True)
        check_dots(host, p, g, x, tasks, w, fused=False)
        options = {"arg": args_for(p, ROWS, tasks * width), "arg_of": ROWS}
        check_sum(host, p, x, w, tasks, width, True, **options)
        check_dots(host, p, g, x, tasks, None, False, **options)
    # Few gates and many: both sizes of shared memory.
    for dtype, width, (relations, targets) in product(DTYPES, (8, 5), ((1, 2), (12, 30))):
        z, logits = (randn(2, relations, 2, n, dtype=dtype) for n in (width, targets))
        w, u = randn(targets, width, dtype=dtype), randn(2, targets, width, dtype=dtype)
        host.relation_gate(z, logits, w, u, None, 2, torch.zeros_like(u))
        partial = torch.zeros(1, targets, width, dtype=acc(dtype))
        out = [torch.zeros_like(v) for v in (z, logits, w)]
        host.relation_gate_backward(u, z, logits, w, None, *out, partial)
    known, executed = host.kernels()
    known = {name for name in known if not ON_LISTS.search(name)}
    known = {name for name in known if not OF_OTHER_FILES.search(name)}
    assert len(known) >= 60
    assert not sorted(known - executed)

"""The kernels on lists of tensors and the solver of small problems, run on the CPU, against plain PyTorch."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError, Rows
from torch import Tensor

from fastgmtl.ops.task_weights import METHODS
from fastgmtl.reference.combine import mixed
from fastgmtl.reference.gram import cross
from fastgmtl.reference.task_weights import task_weights

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
TASKS = [1, 2, 3, 4, 5, 8, 9, 17]
# Around a vector, a round of a block, a piece; none.
SIZES = [0, 1, 3, 128, 511, 512, 513, 2047, 2049, 5000]


def draw(
    tasks: int, sizes: list[int], dtype: torch.dtype, seed: int = 0, missing: bool = False
) -> list[list[Tensor | None]]:
    g = torch.Generator().manual_seed(seed)
    rows: list[list[Tensor | None]] = [[torch.randn(n, generator=g).to(dtype) for n in sizes] for _ in range(tasks)]
    if missing:
        for t in range(0, tasks, 2):
            rows[t][t % len(sizes)] = None
    return rows


def flat(rows: list[list[Tensor | None]]) -> Rows:
    return Rows(tuple(v for row in rows for v in row), len(rows), False)


def check_gram(
    host: Host, a: list[list[Tensor | None]], b: list[list[Tensor | None]] | None, groups: list[int], count: int
) -> None:
    out = torch.full((count, len(a), len(b or a)), torch.nan, dtype=torch.float64)
    host.gram(flat(a), None if b is None else flat(b), groups, out)
    want = cross(a, b or a, groups or None, count)
    # The sum of absolute products bounds what rounding may do.
    size = max(float(v.double().square().sum()) for row in [*a, *(b or a)] for v in row if v is not None) + 1e-30
    dtype = next(v.dtype for row in a for v in row if v is not None)
    bound = {torch.float64: 1e-13}.get(dtype, 1e-6) * size * len(a[0])
    assert out.isfinite().all() and float((out - want).abs().max()) <= bound
    if b is None:
        assert torch.equal(out, out.transpose(1, 2))


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gram(host: Host, dtype: torch.dtype, tasks: int) -> None:
    for missing in (False, True):
        rows = draw(tasks, SIZES if tasks in (3, 8) else [3, 700], dtype, tasks, missing)
        check_gram(host, rows, None, [], 1)
        check_gram(host, rows, draw(3, [len_of(rows, n) for n in range(len(rows[0]))], dtype, 99), [], 1)


def len_of(rows: list[list[Tensor | None]], place: int) -> int:
    return next((v.numel() for row in rows if (v := row[place]) is not None), 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups(host: Host, dtype: torch.dtype) -> None:
    """Runs of one group, one that comes again, one without a tensor; more parts than fit into a launch."""
    for sizes, groups, count in (
        ([5, 600, 7], [0, 0, 0], 1),
        ([5, 600, 7], [0, 1, 0], 2),
        ([5, 600, 7], [2, 2, 0], 4),
        ([4] * 45, [n % 3 for n in range(45)], 3),
        ([4] * 45, [], 1),
    ):
        for tasks in (2, 9) if len(sizes) == 3 else (2,):
            check_gram(host, draw(tasks, sizes, dtype, missing=True), None, groups, count)


def test_parts_of_several_dtypes(host: Host) -> None:
    rows = [[torch.ones(n, dtype=dtype) for n, dtype in zip((3, 40, 5, 600), DTYPES, strict=True)] for _ in range(2)]
    out = torch.zeros(1, 2, 2, dtype=torch.float64)
    host.gram(flat(rows), None, [], out)  # type: ignore[arg-type]
    assert out.eq(648).all()


def test_stacked_and_unaligned(host: Host) -> None:
    """Rows of an odd length do not start at 16 bytes."""
    for dtype, size in product(DTYPES, (600, 601)):
        matrix = torch.randn(4, size, generator=torch.Generator().manual_seed(1)).to(dtype)
        out, wide = torch.zeros(1, 4, 4, dtype=torch.float64), matrix.double()
        host.gram(Rows((matrix,), 4, True), None, [], out)
        torch.testing.assert_close(out[0], wide @ wide.T, rtol=0, atol=1e-3)
        weights, result = torch.randn(1, 2, 4, dtype=torch.float64), torch.zeros(2, size, dtype=dtype)
        host.combine(Rows((matrix,), 4, True), weights, [], Rows((result,), 2, True))
        torch.testing.assert_close(result.double(), weights[0] @ wide, rtol=0, atol=8 * TOLERANCE[dtype])


def test_same_bits_again_and_more_pieces_than_lanes(host: Host) -> None:
    matrix = torch.randn(2, 80_000, generator=torch.Generator().manual_seed(2))
    out, again = (torch.zeros(1, 2, 2, dtype=torch.float64) for _ in range(2))
    host.gram(Rows((matrix,), 2, True), None, [], out)
    host.gram(Rows((matrix,), 2, True), None, [], again)
    want = matrix.double().square().sum(1)
    assert torch.equal(out, again) and float(((out[0].diagonal() - want) / want).abs().max()) < 1e-7


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combine(host: Host, dtype: torch.dtype, accumulate: bool) -> None:
    for tasks, sums, groups in product((1, 2, 5, 9), (1, 3), ([], [0, 1, 0, 1, 1, 0, 0, 0, 1, 0])):
        rows = draw(tasks, SIZES, dtype, tasks, missing=tasks > 1)
        weights = torch.randn(2 if groups else 1, sums, tasks, dtype=torch.float64)
        before = [[torch.randn(n).to(dtype) for n in SIZES] for _ in range(sums)]
        out = [[v.clone() if accumulate else torch.full_like(v, torch.nan) for v in row] for row in before]
        host.combine(flat(rows), weights, groups, flat(out), accumulate)  # type: ignore[arg-type]
        for got, want, old in zip(out, mixed(rows, weights, groups or None), before, strict=True):
            for g, w, o in zip(got, want, old, strict=True):
                w = torch.zeros_like(g) if w is None else w
                expected = w.double() + (o.double() if accumulate else 0)
                assert float((g.double() - expected).abs().max() if g.numel() else 0) <= 12 * TOLERANCE[dtype]


def test_combine_of_many_rows_and_parts(host: Host) -> None:
    for tasks, sums, parts in ((64, 64, 3), (33, 1, 10), (2, 1, 45)):
        rows = draw(tasks, [5] * parts, torch.float32)
        weights = torch.randn(1, sums, tasks, dtype=torch.float64)
        out = [[torch.zeros(5) for _ in range(parts)] for _ in range(sums)]
        host.combine(flat(rows), weights, [], flat(out))  # type: ignore[arg-type]
        for got, want in zip(out, mixed(rows, weights, None), strict=True):
            torch.testing.assert_close(torch.cat(got), torch.cat(want), rtol=0, atol=1e-4)
    check_gram(host, draw(64, [3] * 6, torch.float32), None, [], 1)


PARAMETER = {"cagrad": 0.4, "fairgrad": 2.0, "nashmtl": 1.0, "imtlg": 1.0, "gradvac": 0.5, "alignedmtl": 1.0}


@pytest.mark.parametrize("method", METHODS)
def test_task_weights(host: Host, method: str) -> None:
    for tasks in (1, 2, 5, 9):
        g = torch.Generator().manual_seed(tasks)
        j = torch.randn(2, tasks, 3 * tasks, generator=g, dtype=torch.float64) + 0.3
        gram, vector = j @ j.transpose(1, 2), torch.rand(tasks, generator=g, dtype=torch.float64) + 0.1
        order = torch.rand(tasks, tasks, generator=g).argsort(1)
        state = 0.3 * torch.rand(2, tasks, tasks, generator=g, dtype=torch.float64) if method == "gradvac" else None
        again, out = None if state is None else state.clone(), torch.zeros(2, tasks, dtype=torch.float64)
        parameter = PARAMETER.get(method, 0.0)
        want = task_weights(gram, method, vector, order, parameter, again)
        host.task_weights(METHODS.index(method), gram, vector, order, parameter, state, out)
        torch.testing.assert_close(out, want, rtol=1e-7, atol=1e-9)
        if state is not None:
            torch.testing.assert_close(state, again)


def test_errors(host: Host) -> None:
    rows = flat(draw(2, [3], torch.float32))
    with pytest.raises(HostError, match=r"gram: out must have shape \[1, 2, 2\]"):
        host.gram(rows, None, [], torch.zeros(1, 3, 3, dtype=torch.float64))
    with pytest.raises(HostError, match="combine: out must be tensors, got None"):
        host.combine(rows, torch.zeros(1, 1, 2, dtype=torch.float64), [], Rows((None,), 1, False))


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, tasks, size in product(DTYPES, (2, 9), (16, 17)):
        matrix = torch.ones(tasks, size, dtype=dtype)
        rows, out = Rows((matrix,), tasks, True), torch.zeros(2, tasks, tasks, dtype=torch.float64)
        host.gram(rows, None, [1], out)
        host.gram(rows, rows, [1], out)
        host.combine(
            rows, torch.ones(1, 1, tasks, dtype=torch.float64), [], Rows((torch.ones(size, dtype=dtype),), 1, False)
        )
    test_task_weights(host, "mgda")
    known, executed = host.kernels()
    known = {name for name in known if re.search("gram_|clear_kernel|mix_kernel|task_weights", name)}
    assert len(known) >= 39
    assert not sorted(known - executed)

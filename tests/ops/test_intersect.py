"""intersect: neighbourhoods as Python's sets, on every instruction set, for any number of threads; what it refuses."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS, Pattern
from compare import case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgmtl import Graph, ops, reference

pytestmark = pytest.mark.usefixtures("kernels")
ALL = {f"{size}-{name}": p for size, table in (("small", PATTERNS), ("medium", MEDIUM)) for name, p in table.items()}


def draw(pattern: Pattern, count: int = 60) -> Tensor:
    """Pairs [2, Q], some of a node and itself; none where there are no nodes."""
    high = max(1, pattern.num_dst)
    return torch.randint(high, (2, count if pattern.num_dst else 0), generator=cases.generator(pattern.name))


def same(got: Graph, want: Graph) -> None:
    assert torch.equal(got.row_ptr, want.row_ptr) and torch.equal(got.col, want.col) and got.edge_id is None
    assert (got.num_src, got.num_dst, got.col.dtype) == (want.num_src, want.num_dst, want.col.dtype)


@pytest.mark.parametrize("pattern", ALL.values(), ids=ALL.keys())
def test_it_is_what_sets_have_in_common(pattern: Pattern, kernels: ModuleType) -> None:
    graph, pairs = pattern.graph(), draw(pattern)
    near: list[set[int]] = [set() for _ in range(pattern.num_dst)]
    for src, dst in pattern.edge_index.t().tolist():
        near[dst].add(src)
    before = kernels.simd()
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            for without in (None, pairs, torch.cat([pairs + 1, pairs.flip(0) // 2, pairs])):
                found = ops.intersect(graph, pairs, without, difference=True)
                twin = reference.intersect(graph, pairs, without, difference=True)
                same(ops.intersect(graph, pairs, without), found[0])
                for part, (got, want) in enumerate(zip(found, twin, strict=True)):
                    with case(level, part):
                        same(got, want)
                for q, (i, j) in enumerate(pairs.t().tolist()):
                    out = set() if without is None else set(without[:, q].tolist())
                    wanted = near[i] & near[j] - out, near[i] - near[j] - out, near[j] - near[i] - out
                    rows = [g.col[g.row_ptr[q] : g.row_ptr[q + 1]].tolist() for g in found]
                    assert rows == [sorted(s) for s in wanted]
    finally:
        kernels.set_simd(before)


def test_rows_of_very_different_length(kernels: ModuleType) -> None:
    """Where the short one is looked for in the long one: at its beginning, its end, between its columns, and beyond."""
    long = torch.arange(3, 3 * 400, 3)
    for short in ([0], [3], [4], [1197], [1198], [0, 3, 600, 601, 603, 1197, 1199], [5, 1194, 1197]):
        src = torch.cat([long, torch.tensor(short)])
        dst = torch.cat([torch.zeros_like(long), torch.ones(len(short), dtype=torch.int64)])
        graph = Graph.from_edge_index(torch.stack([src, dst]), 1300, 2)
        for pair in ([[0], [1]], [[1], [0]]):
            found = ops.intersect(graph, torch.tensor(pair))
            assert found.col.tolist() == sorted(set(short) & set(long.tolist()))


@pytest.mark.parametrize("wide", [False, True])
def test_rows_around_vectors(wide: bool, kernels: ModuleType) -> None:
    """Rows of lengths below, at and above those of vectors and of what is compared at once."""
    lengths, g, before = (1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200), cases.generator("vectors"), kernels.simd()
    rows = [torch.randperm(300, generator=g)[:length] for length in lengths for _ in range(2)]
    dst = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    graph = Graph.from_edge_index(torch.stack([torch.cat(rows), dst]), 300, len(rows))
    if wide:  # as more than 2^31 edges would be
        sets = graph.neighbor_sets()
        graph._lazy["sets"] = Graph(sets.row_ptr, sets.col.long(), None, sets.num_src)
    pairs = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(rows))).t()
    want = reference.intersect(graph, pairs)
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            same(ops.intersect(graph, pairs), want)
    finally:
        kernels.set_simd(before)


def test_any_number_of_threads_gives_the_same_bits(threads: None) -> None:
    graph = cases.large("power_law", 400, 6000).graph()
    pairs = torch.randint(400, (2, 5000), generator=cases.generator("threads"))
    torch.set_num_threads(1)
    want = ops.intersect(graph, pairs, pairs, difference=True)
    for number in (2, 5):
        torch.set_num_threads(number)
        for got, twin in zip(ops.intersect(graph, pairs, pairs, difference=True), want, strict=True):
            same(got, twin)


def test_what_is_sorted_is_kept_and_pairs_may_be_narrow_or_strided() -> None:
    graph = MEDIUM["typical"].graph()
    pairs = draw(MEDIUM["typical"])
    want = ops.intersect(graph, pairs, pairs)
    sets = graph.neighbor_sets()
    same(ops.intersect(graph, pairs.int(), pairs.t().contiguous().t()), want)
    assert graph.neighbor_sets() is sets
    ends = list(zip(sets.edge_rows().tolist(), sets.col.tolist(), strict=True))
    assert ends == sorted({(d, s) for s, d in MEDIUM["typical"].edge_index.t().tolist()})


def test_pairs_must_be_plain_and_are_constants_of_torch_func() -> None:
    graph, pairs = PATTERNS["typical"].graph(), torch.tensor([[0, 1], [2, 3]])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.raises(TypeError, match="must be plain"):
        ops.intersect(graph, mode.from_tensor(pairs))
    x = torch.randn(5, 2, dtype=torch.float64)
    want = 2 * ops.spmm(ops.intersect(graph, pairs).t(), ops.spmm(ops.intersect(graph, pairs), x))
    fresh = PATTERNS["typical"].graph()
    got = torch.func.grad(lambda x: ops.spmm(ops.intersect(fresh, pairs), x).square().sum())(x)
    torch.testing.assert_close(got, want)
    # What it has kept is of use outside.
    assert type(fresh.neighbor_sets().col) is Tensor and int(fresh.neighbor_sets().row_ptr[-1]) > 0


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"graph": 3}, TypeError, "intersect: graph must be a fastgmtl.Graph, got int"),
        ({"pairs": [[0], [1]]}, TypeError, "intersect: pairs must be an int64 or int32 tensor, got list"),
        ({"pairs": torch.zeros(2, 3)}, TypeError, "intersect: pairs must be an int64 or int32 tensor, got float32"),
        ({"pairs": torch.zeros(3).long()}, ValueError, r"intersect: pairs must have shape \[2, Q\], got \[3\]"),
        ({"pairs": torch.zeros(3, 2).long()}, ValueError, r"intersect: pairs must have shape \[2, Q\], got \[3, 2\]"),
        (
            {"without": torch.zeros(2, 3).long()},
            ValueError,
            r"intersect: without must have shape \[K, Q\] with Q = 2, got \[2, 3\]",
        ),
        (
            {"pairs": torch.tensor([[0, 1], [2, 5]])},
            IndexError,
            r"intersect: every node of pairs must be in \[0, 5\), pair 1 has 5",
        ),
        (
            {"pairs": torch.tensor([[0, -1], [2, 3]])},
            IndexError,
            r"intersect: every node of pairs must be in \[0, 5\), pair 1 has -1",
        ),
    ],
)
def test_refused(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"graph": PATTERNS["typical"].graph(), "pairs": torch.tensor([[0, 1], [2, 3]])} | changes
    with pytest.raises(error, match=text):
        ops.intersect(**given)

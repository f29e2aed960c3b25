"""Every operator on every pattern: the kernel gives what the reference gives, for every type, width, processor level,
number of threads and border."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import cases
import pytest
import torch
from cases import CALLS, DTYPES, FEW, MEDIUM, PATTERNS, TASKS, WIDTHS, Pattern, call
from compare import case, close

from fastgmtl import Graph

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def graphs() -> dict[str, tuple[Pattern, Graph]]:
    tables = {"small": PATTERNS, "medium": MEDIUM}
    return {f"{size} {name}": (p, p.graph()) for size, table in tables.items() for name, p in table.items()}


@pytest.fixture
def simd(kernels: ModuleType) -> Iterator[ModuleType]:
    before = kernels.simd()
    yield kernels
    kernels.set_simd(before)


def equal(got: object, want: object) -> None:
    for g, w in zip(*(v if isinstance(v, tuple) else (v,) for v in (got, want)), strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(name: str, dtype: torch.dtype, graphs: dict[str, tuple[Pattern, Graph]]) -> None:
    for label, (pattern, graph) in graphs.items():
        c = call(name, pattern, 3, 5, dtype, graph)
        with case(label):
            got, want = c.run(*c.tensors), c.twin(*c.tensors)
            for g, w in zip(*(v if isinstance(v, tuple) else (v,) for v in (got, want)), strict=True):
                assert (g.shape, g.dtype) == (w.shape, w.dtype)
            close(got, want, dtype)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width_and_level(name: str, dtype: torch.dtype, simd: ModuleType) -> None:
    g = cases.generator("widths")
    pattern = Pattern("widths", cases.power_law_edges(30, 150, g), 30, 30)
    graph = pattern.graph()
    for width in WIDTHS:
        for tasks in TASKS if width in (1, 17, 32) else (1, 4) if width <= 100 else (3,):
            c = call(name, pattern, tasks, width, dtype, graph)
            want = c.twin(*c.tensors)
            for level in simd.simd_levels():
                simd.set_simd(level)
                with case("width", width, "tasks", tasks, level):
                    close(c.run(*c.tensors), want, dtype)


@pytest.mark.parametrize("kind", ["power_law", "uniform"])
@pytest.mark.parametrize("name", FEW)
def test_bit_equal_for_any_number_of_threads(name: str, kind: str, threads: None) -> None:
    pattern = cases.large(kind, 2000, 30000)
    c = call(name, pattern, 3, 17, torch.float32)
    torch.set_num_threads(1)
    want = c.run(*c.tensors)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for _ in range(2):
            with case(number, "threads"):
                equal(c.run(*c.tensors), want)


@pytest.mark.parametrize("name", FEW)
def test_bit_equal_by_both_borders_and_index_types(name: str, kernels: ModuleType) -> None:
    narrow, wide = (MEDIUM[n] for n in ("typical", "typical_wide"))
    c = call(name, narrow)
    want = c.run(*c.tensors)
    try:
        kernels.set_exchange_api(False)
        assert not kernels.uses_exchange_api()
        equal(c.run(*c.tensors), want)
    finally:
        kernels.set_exchange_api(True)
    graph = wide.graph()
    assert graph.col.dtype == graph.t().col.dtype == torch.int64
    tensors = [t.long() if t is not None and t.dtype == torch.int32 else t for t in c.tensors]
    draw = cases.Draw(graph, 3, 2, torch.float64, cases.generator("any"))
    got = CALLS[name](draw).run(*tensors)
    close(got, want, torch.float64)
    equal(tuple(v for v in (got if isinstance(got, tuple) else (got,)) if v.is_floating_point()), want)


def strided(value: torch.Tensor) -> torch.Tensor:
    """The same numbers, every other column of a wider tensor."""
    wide = torch.full((*value.shape[:-1], 2 * value.size(-1)), 7, dtype=value.dtype)
    wide[..., ::2] = value
    return wide[..., ::2]


def transposed(value: torch.Tensor) -> torch.Tensor:
    """The same numbers in column-major memory."""
    return value.movedim(-1, 0).contiguous().movedim(0, -1)


@pytest.mark.parametrize("change", [strided, transposed])
@pytest.mark.parametrize("name", CALLS)
def test_memory_layout_does_not_matter(name: str, change: object) -> None:
    c = call(name, MEDIUM["typical"])
    changed = [t if t is None else change(t) for t in c.tensors]  # type: ignore[operator]
    equal(c.run(*changed), c.run(*c.tensors))


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith("extreme")])
def test_expanded_inputs(name: str) -> None:
    c = call(name, MEDIUM["typical"])
    once = [
        t if t is None or not t.is_floating_point() else t.flatten()[:1].reshape((1,) * t.dim()).expand(t.shape)
        for t in c.tensors
    ]
    assert all(t is None or not t.is_floating_point() or not t.is_contiguous() for t in once)
    equal(c.run(*once), c.run(*[t if t is None else t.contiguous() for t in once]))

"""The operators of the one table on the GPU: values, derivatives, sizes, determinism, memory layouts, borders."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import cases
import pytest
import torch
from cases import CALLS, DTYPES, FEW, MEDIUM, PATTERNS, TASKS, WIDTHS, Pattern
from compare import case, close
from cuda_cases import cpu, expected, gradients, moved, pair, same_bits

from fastgmtl import Graph, ops, reference

SHAPES = ("typical", "empty", "no_edges", "one_row", "power_law", "bipartite_wide", "sorted")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(name: str, dtype: torch.dtype, device: torch.device) -> None:
    for size, table in (("small", PATTERNS), ("medium", MEDIUM)):
        for pattern in table if name in FEW else SHAPES:
            on_device, on_cpu = pair(name, table[pattern], device, dtype=dtype)
            with case(size, pattern):
                close(cpu(on_device.run(*on_device.tensors)), expected(on_cpu), dtype)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width_and_number_of_tasks(name: str, dtype: torch.dtype, device: torch.device) -> None:
    pattern = Pattern("widths", cases.power_law_edges(30, 150, cases.generator("widths")), 30, 30)
    for width in WIDTHS:
        for tasks in TASKS if width in (1, 17, 32) else (1, 4) if width <= 100 else (3,):
            on_device, on_cpu = pair(name, pattern, device, tasks, width, dtype)
            with case("width", width, "tasks", tasks):
                close(cpu(on_device.run(*on_device.tensors)), expected(on_cpu), dtype)


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in CALLS for d in DTYPES if d == DTYPES[0] or n in FEW])
def test_derivatives(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """Of first and second order; in half precision of first."""
    order = 1 if dtype in (torch.bfloat16, torch.float16) else 2
    for pattern, tasks in ((PATTERNS["bipartite"], 3), (MEDIUM["power_law"], 2)):
        on_device, on_cpu = pair(name, pattern, device, tasks, 5, dtype)
        with case(pattern.name):
            got = gradients(on_device.of_floats(on_device.run), on_device.inputs(True), order)
            want = gradients(on_cpu.of_floats(on_cpu.twin), on_cpu.inputs(True), order)
            close(cpu(got), want, dtype, factor=4)


@pytest.mark.parametrize("name", FEW)
def test_same_bits_again(name: str, device: torch.device) -> None:
    """Also where rows are split, and whatever lay in the memory before."""
    for kind in ("power_law", "uniform"):
        pattern = cases.large(kind, 2000, 30000)
        c, _ = pair(name, pattern, device, 3, 17, torch.float32)
        want = c.run(*c.tensors)
        for fill in (float("nan"), 1.0, -1e30):
            torch.full((1 << 22,), fill, device=device)  # its memory is the next one's
            with case(kind, fill):
                assert same_bits(c.run(*c.tensors), want)


@pytest.mark.parametrize("name", FEW)
def test_memory_layout_does_not_matter(name: str, device: torch.device) -> None:
    c, _ = pair(name, MEDIUM["typical"], device)
    changed = [t if t is None else t.movedim(-1, 0).contiguous().movedim(0, -1) for t in c.tensors]
    assert same_bits(c.run(*changed), c.run(*c.tensors))


@pytest.fixture
def by_capsules() -> Iterator[None]:
    from fastgmtl import backend

    kernels: ModuleType | None = backend.kernels
    if kernels is None:
        pytest.skip("needs the compiled module")
    kernels.set_exchange_api(False)
    yield
    kernels.set_exchange_api(True)


@pytest.mark.usefixtures("by_capsules")
@pytest.mark.parametrize("name", FEW)
def test_the_border_of_older_versions_of_torch(name: str, device: torch.device) -> None:
    """Tensors cross as capsules, workspaces come from cudaMallocAsync."""
    on_device, on_cpu = pair(name, MEDIUM["one_row"], device)
    close(cpu(on_device.run(*on_device.tensors)), expected(on_cpu), torch.float64)


@pytest.mark.parametrize("name", MEDIUM)
def test_graphs_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    """Sorted there, and sorted here."""
    pattern = MEDIUM[name]
    on_cpu = Graph.from_edge_index(pattern.edge_index, pattern.num_src, pattern.num_dst)
    there = Graph.from_edge_index(pattern.edge_index.to(device), pattern.num_src, pattern.num_dst)
    both = [(there, on_cpu), (there.t(), on_cpu.t())]
    if on_cpu.is_square:
        both.append((there.add_self_loops(), on_cpu.add_self_loops()))
    for ours, theirs in both:
        for a, b in zip(ours.pattern, theirs.pattern, strict=True):
            assert a == b if isinstance(a, int) else b is a is None or torch.equal(a.cpu(), b)
    assert torch.equal(there.edge_index().cpu(), pattern.edge_index)


@pytest.mark.parametrize("name", MEDIUM)
def test_common_neighbours_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    pattern = MEDIUM[name]
    pairs = torch.randint(max(1, pattern.num_dst), (2, 300 if pattern.num_dst else 0), generator=cases.generator(name))
    graph = pattern.graph()
    found = ops.intersect(graph.to(device), pairs.to(device), pairs.to(device), difference=True)
    for ours, theirs in zip(found, ops.intersect(graph, pairs, pairs, difference=True), strict=True):
        assert torch.equal(ours.row_ptr.cpu(), theirs.row_ptr) and torch.equal(ours.col.cpu(), theirs.col)


def test_indices_out_of_range(device: torch.device) -> None:
    edges = torch.tensor([[0, 1, 7], [1, 2, 0]], device=device)
    with pytest.raises(IndexError, match="7"):
        Graph.from_edge_index(edges, 3, 3)
    with pytest.raises(IndexError, match="-1"):
        Graph.from_edge_index(edges.clamp(max=2) - torch.tensor([[0], [1]], device=device), 3, 3)


@pytest.mark.parametrize("tasks", [1, 3])
def test_many_long_and_short_rows(tasks: int, device: torch.device) -> None:
    """A hub with a fifth of the edges, others around the length of a piece, most short; on both sides."""
    g = cases.generator("long")
    n, e = 20_000, 200_000 if device.type == "cpu" else 2_000_000
    edges = cases.power_law_edges(n, e, g)
    edges[0, : e // 10] = edges[1, e // 10 : e // 5] = 77
    graph = Graph.from_edge_index(edges[:, torch.randperm(e, generator=g)].to(device), n, n)
    shape = (n, 12) if tasks == 1 else (n, tasks, 12)
    x, grad = (torch.randn(*shape, generator=g).to(device) for _ in range(2))
    w = torch.rand(e, *shape[1:-1], generator=g).to(device)
    x, w = x.bfloat16().float(), w.bfloat16().float()  # their products are exact, and so is the choice of the largest
    inputs = [x.requires_grad_(), w.requires_grad_()]
    for reduce in ("sum", "mean", "max"):
        y = ops.spmm(graph, x, w, reduce)
        found = torch.autograd.grad(y, inputs, grad)
        exact = [i.detach().double().requires_grad_() for i in inputs]
        wanted = reference.spmm(graph, *exact, reduce)
        with case(reduce):
            # A sum of n numbers of random sign is off by as much as its terms are large, not as it is itself.
            close(cpu(y), cpu(wanted), torch.float32, factor=4)
            close(cpu(found), cpu(torch.autograd.grad(wanted, exact, grad.double())), torch.float32, factor=4)


def test_more_than_two_billion_numbers(gpu: torch.device) -> None:
    """Offsets in 64 bits: rows of x and y beyond element 2 ** 31."""
    free, _ = torch.cuda.mem_get_info(gpu)
    n, d = 5 << 20, 512
    if free < 8 * n * d:
        pytest.skip(f"needs {8 * n * d >> 30} GiB of free GPU memory")
    rows = torch.arange(n, device=gpu)
    graph = Graph.from_edge_index(torch.stack([n - 1 - rows, rows]), n, n)
    x = torch.empty(n, d, dtype=torch.bfloat16, device=gpu)
    x.copy_((rows % 251).unsqueeze(1))
    y = ops.spmm(graph, x)
    for start in (0, n // 2, n - 1000):
        assert torch.equal(y[start : start + 1000], x.flip(0)[start : start + 1000])
    assert torch.equal(y.flip(0), x)


def test_a_grid_that_is_too_large_names_the_kernel(gpu: torch.device) -> None:
    graph = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64, device=gpu), 1, 1)
    with pytest.raises(RuntimeError, match=r"spmm_sum<4>: a grid may have 2147483647 x 65535 blocks, .* x 65537"):
        ops.spmm(graph, torch.zeros(1, 65536 * 128 + 1, device=gpu))
    assert torch.equal(ops.spmm(graph, torch.ones(1, 2, device=gpu)), torch.ones(1, 2, device=gpu))


def test_another_device_is_refused(device: torch.device) -> None:
    graph = PATTERNS["typical"].graph().to(device)
    x = torch.ones(graph.num_src, 2)
    if device.type == "cpu":
        x = x.to("meta")
    with pytest.raises(ValueError, match="on one device"):
        ops.spmm(graph, x)
    assert moved(None, device) is None

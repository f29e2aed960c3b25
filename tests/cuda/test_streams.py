"""Streams, memory and the host: work is ordered like that of any operator of PyTorch, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cases
import pytest
import torch
from cases import CALLS, FEW, MEDIUM
from compare import case, close
from cuda_cases import cpu, expected, gradients, pair, same_bits, waiting_is
from torch import Tensor

from fastgmtl import Graph, nn, ops

N, WIDTH = 2000, 33


def graph_on(device: torch.device, edges: int = 30_000) -> Graph:
    """Unsorted edges, with rows that are split: there is a workspace."""
    g = cases.generator("streams")
    edge_index = cases.power_law_edges(N, edges, g)
    edge_index[1, ::5] = 3
    return Graph.from_edge_index(edge_index.to(device), N, N)


def features(device: torch.device, *shape: int, seed: str = "features") -> Tensor:
    return torch.randn(*shape, generator=cases.generator(seed)).to(device)


def busy(milliseconds: float = 50.0) -> None:
    """The current stream does nothing for a while: what is queued behind it has not begun when the host goes on."""
    torch.cuda._sleep(int(milliseconds * 2e6))


def overwrite(device: torch.device) -> None:
    """Take whatever memory is free and fill it with NaN."""
    kept = [torch.full((size,), float("nan"), device=device) for size in (1 << 10, 1 << 16, 1 << 20, 1 << 22) * 4]
    del kept


@pytest.fixture
def side(gpu: torch.device) -> torch.cuda.Stream:
    """A stream that has seen what the current one has done so far."""
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    return stream


@pytest.fixture(params=["exchange API", "capsules"])
def border(request: pytest.FixtureRequest, gpu: torch.device) -> Iterator[None]:
    from fastgmtl import backend

    assert backend.kernels is not None
    backend.kernels.set_exchange_api(request.param == "exchange API")
    yield
    backend.kernels.set_exchange_api(True)


# ------------------------------------------------------------------------------------------------- order of work


@pytest.mark.usefixtures("border")
@pytest.mark.parametrize("name", FEW)
def test_work_is_ordered_after_a_slow_producer(name: str, gpu: torch.device) -> None:
    """Operands are NaN until the side stream has slept; on any other stream a kernel would read them too early."""
    on_device, on_cpu = pair(name, MEDIUM["one_row"], gpu, dtype=torch.float32)
    on_device.run(*on_device.tensors)  # builds what the graph keeps, loads the kernels
    gradients(on_device.of_floats(on_device.run), on_device.inputs(True))
    late = [
        t if t is None or not t.is_floating_point() else torch.full_like(t, float("nan")) for t in on_device.tensors
    ]
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        busy()
        for here, value in zip(late, on_device.tensors, strict=True):
            if here is not None and value is not None and value.is_floating_point():
                here.copy_(value)
        got = on_device.run(*late)
        assert not stream.query()  # the host is ahead, else nothing was tested
        found = gradients(on_device.of_floats(on_device.run), on_device.inputs(True))
    torch.cuda.current_stream(gpu).wait_stream(stream)
    close(cpu(got), expected(on_cpu), torch.float32)
    close(cpu(found), gradients(on_cpu.of_floats(on_cpu.twin), on_cpu.inputs(True)), torch.float32, factor=4)


def test_backward_runs_on_the_stream_of_forward(gpu: torch.device, side: torch.cuda.Stream) -> None:
    graph, x = graph_on(gpu), features(gpu, N, WIDTH)
    want = torch.autograd.grad(ops.spmm(graph, x.requires_grad_(), None, "mean").square().sum(), x)[0]
    torch.cuda.synchronize(gpu)
    with torch.cuda.stream(side):
        late = torch.full_like(x, float("nan")).requires_grad_()
        busy()
        with torch.no_grad():
            late.copy_(x)
        loss = ops.spmm(graph, late, None, "mean").square().sum()
    (got,) = torch.autograd.grad(loss, late)  # asked for on the main stream, which the engine then lets wait
    assert torch.equal(got, want)


def test_results_are_taken_over_by_an_event(gpu: torch.device, side: torch.cuda.Stream) -> None:
    graph, x, w = graph_on(gpu), features(gpu, N, 3, WIDTH), features(gpu, 30_000, 3)
    want = ops.spmm(graph, x, w)
    torch.cuda.synchronize(gpu)
    with torch.cuda.stream(side):
        busy()
        got = ops.spmm(graph, x, w)
        done = side.record_event()
    torch.cuda.current_stream(gpu).wait_event(done)
    assert torch.equal(got, want)


# ------------------------------------------------------------------------------------------------------- memory


def test_temporaries_outlive_their_work(gpu: torch.device, side: torch.cuda.Stream) -> None:
    """Contiguous copies and workspaces are given back while their kernels have not begun, and asked for by others."""
    graph = graph_on(gpu)
    x, w = features(gpu, WIDTH, N).t(), features(gpu, 3, 30_000).t()  # not contiguous
    want = ops.spmm(graph, x, w)
    torch.cuda.synchronize(gpu)
    with torch.cuda.stream(side):
        busy()
        got = [ops.spmm(graph, x, w) for _ in range(4)]
        overwrite(gpu)
    overwrite(gpu)
    torch.cuda.synchronize(gpu)
    assert all(torch.equal(g, want) for g in got)


def test_memory_is_counted_and_given_back(gpu: torch.device) -> None:
    """No more than the result stays, and PyTorch knows of the workspace."""
    graph, x = graph_on(gpu), features(gpu, N, WIDTH)
    ops.spmm(graph, x, None, "mean")
    torch.cuda.synchronize(gpu)
    before = torch.cuda.memory_allocated(gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    y = ops.spmm(graph, x, None, "mean")
    after, peak = torch.cuda.memory_allocated(gpu), torch.cuda.max_memory_allocated(gpu)
    rounded = -(-y.nbytes // 512) * 512
    assert after - before == rounded
    assert peak - after >= 30_000 // 64 * WIDTH * 4
    del y
    assert torch.cuda.memory_allocated(gpu) == before


def test_a_dropped_graph_by_record_stream(gpu: torch.device, side: torch.cuda.Stream) -> None:
    graph, x = graph_on(gpu), features(gpu, N, WIDTH)
    want = ops.spmm(graph, x, None, "mean")
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        busy()
        got = ops.spmm(graph, x, None, "mean")
    graph.record_stream(side)
    del graph
    overwrite(gpu)
    torch.cuda.synchronize(gpu)
    assert torch.equal(got, want)


@pytest.mark.parametrize("use", ["mean", "loops", "layer"])
def test_what_a_graph_keeps_is_waited_for(use: str, gpu: torch.device, side: torch.cuda.Stream) -> None:
    """Made behind a sleep on a side stream, used at once on the main one, which nobody told to wait."""
    x = features(gpu, N, WIDTH)
    conv = nn.GCNConv(WIDTH, 4, cached=False).to(gpu)
    uses: dict[str, Callable[[Graph], Tensor]] = {
        "mean": lambda g: ops.spmm(g, x, None, "mean"),
        "loops": lambda g: ops.spmm(g.add_self_loops(), x),
        "layer": lambda g: conv(x, g).detach(),
    }
    want = uses[use](graph_on(gpu))
    graph = graph_on(gpu)
    torch.cuda.synchronize(gpu)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        busy()
        there = uses[use](graph)
    assert not side.query()
    here = uses[use](graph)
    torch.cuda.synchronize(gpu)
    assert torch.equal(here, want) and torch.equal(there, want)


# --------------------------------------------------------------------------------------------------------- host


@pytest.fixture
def no_waiting(gpu: torch.device) -> Iterator[Callable[[], None]]:
    """Call it, and PyTorch raises wherever the host would wait for the GPU."""

    def start() -> None:
        torch.cuda.synchronize(gpu)
        waiting_is("error")

    yield start
    waiting_is("default")


@pytest.mark.parametrize("name", CALLS)
def test_the_host_never_waits(name: str, gpu: torch.device, no_waiting: Callable[[], None]) -> None:
    """Values, gradients and gradients of gradients; what the graph keeps is there from a first time."""
    c, _ = pair(name, MEDIUM["one_row"], gpu, dtype=torch.float32)

    def all_of_it() -> tuple[Tensor, ...]:
        c.run(*c.tensors)
        return gradients(c.of_floats(c.run), c.inputs(True), order=2)

    want = all_of_it()
    no_waiting()
    got = all_of_it()
    waiting_is("default")
    assert same_bits(got, want)


def test_the_host_is_ahead(gpu: torch.device) -> None:
    """Also of a wait that PyTorch does not know of, such as one of our own runtime's."""
    graph, x = graph_on(gpu), features(gpu, N, 3, WIDTH).requires_grad_()
    w = features(gpu, 30_000, 3).requires_grad_()
    for reduce in ("sum", "mean", "max"):
        torch.autograd.grad(ops.spmm(graph, x, w, reduce).sum(), (x, w))
    torch.cuda.synchronize(gpu)
    busy(200.0)
    for reduce in ("sum", "mean", "max"):
        torch.autograd.grad(ops.spmm(graph, x, w, reduce).sum(), (x, w))
    with case("the stream has done its work before the host has queued it"):
        assert not torch.cuda.current_stream(gpu).query()


@pytest.mark.parametrize("name", ["GCNConv", "SAGEConv", "GraphConv"])
def test_layers_do_not_let_the_host_wait(name: str, gpu: torch.device, no_waiting: Callable[[], None]) -> None:
    graph, x = graph_on(gpu), features(gpu, N, WIDTH)
    conv = getattr(nn, name)(WIDTH, 8, num_tasks=2).to(gpu)
    parameters = list(conv.parameters())
    torch.autograd.grad(conv(x, graph).square().sum(), parameters)
    no_waiting()
    torch.autograd.grad(conv(x, graph).square().sum(), parameters)

"""CUDA graphs: operators and whole training steps are captured, and replays do what eager execution does."""

from __future__ import annotations

from collections.abc import Callable

import cases
import pytest
import torch
from cases import FEW, MEDIUM
from compare import case, close
from cuda_cases import gradients, pair, same_bits
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn, ops

N, E, FEATURES, CLASSES = 3000, 40_000, 24, 5
Step = Callable[[], Tensor]


def warmed_up(run: Callable[[], object], device: torch.device) -> None:
    """As PyTorch asks for before a capture: some runs on another stream."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)


@pytest.fixture
def training(device: torch.device) -> Callable[[], tuple[Step, list[Tensor], Tensor]]:
    """A step of two GCNConv, the tensors it changes, and its input; the same numbers each time it is called."""
    g = cases.generator("capture")
    edge_index = cases.power_law_edges(N, E, g).to(device)
    x, target = (
        torch.randn(N, FEATURES, generator=g).to(device),
        torch.randint(CLASSES, (2 * N,), generator=g).to(device),
    )

    def make() -> tuple[Step, list[Tensor], Tensor]:
        torch.manual_seed(0)
        graph = Graph.from_edge_index(edge_index, N, N)
        first = nn.GCNConv(FEATURES, 16, num_tasks=2).to(device)
        second = nn.GCNConv(16, CLASSES, num_tasks=2).to(device)
        parameters = [*first.parameters(), *second.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=1e-2, capturable=device.type == "cuda")
        given = x.clone()

        def step() -> Tensor:
            optimiser.zero_grad(set_to_none=True)
            out = second(first(given, graph).relu(), graph)
            loss = tnn.functional.cross_entropy(out.flatten(0, 1), target)
            loss.backward()
            optimiser.step()
            return loss.detach()

        return step, [p.detach() for p in parameters], given

    return make


def test_a_training_step_learns(training: Callable[[], tuple[Step, list[Tensor], Tensor]]) -> None:
    """The step of the tests below, without any capture."""
    step, parameters, _ = training()
    start = [p.clone() for p in parameters]
    losses = [float(step()) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.05
    assert not any(torch.equal(a, b) for a, b in zip(start, parameters, strict=True))


def test_replays_of_a_training_step_equal_eager_steps(
    gpu: torch.device, training: Callable[[], tuple[Step, list[Tensor], Tensor]]
) -> None:
    """Forward, backward and Adam in one graph; its input changes between replays."""
    inputs = [torch.randn(N, FEATURES, generator=cases.generator(f"input {i}")).to(gpu) for i in range(4)]
    step, wanted, given = training()
    warmed_up(step, gpu)
    for value in inputs:
        given.copy_(value)
        loss = step()

    captured_step, parameters, given = training()
    warmed_up(captured_step, gpu)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured_loss = captured_step()
    for value in inputs:
        given.copy_(value)
        graph.replay()
    torch.cuda.synchronize(gpu)
    # Products of matrices may take another algorithm in a capture.
    torch.testing.assert_close(captured_loss, loss, rtol=1e-4, atol=1e-5)
    for got, want in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FEW)
def test_operators_and_their_gradients(name: str, gpu: torch.device) -> None:
    """The same bits as without a graph, for other numbers than those it was captured with."""
    c, _ = pair(name, MEDIUM["one_row"], gpu, dtype=torch.float32)
    inputs = c.inputs(True)

    def run() -> tuple[Tensor, ...]:
        out = c.of_floats(c.run)(*inputs)
        return (*(o.detach() for o in (out if isinstance(out, tuple) else (out,))), *gradients(lambda *_: out, inputs))

    warmed_up(run, gpu)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for value in inputs:
            value.copy_(value.flip(0) * 0.7)
    torch.full((1 << 22,), float("nan"), device=gpu)  # what is free now is not the graph's
    for number in range(3):
        graph.replay()
        with case("replay", number):
            assert same_bits(captured, run())


def test_memory_of_a_capture_is_its_own(gpu: torch.device) -> None:
    """Workspaces lie in the pool of the graph: others may take all that is free between replays."""
    g = cases.generator("pool")
    graph = Graph.from_edge_index(cases.power_law_edges(N, E, g).to(gpu), N, N)
    x = torch.randn(N, 33, generator=g).to(gpu)
    want = ops.spmm(graph, x)
    torch.cuda.synchronize(gpu)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = ops.spmm(graph, x)
    for _ in range(3):
        y.fill_(float("nan"))
        hold = [torch.full((1 << k,), float("nan"), device=gpu) for k in range(8, 23)]
        captured.replay()
        assert torch.equal(y, want)
        del hold


def test_the_first_mean_in_a_capture(gpu: torch.device) -> None:
    """What it computes for the graph has no numbers before a replay: it is not kept."""
    other, graph = (MEDIUM["typical"].graph().to(gpu) for _ in range(2))
    x = torch.randn(graph.num_src, 4, device=gpu)
    warmed_up(lambda: ops.spmm(other, x, None, "mean"), gpu)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = ops.spmm(graph, x, None, "mean")
    want = ops.spmm(graph, x, None, "mean")
    close(want.cpu(), ops.spmm(graph.to("cpu"), x.cpu(), None, "mean"), torch.float32)
    captured.replay()
    assert torch.equal(y, want)


def test_a_capture_that_needs_the_host_says_so(gpu: torch.device) -> None:
    """And leaves PyTorch and the graph as they were."""
    edge_index = MEDIUM["typical"].edge_index.to(gpu)
    graph = Graph.from_edge_index(edge_index, 60, 60)
    x = torch.randn(60, 4, device=gpu, requires_grad=True)
    ops.spmm(graph, x)
    for run in (
        lambda: torch.autograd.grad(ops.spmm(graph, x).sum(), x),
        lambda: Graph.from_edge_index(edge_index.clone(), 60, 60),
    ):
        with (
            pytest.raises(RuntimeError, match="while a CUDA graph is captured"),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            run()
        torch.cuda.synchronize(gpu)
    (grad,) = torch.autograd.grad(ops.spmm(graph, x).sum(), x)
    assert torch.equal(grad, graph.out_degree().float().unsqueeze(1).expand_as(grad))

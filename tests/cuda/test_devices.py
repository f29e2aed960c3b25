"""Two GPUs: work goes where the tensors are, whichever device is the current one."""

from __future__ import annotations

import pytest
import torch
from cases import FEW, MEDIUM
from compare import close
from cuda_cases import cpu, expected, gradients, pair
from torch import Tensor

from fastgmtl import Graph, backend, nn, ops


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("name", FEW)
def test_tensors_of_another_device(name: str, exchange: bool, gpu: torch.device, second: torch.device) -> None:
    assert backend.kernels is not None
    on_device, on_cpu = pair(name, MEDIUM["one_row"], second)
    backend.kernels.set_exchange_api(exchange)
    try:
        got = on_device.run(*on_device.tensors)
        found = gradients(on_device.of_floats(on_device.run), on_device.inputs(True), order=2)
    finally:
        backend.kernels.set_exchange_api(True)
    assert torch.cuda.current_device() == gpu.index
    assert all(v.device == second for v in (*found, *(got if isinstance(got, tuple) else (got,))))
    close(cpu(got), expected(on_cpu), torch.float64)
    close(cpu(found), gradients(on_cpu.of_floats(on_cpu.twin), on_cpu.inputs(True), order=2), torch.float64, factor=4)


def test_the_stream_is_that_of_the_tensors_device(gpu: torch.device, second: torch.device) -> None:
    pattern = MEDIUM["one_row"]
    graph = pattern.graph().to(second)
    x = torch.ones(pattern.num_src, 4, device=second)
    ops.spmm(graph, x)
    stream = torch.cuda.Stream(second)
    stream.wait_stream(torch.cuda.current_stream(second))
    late = torch.full_like(x, float("nan"))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(40_000_000)
        late.copy_(x)
        with torch.cuda.device(gpu):
            y = ops.spmm(graph, late)
    stream.synchronize()
    assert torch.equal(y.sum(0).cpu(), torch.full((4,), float(pattern.edge_index.size(1))))


def test_an_error_puts_the_device_back(gpu: torch.device, second: torch.device) -> None:
    graph = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64, device=second), 1, 1)
    with pytest.raises(RuntimeError, match="a grid may have"):
        ops.spmm(graph, torch.zeros(1, 65536 * 128 + 1, device=second))
    assert torch.cuda.current_device() == gpu.index
    assert torch.ones(1, device="cuda").device == gpu


def test_two_devices_in_one_call_are_refused(gpu: torch.device, second: torch.device) -> None:
    graph = MEDIUM["typical"].graph().to(gpu)
    with pytest.raises(ValueError, match="on one device"):
        ops.spmm(graph, torch.ones(graph.num_src, 2, device=second))


def test_a_layer_on_each_device(gpu: torch.device, second: torch.device) -> None:
    results: list[Tensor] = []
    for device in (gpu, second):
        torch.manual_seed(0)
        conv, graph = nn.GCNConv(5, 3).to(device), MEDIUM["typical"].graph().to(device)
        x = torch.linspace(-1, 1, graph.num_src * 5).reshape(-1, 5).to(device)
        results.append(conv(x, graph).detach().cpu())
    torch.testing.assert_close(results[0], results[1])

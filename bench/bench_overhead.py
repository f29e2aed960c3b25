"""What a call costs when there is nothing to compute: 16 floats, beside ``x * 2``, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import OURS, Case, Provider, Settings
from fastgmtl import Graph, backend, ops

CALLS = 50  # a round


class Empty(torch.autograd.Function):
    """The floor of every autograd.Function: saves its input and allocates, computes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.empty_like(x)


@pytest.mark.quick
@pytest.mark.parametrize("style", ["gradient given", "sum().backward()"])
def test_overhead(benchmark: Any, settings: Settings, style: str) -> None:
    torch.set_num_threads(1)
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 1]]))
    graph.t()
    x = torch.randn(4, 4, requires_grad=True)
    plain, grad, y = x.detach(), torch.ones(4, 4), torch.empty(4, 4)
    weight = torch.rand(6, requires_grad=True)

    def step(function: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], Any]:
        if style == "gradient given":
            return lambda: torch.autograd.grad(function(), leaves, grad)

        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            function().sum().backward()

        return run

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(lambda: ops.spmm(graph, x), x)),
        f"{OURS}, weights": Provider(step(lambda: ops.spmm(graph, x, weight), x, weight)),
        "x * 2": Provider(step(lambda: x * 2, x)),
        "empty autograd.Function": Provider(step(lambda: Empty.apply(x), x)),
    }
    if style == "gradient given":
        kernels = backend.kernels_for(plain.device)
        providers["part: spmm without gradient"] = Provider(lambda: ops.spmm(graph, plain))
        providers["part: x * 2 without gradient"] = Provider(lambda: plain * 2)
        providers["part: torch.empty"] = Provider(lambda: plain.new_empty(4, 4))
        if kernels is None:
            providers["part: the kernel"] = f"the compiled module is {backend.state}"
        else:
            words = (graph.pattern, plain, None, None, False, None, 0, 0, y, None, 1)
            providers["part: the kernel"] = Provider(lambda: kernels.spmm(*words))
    case = Case("overhead", f"16 floats, {style}", "fwdbwd", 1, graph.num_dst, graph.num_edges, 4)
    settings.measure(benchmark, case, providers, calls=CALLS, memory=False)

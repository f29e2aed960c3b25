"""gather_relu beside eager PyTorch and torch.compile, on the task graphs of ChEMBL-STRING."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import compiled_variants
from fastgmtl import Graph, ops, reference

# Tasks and edges between them; every pair of an edge and a sample of the batch gets a row.
SIZES = {"382 tasks": (382, 7142), "152 tasks": (152, 1580)}
SAMPLES, WIDTH = 16, 256
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "152 tasks" and threads == 1 and mode == "fwdbwd"


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_gather_relu(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    (tasks, edges), train = SIZES[size], mode == "fwdbwd"
    keys = torch.randperm(tasks * tasks, generator=torch.Generator().manual_seed(0))[:edges]
    graph = Graph.from_edge_index(torch.stack([keys % tasks, keys // tasks]), tasks, tasks)
    src, dst = graph.edge_index()
    inputs = [graphs.random(n, WIDTH, seed=k).requires_grad_(train) for k, n in enumerate((SAMPLES, tasks, tasks))]
    grad = graphs.random(edges, SAMPLES, WIDTH, seed=4)

    def eager(h: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (h[:, None] + s[src] + t[dst]).relu()

    def step(function: Callable[..., Tensor], samples_first: bool = False) -> Callable[[], Tensors]:
        g = grad.transpose(0, 1).contiguous() if samples_first else grad

        def run() -> Tensors:
            found = function(*inputs)
            back = torch.autograd.grad(found, inputs, g) if train else ()
            return (found.detach().transpose(0, 1) if samples_first else found.detach(), *back)

        return run

    wanted = step(lambda *v: reference.gather_relu(graph, *v))()

    def error(result: Tensors) -> float:
        return difference(result, wanted)

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(lambda *v: ops.gather_relu(graph, *v)), error),
        "PyTorch": Provider(step(eager, True), error),
        "PyTorch, edges first": Provider(step(lambda *v: reference.gather_relu(graph, *v)), error),
    }
    for name, found in compiled_variants("torch.compile", eager, inputs, threads, settings.quick).items():
        providers[name] = found if isinstance(found, str) else Provider(step(found, True), error, compiles=True)
    # The result once and what it is made of; the gradient of the result once and those of its parts.
    parts = sum(v.numel() for v in inputs)
    moved = 4 * (edges * SAMPLES * WIDTH + parts) * (2 if train else 1)
    output = 4 * sum(v.numel() for v in wanted)
    case = Case("gather_relu", size, mode, threads, tasks, edges, WIDTH, SAMPLES)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

"""flip_energy, edge_delta and gibbs beside the formulations over all pairs of tasks and the loop over tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from fastgmtl import Graph, ops, reference

# Samples, tasks, average number of children: GCNet's, ToxCast's tasks, ChEMBL-STRING's.
SIZES = {"400 tasks": (128, 400, 8), "617 tasks": (128, 617, 8)}
CHAINS = {"382 tasks": (128, 382, 19)}
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size in ("400 tasks", "382 tasks") and threads == 1 and mode in ("fwdbwd", "normalised")


def task_graph(tasks: int, degree: int) -> Graph:
    """Random distinct edges without loops."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randperm(tasks * (tasks - 1), generator=generator)[: tasks * degree].sort().values
    dst, src = keys // (tasks - 1), keys % (tasks - 1)
    return Graph.from_edge_index(torch.stack([src + (src >= dst), dst]), tasks, tasks)


def all_pairs(graph: Graph, coupling: Tensor) -> Tensor:
    """M [T, T] of the couplings."""
    src, dst = graph.edge_index()
    return coupling.new_zeros(graph.num_src, graph.num_dst).index_put((src, dst), coupling)


def flip_by_pairs(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor) -> Tensor:
    """The closed form over [B, T, T]."""
    shift = (2 * (2 * label.to(field.dtype) - 1)).unsqueeze(2) * all_pairs(graph, coupling)
    worse = label.to(field.dtype).unsqueeze(1) * shift + softplus(field.unsqueeze(1) - shift)
    return (worse - softplus(field).unsqueeze(1)).sum(2)


def delta_by_pairs(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor) -> Tensor:
    """The ratios of all pairs over [B, T, T]; those of the edges."""
    share = (2 * label.to(field.dtype) - 1).unsqueeze(2) * all_pairs(graph, coupling)
    ratio = label.to(field.dtype).unsqueeze(1) * share + softplus(field.unsqueeze(1) - share)
    src, dst = graph.edge_index()
    return (ratio - softplus(field).unsqueeze(1)).sum(0)[src, dst]


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
@pytest.mark.parametrize("name", ["flip_energy", "edge_delta"])
def test_energies(benchmark: Any, settings: Settings, name: str, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    samples, tasks, degree = SIZES[size]
    graph = task_graph(tasks, degree)
    label = graphs.random(samples, tasks, seed=1) > 0
    inputs = [graphs.random(samples, tasks, seed=2), graphs.random(graph.num_edges, seed=3)]
    inputs = [v.requires_grad_(mode == "fwdbwd") for v in inputs]
    grad = graphs.random(*((samples, tasks) if name == "flip_energy" else (graph.num_edges,)), seed=4)

    def step(function: Callable[..., Tensor], inputs: list[Tensor] = inputs) -> Callable[[], Tensors]:
        def run() -> Tensors:
            found = function(graph, inputs[0], label, inputs[1])
            if mode == "fwd":
                return (found.detach(),)
            return (found.detach(), *torch.autograd.grad(found, inputs, grad.to(found.dtype)))

        return run

    wide = [v.detach().double().requires_grad_(mode == "fwdbwd") for v in inputs]
    wanted = [v.float() for v in step(getattr(reference, name), wide)()]

    def error(result: Tensors) -> float:
        return difference(result, wanted)

    pairs = flip_by_pairs if name == "flip_energy" else delta_by_pairs
    providers: dict[str, Provider | str] = {
        OURS: Provider(step(getattr(ops, name)), error),
        "PyTorch, [B, T, T]": Provider(step(pairs), error),
        "PyTorch, [B, E]": Provider(step(getattr(reference, name)), error),
    }
    # Fields, labels, result; the gradients of field and coupling besides.
    moved = 4 * (3 * samples * tasks + 2 * graph.num_edges) * (1 if mode == "fwd" else 2)
    output = 4 * sum(v.numel() for v in wanted)
    case = Case(name, size, mode, threads, tasks, graph.num_edges, samples)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))


@pytest.mark.parametrize(("size", "threads", "mode"), cases(CHAINS, (1, 2), ("normalised", "pairwise"), quick=is_quick))
def test_gibbs(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    """Two sweeps."""
    torch.set_num_threads(threads)
    samples, tasks, degree = CHAINS[size]
    graph = task_graph(tasks, degree)
    bias, coupling = graphs.random(samples, tasks, seed=1), 0.3 * graphs.random(graph.num_edges, seed=2)

    def step(function: Callable[..., Tensors]) -> Callable[[], Tensors]:
        return lambda: function(graph, bias, coupling, sweeps=2, normalised=mode == "normalised", seed=5)

    wanted = [v.float() for v in step(reference.gibbs)()]

    def error(result: Tensors) -> float:
        return difference([v.float() for v in result], wanted)

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(ops.gibbs), error),
        "PyTorch, a step a task": Provider(step(reference.gibbs), error),
    }
    moved = 4 * (4 * samples * tasks + 4 * graph.num_edges)
    case = Case("gibbs", size, mode, threads, tasks, graph.num_edges, samples)
    settings.measure(benchmark, case, providers, Floors(moved, None, 8 * samples * tasks))

"""concrete beside the composition of PyTorch's functions: the sample of all pairs, and the graph of what was drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import compiled_variants
from fastgmtl import Graph, ops
from fastgmtl.reference.concrete import noise, pairs

SIZES = {"400 tasks": 400, "617 tasks": 617}
TEMPERATURE, EXPLORE, SEED = 0.7, 0.02, 5
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "400 tasks" and threads == 1 and mode in ("all pairs", "graph")


def composition(logits: Tensor, uniform: Tensor) -> Tensor:
    """The sample [T, T], given the random numbers."""
    most, own = math.log((1 - EXPLORE) / EXPLORE), torch.eye(len(logits), dtype=torch.bool)
    noisy = logits.clamp(-most, most) + uniform.clamp(1e-6, 1 - 1e-6).logit()
    soft = (noisy / TEMPERATURE).sigmoid()
    return ((noisy > 0).to(soft.dtype) + (soft - soft.detach())).masked_fill(own, 0)


@pytest.mark.parametrize(
    ("size", "threads", "mode"),
    cases(SIZES, (1, 2), ("all pairs", "all pairs, fwdbwd", "graph", "graph, fwdbwd"), quick=is_quick),
)
def test_concrete(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    tasks, train, whole = SIZES[size], mode.endswith("fwdbwd"), mode.startswith("all")
    # About eight edges a task.
    logits = (graphs.random(tasks, tasks, seed=1) - math.log(tasks / 8)).requires_grad_(train)
    grad = graphs.random(tasks, tasks, seed=2)
    seed = torch.tensor([SEED])
    same = noise(seed, *pairs(tasks, logits.device), torch.float64).sigmoid().float()

    def step(function: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], Tensors]:
        """``function``: the sample, and where its entries are among all pairs (or nothing: everywhere)."""

        def run() -> Tensors:
            found, place = function()
            g = grad.flatten()[place] if place.numel() else grad
            return (found.detach(), place, *(torch.autograd.grad(found, logits, g) if train else ()))

        return run

    def ours() -> tuple[Tensor, Tensor]:
        if whole:
            return ops.concrete(logits, TEMPERATURE, EXPLORE, seed, dense=True), torch.empty(0, dtype=torch.int64)
        graph, there = ops.concrete(logits, TEMPERATURE, EXPLORE, seed)
        return there, graph.col.long() * tasks + graph.edge_rows()

    def composed(uniform: Callable[[], Tensor], function: Any = composition) -> tuple[Tensor, Tensor]:
        found = function(logits, uniform())
        if whole:
            return found, torch.empty(0, dtype=torch.int64)
        dst, src = found.detach().t().nonzero().t()
        graph = Graph.from_edge_index(torch.stack((src, dst)), tasks, tasks)
        place = graph.col.long() * tasks + graph.edge_rows()
        return found.flatten()[place], place

    wanted = step(lambda: composed(lambda: same))()

    def error(result: Tensors) -> float:
        if not torch.equal(result[0] > 0, wanted[0] > 0) or not torch.equal(result[1], wanted[1]):
            return math.inf
        return difference(result[2:], wanted[2:]) if train else 0.0

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(ours), error),
        "PyTorch": Provider(step(lambda: composed(lambda: torch.rand_like(logits)))),
    }
    for name, found in compiled_variants("torch.compile", composition, [], threads, settings.quick).items():
        if isinstance(found, str):
            providers[name] = found
            continue
        providers[name] = Provider(
            step(lambda f=found: composed(lambda: torch.rand_like(logits), f)), None, compiles=True
        )
    # Log-odds in and the sample or a bit a pair out; log-odds and the gradients of both besides.
    moved = 4 * tasks * tasks * ((2 if whole else 1) + (2 if train else 0))
    output = 4 * sum(v.numel() for v in wanted)
    case = Case("concrete", size, mode, threads, tasks, int(wanted[0].sum()), 1)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

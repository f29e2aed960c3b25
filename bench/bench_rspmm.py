"""rspmm on FB15k-237 and its inverse relations, beside the formulation that gathers messages and adds them up."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import compiled_variants
from fastgmtl import Graph, ops, reference
from fastgmtl.data.knowledge import load_kg

WIDTH = 32
# Message, reduction, queries; NBFNet has 32 columns a query.
CASES = (("mul", "sum", 8), ("mul", "sum", 1), ("add", "mean", 8), ("rotate", "sum", 8), ("mul", "max", 8))
CHECKED = 2  # queries that are compared with the reference


def is_quick(case: tuple[str, str, int], threads: int, mode: str) -> bool:
    return case == ("mul", "sum", 1) and threads == 1 and mode == "fwdbwd"


@lru_cache(maxsize=1)
def fb15k237() -> tuple[Graph, Tensor, int]:
    """The graph with its transpose, the relation of each edge, the number of relations."""
    try:
        found = load_kg("fb15k237")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found.graph.t()
    return found.graph, found.edge_type, 2 * found.num_relations


def gathered(graph: Graph, types: Tensor, message: str, reduce: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Messages [E, B, d] of a gather for each end, and a scatter; edges in row order."""
    src, dst, kind = graph.col.long(), graph.edge_rows(), graph.sort_edges(types)
    scale = graph.inverse_degree()

    def run(x: Tensor, z: Tensor) -> Tensor:
        left, right = x[src], z[kind]
        if message == "rotate":
            (a, b), (c, d) = left.chunk(2, -1), right.chunk(2, -1)
            values = torch.cat([a * c - b * d, a * d + b * c], -1)
        else:
            values = left * right if message == "mul" else left + right
        empty = x.new_zeros(graph.num_dst, *x.shape[1:])
        if reduce == "max":
            index = dst.reshape(-1, 1, 1).expand_as(values)
            return empty.scatter_reduce(0, index, values, "amax", include_self=False)
        out = empty.index_add(0, dst, values)
        return out * scale.reshape(-1, 1, 1) if reduce == "mean" else out

    return run


@pytest.mark.parametrize(("case", "threads", "mode"), cases(CASES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_rspmm(benchmark: Any, settings: Settings, case: tuple[str, str, int], threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    message, reduce, queries = case
    graph, types, relations = fb15k237()
    inputs = [graphs.random(n, queries, WIDTH, seed=k) for k, n in enumerate((graph.num_src, relations))]
    inputs = [v.requires_grad_(mode == "fwdbwd") for v in inputs]
    grad = graphs.random(graph.num_dst, queries, WIDTH, seed=2)

    def step(
        function: Callable[..., Tensor], inputs: list[Tensor] = inputs, grad: Tensor = grad
    ) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            found = function(*inputs)
            if mode == "fwd":
                return (found.detach(),)
            return (found.detach(), *torch.autograd.grad(found, inputs, grad))

        return run

    some = slice(0, CHECKED)
    wide = [v.detach()[:, some].double().requires_grad_(mode == "fwdbwd") for v in inputs]
    wanted = step(
        lambda x, z: reference.rspmm(graph, x, z, types, None, message, reduce), wide, grad[:, some].double()
    )()

    def error(result: tuple[Tensor, ...]) -> float:
        # Where the largest message is as large as another but for rounding, the gradient goes to either.
        count = 1 if reduce == "max" else len(wanted)
        return difference([v[:, some] for v in result[:count]], wanted[:count])

    plain = gathered(graph, types, message, reduce)
    providers: dict[str, Provider | str] = {
        OURS: Provider(step(lambda x, z: ops.rspmm(graph, x, z, types, None, message, reduce)), error),
        "gather, scatter": Provider(step(plain), error),
    }
    for name, run in compiled_variants("torch.compile gather, scatter", plain, [], threads, settings.quick).items():
        providers[name] = run if isinstance(run, str) else Provider(step(run), error, compiles=True)
    columns = queries * WIDTH
    nodes = 4 * columns * (graph.num_src + graph.num_dst + relations)
    index = 8 * graph.num_edges + 8 * (graph.num_dst + 1)
    # Backward: the pattern twice more, the gradient of y, both factors again and their gradients.
    moved = nodes + index if mode == "fwd" else 3 * (nodes + index)
    output = 4 * sum(v.numel() for v in ([grad] if mode == "fwd" else [grad, *inputs]))
    label = f"{message}, {reduce}"
    settings.measure(
        benchmark,
        Case("rspmm", label, mode, threads, graph.num_dst, graph.num_edges, WIDTH, queries),
        providers,
        Floors(moved, None, output),
    )

"""relu_sum beside PyTorch Geometric's message passing, eager PyTorch and torch.compile: the aggregation of GINE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import Absent, compiled_variants, need
from fastgmtl import ops, reference

SIZES = ("tiny", "small")
WIDTH = 64
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "tiny" and threads == 1 and mode == "fwdbwd"


def by_pyg(edges: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    need("torch_geometric")
    from torch_geometric.nn import GINEConv

    layer = GINEConv(torch.nn.Identity(), eps=-1.0)
    return lambda x, e: layer(x, edges, e)


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_relu_sum(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    graph, edges, train = graphs.graph(size), graphs.edges(size), mode == "fwdbwd"
    src, dst = edges
    nodes, count = graph.num_dst, graph.num_edges
    inputs = [graphs.random(n, WIDTH, seed=k).requires_grad_(train) for k, n in enumerate((nodes, count))]
    grad = graphs.random(nodes, WIDTH, seed=4)

    def eager(x: Tensor, e: Tensor) -> Tensor:
        return x.new_zeros(nodes, WIDTH).index_add(0, dst, (x[src] + e).relu())

    def step(function: Callable[..., Tensor]) -> Callable[[], Tensors]:
        def run() -> Tensors:
            found = function(*inputs)
            return (found.detach(), *(torch.autograd.grad(found, inputs, grad) if train else ()))

        return run

    wanted = step(lambda x, e: reference.relu_sum(graph, x, e))()

    def error(result: Tensors) -> float:
        return difference(result, wanted)

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(lambda x, e: ops.relu_sum(graph, x, e)), error),
        "PyTorch": Provider(step(eager), error),
    }
    try:
        providers["PyG"] = Provider(step(by_pyg(edges)), error)
    except Absent as reason:
        providers["PyG"] = str(reason)
    for name, found in compiled_variants("torch.compile", eager, inputs, threads, settings.quick).items():
        providers[name] = found if isinstance(found, str) else Provider(step(found), error, compiles=True)
    # Features of edges once and, backward, once more and their gradient; of nodes and what is summed once each.
    moved = 4 * WIDTH * (count * (3 if train else 1) + nodes * (6 if train else 2))
    output = 4 * sum(v.numel() for v in wanted)
    case = Case("relu_sum", size, mode, threads, nodes, count, WIDTH)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

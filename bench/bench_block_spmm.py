"""block_spmm beside the assembled matrix (as the authors of sheaf diffusion have it) and gathered products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from fastgmtl import ops, reference

SIZES = ("tiny", "small")
LINES, WIDTH = 4, 32
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "tiny" and threads == 1 and mode == "fwdbwd"


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_block_spmm(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    graph, (src, dst), train = graphs.graph(size), graphs.edges(size), mode == "fwdbwd"
    nodes, count = graph.num_dst, graph.num_edges
    shapes = ((count, LINES, LINES), (nodes, LINES, WIDTH))
    inputs = [graphs.random(*shape, seed=k).requires_grad_(train) for k, shape in enumerate(shapes)]
    grad = graphs.random(nodes, LINES, WIDTH, seed=4)
    line = torch.arange(LINES)
    rows = (dst[:, None, None] * LINES + line[:, None]).expand(-1, -1, LINES).flatten()
    cols = (src[:, None, None] * LINES + line).expand(-1, LINES, -1).flatten()

    def matrix(blocks: Tensor, x: Tensor) -> Tensor:
        entries = torch.sparse_coo_tensor(torch.stack([rows, cols]), blocks.flatten(), (nodes * LINES,) * 2)
        return torch.sparse.mm(entries, x.flatten(0, 1)).unflatten(0, (nodes, LINES))

    def gathered(blocks: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(nodes, LINES, WIDTH).index_add(0, dst, blocks @ x[src])

    def step(function: Callable[..., Tensor]) -> Callable[[], Tensors]:
        def run() -> Tensors:
            found = function(*inputs)
            return (found.detach(), *(torch.autograd.grad(found, inputs, grad) if train else ()))

        return run

    wanted = step(lambda m, x: reference.block_spmm(graph, m, x))()

    def error(result: Tensors) -> float:
        return difference(result, wanted)

    providers: dict[str, Provider | str] = {
        OURS: Provider(step(lambda m, x: ops.block_spmm(graph, m, x)), error),
        "PyTorch, assembled": Provider(step(matrix), error),
        "PyTorch, gathered": Provider(step(gathered), error),
    }
    # Blocks once and, backward, once more and their gradient; of nodes what comes in and what goes out.
    moved = 4 * (count * LINES * LINES * (3 if train else 1) + nodes * LINES * WIDTH * (6 if train else 2))
    output = 4 * sum(v.numel() for v in wanted)
    case = Case("block_spmm", size, mode, threads, nodes, count, WIDTH, LINES)
    settings.measure(benchmark, case, providers, Floors(moved, None, output))

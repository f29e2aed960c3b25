"""grouped_matmul: rows by type or relation times the matrix of their group, beside what PyTorch offers for it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from fastgmtl import ops

# Rows of each group: DBLP's node types, many relations of unequal size, equal groups.
SIZES = {
    "dblp types": [4057, 14328, 7723],
    "64 uneven": [int(60_000 / (g + 8)) for g in range(64)],
    "16 equal": [2000] * 16,
}
WIDTH = 64


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "dblp types" and threads == 1


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_grouped_matmul(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    sizes, train = SIZES[size], mode == "fwdbwd"
    bounds = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    rows, groups = bounds[-1], len(sizes)
    x = graphs.random(rows, WIDTH).requires_grad_(train)
    weight = graphs.random(groups, WIDTH, WIDTH, seed=1).requires_grad_(train)
    grad, ends = graphs.random(rows, WIDTH, seed=2), torch.tensor(bounds[1:], dtype=torch.int32)
    group = torch.arange(groups).repeat_interleave(torch.tensor(sizes))

    def provider(function: Callable[[], Tensor]) -> Provider:
        def run() -> tuple[Tensor, ...]:
            y = function()
            return (y, *torch.autograd.grad(y, (x, weight), grad)) if train else (y,)

        return Provider(run, lambda result: difference(result, wanted))

    def by_parts() -> Tensor:
        return torch.cat([x[a:b] @ w for (a, b), w in zip(pairwise(bounds), weight, strict=True)])

    wanted = provider(by_parts).run()
    providers: dict[str, Provider | str] = {
        OURS: provider(lambda: ops.grouped_matmul(x, weight, bounds)),
        "a product a group, torch.cat": provider(by_parts),
        "a matrix a row, torch.bmm": provider(lambda: torch.bmm(x.unsqueeze(1), weight[group]).squeeze(1)),
    }
    if hasattr(torch, "_grouped_mm"):
        providers["torch._grouped_mm"] = provider(lambda: torch._grouped_mm(x, weight, offs=ends))
    case = Case("grouped_matmul", size, mode, threads, rows, groups, WIDTH)
    moved = 4 * (2 * rows * WIDTH + groups * WIDTH * WIDTH)
    output = 4 * sum(v.numel() for v in wanted)
    settings.measure(benchmark, case, providers, Floors(moved * (3 if train else 1), None, output))

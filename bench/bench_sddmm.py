"""sddmm: a dot product for every edge; the gradient of spmm's weights, and link scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.floor import spmm_gather
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import compiled_variants, csr
from fastgmtl import Graph, ops

CHECKED = 2000  # edges that are compared with the reference
SAMPLED = "torch.sparse.sampled_addmm"


def is_quick(size: str, d: int, tasks: int, threads: int, mode: str) -> bool:
    return size == "small" and d == 64 and tasks == 1 and threads == 1 and mode == "fwd"


def moved(graph: Graph, width: int, tasks: int, mode: str) -> int:
    """Both feature sets once, the pattern, the result; backward: its gradient, the features, their gradients."""
    index = 4 * graph.num_edges + 8 * (graph.num_dst + 1)
    features = 4 * width * (graph.num_src + graph.num_dst)
    forward = index + features + 4 * graph.num_edges * tasks
    return forward if mode == "fwd" else 2 * forward + features


@pytest.mark.parametrize(
    ("size", "d", "tasks", "threads", "mode"),
    [
        *cases(("small", "big"), (64, 256), (1,), (1, 2), ("fwd",), quick=is_quick),
        *cases(("small", "big"), (64,), (1,), (1, 2), ("fwdbwd",), quick=is_quick),
        *cases(("small",), (64,), (4,), (1, 2), ("fwdbwd",), quick=is_quick),
    ],
)
def test_sddmm(benchmark: Any, settings: Settings, size: str, d: int, tasks: int, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    graph, wants_grad = graphs.graph(size), mode == "fwdbwd"
    shape = (d,) if tasks == 1 else (tasks, d)
    x_dst = graphs.random(graph.num_dst, *shape).requires_grad_(wants_grad)
    x_src = graphs.random(graph.num_src, *shape, seed=1).requires_grad_(wants_grad)
    grad = graphs.random(graph.num_edges, *shape[:-1], seed=2)
    src, dst = graph.col.long(), graph.edge_rows()
    some = slice(0, CHECKED)
    wanted = (x_dst[dst[some]].double() * x_src[src[some]].double()).sum(-1).detach()

    def provider(
        function: Callable[[], Tensor], values: Callable[[Tensor], Tensor] = lambda v: v, compiles: bool = False
    ) -> Provider:
        def run() -> tuple[Tensor, ...]:
            out = function()
            return (out, *torch.autograd.grad(out, (x_dst, x_src), grad)) if wants_grad else (out,)

        return Provider(run, lambda result: difference([values(result[0])[some]], [wanted]), compiles)

    def gather(x_dst: Tensor, x_src: Tensor) -> Tensor:
        return (x_dst[dst] * x_src[src]).sum(-1)

    providers: dict[str, Provider | str] = {
        OURS: provider(lambda: ops.sddmm(graph, x_dst, x_src)),
        "gather, multiply, sum": provider(lambda: gather(x_dst, x_src)),
    }
    if wants_grad:
        providers[SAMPLED] = "its backward is some hundred times slower than its forward"
    else:
        pattern, transposed = csr(graph, None, torch.int32), x_src.t()
        sampled = lambda: torch.sparse.sampled_addmm(pattern, x_dst, transposed, beta=0.0)  # noqa: E731
        providers[SAMPLED] = provider(sampled, lambda matrix: matrix.values())
    label, inputs = "torch.compile gather, multiply, sum", [src, dst, x_dst, x_src]
    for name, run in compiled_variants(label, gather, inputs, threads, settings.quick).items():
        providers[name] = run if isinstance(run, str) else provider(lambda f=run: f(x_dst, x_src), compiles=True)
    case = Case("sddmm", "sddmm", mode, threads, graph.num_dst, graph.num_edges, d, tasks)
    width = tasks * d
    rows = spmm_gather(graph, width, "fwd", threads)
    back = spmm_gather(graph, width, "fwdbwd", threads)
    gathered = rows if mode == "fwd" else None if rows is None or back is None else rows + back
    floors = Floors(moved(graph, width, tasks, mode), gathered, 4 * graph.num_edges * tasks)
    settings.measure(benchmark, case, providers, floors)

"""spmm on a GPU: one task with weights [E], four with weights [E, T] against a loop over tasks.

Forward, and forward with the gradients of x and (of four tasks) the weights, for a given contiguous gradient. Floors at
the bandwidth of a copy in the same run: "moved" counts each input and output once, "gather" a row of x for every edge
(caches can beat it on a power-law graph, whose hubs they hold). Where there is no GPU, a CPU runs tiny cases.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from bench import gpu
from bench.bench_spmm import checker, expected, step
from bench.floor import spmm_bytes
from bench.graphs import EXPONENT
from bench.harness import OURS, Case, Floors, Provider, Settings, cases
from bench.peers import AGGREGATES, ON_CPU, Aggregate, torch_coo
from fastgmtl import Graph, ops

SIZES = {"cuda": (1_000_000, 20_000_000), "cpu": (1_000, 10_000)}
SETS = 2  # of operands, in turns: each is larger than an L2 cache


@lru_cache(maxsize=1)
def graph(kind: str) -> Graph:
    """Drawn on the device, without parallel edges; sorted, transposed and with what a training run has kept."""
    where, (nodes, edges) = gpu.device(), SIZES[gpu.device().type]
    g = torch.Generator(where).manual_seed(0)
    share = torch.arange(1, nodes + 1, device=where, dtype=torch.float64).pow(-EXPONENT).cumsum(0)
    names = [torch.randperm(nodes, generator=g, device=where) for _ in range(2)]

    def ends(name: Tensor, count: int) -> Tensor:
        if kind == "uniform":
            return torch.randint(nodes, (count,), generator=g, device=where)
        chance = torch.rand(count, generator=g, device=where, dtype=torch.float64) * share[-1]
        return name[torch.searchsorted(share, chance).clamp(max=nodes - 1)]

    keys = torch.empty(0, dtype=torch.int64, device=where)
    while keys.numel() < edges:
        drawn = ends(names[0], edges + edges // 4) * nodes + ends(names[1], edges + edges // 4)
        keys = torch.cat([keys, drawn]).unique()
    keys = keys[torch.randperm(keys.numel(), generator=g, device=where)[:edges]].sort().values
    made = Graph.from_edge_index(torch.stack([keys % nodes, keys // nodes]), nodes, nodes)
    made.t()
    return made


def gather_add(x: Tensor, w: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    return x.new_zeros(x.shape).index_add(0, dst, x[src] * w.unsqueeze(-1))


def is_quick(kind: str, d: int, tasks: int, dtype: str, mode: str) -> bool:
    return kind == "power-law" and d == 64


@pytest.mark.parametrize(
    ("kind", "d", "tasks", "dtype", "mode"),
    cases(("power-law", "uniform"), (64, 256), (1, 4), ("float32", "bfloat16"), ("fwd", "fwdbwd"), quick=is_quick),
)
def test_spmm(settings: Settings, kind: str, d: int, tasks: int, dtype: str, mode: str) -> None:
    over, where, scalar = graph(kind), gpu.device(), getattr(torch, dtype)
    g = torch.Generator(where).manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=where).to(scalar)

    axis = () if tasks == 1 else (tasks,)
    weight_grad, wants_grad = tasks > 1, mode == "fwdbwd"
    sets = [(normal(over.num_src, *axis, d), normal(over.num_edges, *axis)) for _ in range(SETS)]
    grad = normal(over.num_dst, *axis, d)
    wanted = expected(over, *sets[0], grad, mode)[: 3 if weight_grad else 2]

    def leaves(*values: Tensor) -> list[Tensor]:
        return [v.detach().requires_grad_() for v in values[: 2 if weight_grad else 1]] if wants_grad else []

    def one_call(function: Callable[[Tensor, Tensor], Tensor]) -> Provider:
        runs = []
        for x, w in sets:
            own = leaves(x, w)
            args = [*own, *(x, w)[len(own) :]]
            runs.append(step(lambda a=args: [function(*a)], own, [grad] if own else []))
        return Provider(gpu.rotating(runs), checker(wanted, False))

    def by_task(value: Tensor) -> list[Tensor]:
        return [value] if tasks == 1 else [value[:, t].contiguous() for t in range(tasks)]

    parts, grads = [(by_task(x), by_task(w)) for x, w in sets], by_task(grad)

    def loop(make: Callable[..., Aggregate]) -> Provider:
        """T calls for T tasks, each on contiguous operands in the peer's own format."""
        peer, runs = make(over, weight_grad and wants_grad, mode), []
        for xs, ws in parts:
            own = [x.detach().requires_grad_(wants_grad) for x in xs]
            held = [peer.hold(w, weight_grad and wants_grad) for w in ws]
            wanting = [*own, *(held if weight_grad else [])] if wants_grad else []
            calls = list(zip(own, held, strict=True))
            runs.append(step(lambda c=calls: [peer.run(*pair) for pair in c], wanting, grads if wanting else []))
        return Provider(gpu.rotating(runs), checker(wanted, tasks > 1))

    providers: dict[str, Provider | str] = {OURS: one_call(lambda x, w: ops.spmm(over, x, w))}
    for name, make in {**AGGREGATES, "torch.sparse.mm COO": torch_coo}.items():
        label = name if tasks == 1 else f"loop: {name}"
        try:
            providers[label] = "for CPUs only" if name in ON_CPU else loop(make)
        except Exception as reason:
            providers[label] = str(reason).splitlines()[0][:120]
    label = "torch.compile gather + index_add"
    if settings.quick or dtype != "float32":  # eight variants; the two kinds of graphs share them
        providers[label] = "left out: compiling takes longer than the case"
    else:
        src, dst, compiled = over.col.long(), over.edge_rows(), torch.compile(gather_add)
        providers[label] = one_call(lambda x, w: compiled(x, w, src, dst))

    size, width = torch.finfo(scalar).bits // 8, tasks * d
    title = "spmm sum, weights [E]" if tasks == 1 else "spmm sum, weights [E, T]"
    case = Case("gpu", f"{title}, {kind}", mode, 0, over.num_dst, over.num_edges, d, tasks, dtype)
    rows = size * over.num_edges * width * (1 if mode == "fwd" else 2)
    floors = Floors(
        spmm_bytes(over, width, tasks, mode, size=size, weight_grad=weight_grad),
        (rows + spmm_bytes(over, 0, tasks, mode, size=size, weight_grad=weight_grad)) / gpu.copy_bandwidth(),
        size * over.num_dst * width,
    )
    gpu.measure(settings, case, providers, floors)

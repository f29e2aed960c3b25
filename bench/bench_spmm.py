"""spmm, sum: T = 1 without weights, T = 4 with weights [E, T], T = 8 against T = 1 of the same total width.

Forward and backward is one call and the gradients of everything that wants one, for a given contiguous gradient.
Loops over tasks get a list of T contiguous matrices, which is their best case: nothing is stacked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.floor import spmm_bytes, spmm_gather
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import AGGREGATES, Absent, compiled_aggregates
from fastgmtl import Graph, ops, reference

CHECKED = 8  # feature columns whose values and gradients are compared with the reference: columns are independent


def is_quick(size: str, d: int, threads: int, *_: Any) -> bool:
    return size == "small" and d == 64 and threads == 1


def step(function: Callable[[], Sequence[Tensor]], leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> Any:
    """``run`` of a provider: the outputs, and the gradients of the leaves if there are any."""
    if not leaves:
        return lambda: (tuple(function()), ())

    def run() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        outputs = tuple(function())
        return outputs, torch.autograd.grad(outputs, leaves, grads)

    return run


def expected(graph: Graph, x: Tensor, weight: Tensor | None, grad: Tensor, mode: str) -> list[Tensor]:
    """Columns of y and dx; and dw of the first edges, from the whole width."""
    narrow = [v[..., :CHECKED].double() for v in (x, grad)]
    w = None if weight is None else weight.double()
    y = reference.spmm(graph, narrow[0], w)
    if mode == "fwd":
        return [y]
    found = [y, reference.spmm(graph.t(), narrow[1], w)]  # weights are in the users' order, which both patterns know
    if w is not None:
        edges = slice(0, 2000)
        src, dst = graph.edge_index()[:, edges]
        per_task = (grad[dst].double() * x[src].double()).sum(-1)
        found.append(per_task)
    return found


def checker(wanted: list[Tensor], tasks_in_list: bool) -> Callable[[Any], float]:
    """``error`` of a provider, which gives tensors with a task axis or lists of them, task after task."""

    def error(result: Any) -> float:
        outputs, grads = result
        if tasks_in_list:
            count = len(outputs)
            groups = [outputs, grads[:count], grads[count:]]
            flat = [torch.stack([_strided(v) for v in group], 1) for group in groups if group]
        else:
            flat = [*outputs, *grads]
        narrow = [v[..., :CHECKED] for v in flat[:2]] + [v[: wanted[2].size(0)] for v in flat[2:]]
        return difference(narrow, wanted)

    return error


def _strided(value: Tensor) -> Tensor:
    return value.values() if value.layout == torch.sparse_csr else value


@pytest.mark.parametrize(
    ("size", "d", "threads", "mode"),
    cases(("small", "big"), (64, 256), (1, 2), ("fwd", "fwdbwd"), quick=is_quick),
)
def test_one_task(benchmark: Any, settings: Settings, size: str, d: int, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    graph, wants_grad = graphs.graph(size), mode == "fwdbwd"
    x = graphs.random(graph.num_src, d).requires_grad_(wants_grad)
    grad = graphs.random(graph.num_dst, d, seed=1)
    leaves, grads = ([x], [grad]) if wants_grad else ([], [])
    error = checker(expected(graph, x.detach(), None, grad, mode), False)

    providers: dict[str, Provider | str] = {OURS: Provider(step(lambda: [ops.spmm(graph, x)], leaves, grads), error)}
    for name, make in AGGREGATES.items():
        try:
            peer = make(graph, False, mode)
        except Absent as reason:
            providers[name] = str(reason)
            continue
        held = peer.hold(None, False)
        providers[name] = Provider(step(lambda p=peer, h=held: [p.run(x, h)], leaves, grads), error)
    for name, run in compiled_aggregates(graph, x, None, threads, settings.quick).items():
        providers[name] = (
            run if isinstance(run, str) else Provider(step(lambda f=run: [f()], leaves, grads), error, True)
        )
    case = Case("spmm", "spmm sum", mode, threads, graph.num_dst, graph.num_edges, d)
    floors = Floors(spmm_bytes(graph, d, 0, mode), spmm_gather(graph, d, mode, threads), 4 * graph.num_dst * d)
    settings.measure(benchmark, case, providers, floors)


@pytest.mark.parametrize(
    ("size", "d", "threads"),
    [
        *cases(("small",), (64, 256), (1, 2), quick=is_quick),
        *cases(("big",), (64,), (1, 2), quick=is_quick),
        *cases(("big",), (256,), (2,), quick=is_quick),  # on one thread some peers take half a minute a call
    ],
)
def test_weights_of_four_tasks(benchmark: Any, settings: Settings, size: str, d: int, threads: int) -> None:
    torch.set_num_threads(threads)
    graph, tasks = graphs.graph(size), 4
    x = graphs.random(graph.num_src, tasks, d).requires_grad_()
    weight = graphs.random(graph.num_edges, tasks, seed=2).requires_grad_()
    grad = graphs.random(graph.num_dst, tasks, d, seed=1)
    wanted = expected(graph, x.detach(), weight.detach(), grad, "fwdbwd")
    error, error_of_list = checker(wanted, False), checker(wanted, True)

    def one_call(function: Callable[[], Tensor], compiles: bool = False) -> Provider:
        return Provider(step(lambda: [function()], [x, weight], [grad]), error, compiles)

    providers: dict[str, Provider | str] = {OURS: one_call(lambda: ops.spmm(graph, x, weight))}
    providers[f"{OURS}, edges unsorted"] = _unsorted(graph, x, weight, grad, wanted)
    xs = [x.detach()[:, t].contiguous().requires_grad_() for t in range(tasks)]
    ws = [weight.detach()[:, t].contiguous() for t in range(tasks)]
    gs = [grad[:, t].contiguous() for t in range(tasks)]
    for name, make in AGGREGATES.items():
        name = f"loop: {name}"
        try:
            peer = make(graph, True, "fwdbwd")
        except Absent as reason:
            providers[name] = str(reason)
            continue
        held = [peer.hold(w, True) for w in ws]

        def loop(peer: Any = peer, held: Any = held) -> list[Tensor]:
            return [peer.run(a, h) for a, h in zip(xs, held, strict=True)]

        providers[name] = Provider(step(loop, [*xs, *held], gs), error_of_list)
    for name, run in compiled_aggregates(graph, x, weight, threads, settings.quick).items():
        providers[f"one call: {name}"] = run if isinstance(run, str) else one_call(run, True)
    case = Case("spmm", "spmm sum, weights [E, T]", "fwdbwd", threads, graph.num_dst, graph.num_edges, d, tasks)
    width = tasks * d
    floors = Floors(
        spmm_bytes(graph, width, tasks, "fwdbwd"),
        spmm_gather(graph, width, "fwdbwd", threads),
        4 * graph.num_dst * width,
    )
    settings.measure(benchmark, case, providers, floors)


def _unsorted(graph: Graph, x: Tensor, weight: Tensor, grad: Tensor, wanted: list[Tensor]) -> Provider:
    """Ours for edges, and weights, in random order: weights are then read and written by edge id."""
    edge_index, order = graphs.shuffled(graph.edge_index())
    other = Graph.from_edge_index(edge_index, graph.num_src, graph.num_dst)
    other.t()
    shuffled = weight.detach()[order].requires_grad_()
    back = torch.argsort(order)[: wanted[2].size(0)]

    def error(result: Any) -> float:
        (y,), (dx, dw) = result
        return checker(wanted, False)(((y,), (dx, dw[back])))

    return Provider(step(lambda: [ops.spmm(other, x, shuffled)], [x, shuffled], [grad]), error)


@pytest.mark.parametrize(
    ("size", "d", "threads", "mode"),
    cases(("small", "big"), (64, 256), (1, 2), ("fwd", "fwdbwd"), quick=is_quick),
)
def test_eight_tasks_over_one(benchmark: Any, settings: Settings, size: str, d: int, threads: int, mode: str) -> None:
    """One weight an edge, shared by the tasks: [N, 8, d / 8] against [N, d]."""
    graph, wants_grad = graphs.graph(size), mode == "fwdbwd"
    x = graphs.random(graph.num_src, d)
    weight = graphs.random(graph.num_edges, seed=2).requires_grad_(wants_grad)
    grad = graphs.random(graph.num_dst, d, seed=1)
    wanted = expected(graph, x, weight.detach(), grad, mode)

    def provider(*shape: int) -> Provider:
        shaped = x.clone().view(*shape).requires_grad_(wants_grad)
        leaves, grads = ([shaped, weight], [grad.view(*shape)]) if wants_grad else ([], [])

        def error(result: Any) -> float:
            (y,), found = result
            flat = (found[0].flatten(1), found[1]) if found else ()
            return checker(wanted, False)(((y.flatten(1),), flat))

        return Provider(step(lambda: [ops.spmm(graph, shaped, weight)], leaves, grads), error)

    providers = {OURS: provider(graph.num_src, d), f"{OURS}, 8 tasks": provider(graph.num_src, 8, d // 8)}
    case = Case("spmm", "spmm sum, weights [E], 8 tasks over 1", mode, threads, graph.num_dst, graph.num_edges, d)
    floors = Floors(spmm_bytes(graph, d, 1, mode), spmm_gather(graph, d, mode, threads), 4 * graph.num_dst * d)
    settings.measure(benchmark, case, providers, floors)

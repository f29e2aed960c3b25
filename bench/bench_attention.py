"""attention: H x T = 4 heads of width 64 with additive scores (GAT), and the memory of a graph of two million edges
with 4 heads of width 16.

Values and scores of nodes are given; the transformation of features is nobody's part. Peers are what GATConv of PyG
does, the best compositions of PyTorch we know (softmax over sorted segments, then one FBGEMM bag a head; weights are
then used as they lie), and torch.compile of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import graphs
from bench.floor import spmm_bytes, spmm_gather
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import Absent, compiled_variants, need
from fastgmtl import Graph, ops, reference

HEADS, SLOPE = 4, 0.2
CHECKED = 8  # columns of a head whose values and gradients are compared with the reference


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "small" and threads == 1 and mode == "fwdbwd"


def moved(graph: Graph, width: int, mode: str) -> int:
    """What an aggregation without weights moves, and the scores of nodes; backward also y, and value once more."""
    scores = 4 * HEADS * (graph.num_src + graph.num_dst)
    forward = spmm_bytes(graph, HEADS * width, 0, mode) + scores
    return forward if mode == "fwd" else forward + 2 * scores + 4 * HEADS * width * (graph.num_src + graph.num_dst)


def segment_softmax(logit: Tensor, dst: Tensor, rows: int) -> Tensor:
    """Softmax over the edges of each destination, by index_select, scatter_reduce and index_add."""
    index = dst.unsqueeze(1).expand_as(logit)
    top = logit.new_full((rows, logit.size(1)), -torch.inf).scatter_reduce(0, index, logit.detach(), "amax")
    weight = (logit - top.index_select(0, dst)).exp()
    total = weight.new_zeros(rows, logit.size(1)).index_add(0, dst, weight)
    return weight / total.index_select(0, dst)


def pyg(graph: Graph) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What GATConv's message passing runs on an edge_index."""
    need("torch_geometric")
    from torch_geometric.utils import scatter, softmax

    src, dst = graph.col.long(), graph.edge_rows()

    def run(value: Tensor, s_dst: Tensor, s_src: Tensor) -> Tensor:
        logit = F.leaky_relu(s_src.index_select(0, src) + s_dst.index_select(0, dst), SLOPE)
        weight = softmax(logit, dst, num_nodes=graph.num_dst)
        return scatter(weight.unsqueeze(-1) * value.index_select(0, src), dst, 0, graph.num_dst, "sum")

    return run


def bags(graph: Graph, by_ptr: bool) -> Callable[..., Sequence[Tensor]]:
    """Softmax (PyG's over a row_ptr, or our composition), then an FBGEMM bag for each head's own matrix."""
    src, dst, col, row_ptr = graph.col.long(), graph.edge_rows(), graph.col.int(), graph.row_ptr.int()
    if by_ptr:
        need("torch_geometric")
        from torch_geometric.utils import softmax

    def run(*leaves: Tensor) -> list[Tensor]:
        *values, s_dst, s_src = leaves
        logit = F.leaky_relu(s_src.index_select(0, src) + s_dst.index_select(0, dst), SLOPE)
        weight = softmax(logit, ptr=graph.row_ptr) if by_ptr else segment_softmax(logit, dst, graph.num_dst)
        by_head = weight.t().contiguous()
        return [
            F.embedding_bag(col, v, row_ptr, mode="sum", include_last_offset=True, per_sample_weights=w)
            for v, w in zip(values, by_head, strict=True)
        ]

    return run


def providers_of(graph: Graph, width: int, wants_grad: bool, threads: int, quick: bool) -> dict[str, Provider | str]:
    value, s_dst, s_src = (
        graphs.random(n, *shape, seed=seed).requires_grad_(wants_grad)
        for n, shape, seed in (
            (graph.num_src, (HEADS, width), 0),
            (graph.num_dst, (HEADS,), 1),
            (graph.num_src, (HEADS,), 2),
        )
    )
    grad = graphs.random(graph.num_dst, HEADS, width, seed=3)
    values = [value.detach()[:, k].contiguous().requires_grad_(wants_grad) for k in range(HEADS)]
    grads = [grad[:, k].contiguous() for k in range(HEADS)]
    wanted = expected(graph, value, s_dst, s_src, grad, wants_grad)

    def error(result: tuple[Sequence[Tensor], Sequence[Tensor]]) -> float:
        outputs, found = result
        y = outputs[0] if len(outputs) == 1 else torch.stack(list(outputs), 1)
        checked = [y[..., :CHECKED]]
        if found:
            d_value = found[0] if len(found) == 3 else torch.stack(list(found[:-2]), 1)
            checked += [d_value[..., :CHECKED], *found[-2:]]
        return difference(checked, wanted)

    def provider(
        function: Callable[..., Any], leaves: Sequence[Tensor], g: Sequence[Tensor], compiles: bool = False
    ) -> Provider:
        def run() -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            out = function(*leaves)
            outputs = out if isinstance(out, list) else [out]
            return outputs, torch.autograd.grad(outputs, leaves, g) if wants_grad else ()

        return Provider(run, error, compiles)

    whole = (value, s_dst, s_src)

    def ours(value: Tensor, s_dst: Tensor, s_src: Tensor) -> Tensor:
        return ops.attention(graph, value, score_dst=s_dst, score_src=s_src, negative_slope=SLOPE)  # type: ignore[return-value]

    found: dict[str, Provider | str] = {OURS: provider(ours, whole, [grad])}
    try:
        found["PyG GATConv (edge_index)"] = provider(pyg(graph), whole, [grad])
        found["PyG softmax(ptr) + FBGEMM bags"] = provider(bags(graph, True), (*values, s_dst, s_src), grads)
    except Absent as reason:
        found["PyG"] = str(reason)
    found["segment softmax + FBGEMM bags"] = provider(bags(graph, False), (*values, s_dst, s_src), grads)
    src, dst = graph.col.long(), graph.edge_rows()

    def gather(value: Tensor, s_dst: Tensor, s_src: Tensor) -> Tensor:
        weight = segment_softmax(F.leaky_relu(s_src[src] + s_dst[dst], SLOPE), dst, s_dst.size(0))
        return value.new_zeros(s_dst.size(0), HEADS, width).index_add(0, dst, weight.unsqueeze(-1) * value[src])

    label = "torch.compile gather, softmax, index_add"
    for name, run in compiled_variants(label, gather, [src, dst, *whole], threads, quick).items():
        found[name] = run if isinstance(run, str) else provider(run, whole, [grad], True)
    return found


def expected(graph: Graph, value: Tensor, s_dst: Tensor, s_src: Tensor, grad: Tensor, wants_grad: bool) -> list[Tensor]:
    """In float64, some columns of y and of the value's gradient; the whole gradients of scores, from all columns."""
    narrow, left, right = (v.detach().double().requires_grad_() for v in (value[..., :CHECKED], s_dst, s_src))
    y, weight = reference.attention(
        graph, narrow, score_dst=left, score_src=right, negative_slope=SLOPE, return_weights=True
    )
    if not wants_grad:
        return [y.detach()]
    products = torch.cat(
        [
            (grad[dst].double() * value.detach()[src].double()).sum(-1)
            for src, dst in zip(graph.col.long().split(50_000), graph.edge_rows().split(50_000), strict=True)
        ]
    )
    (d_value,) = torch.autograd.grad((y * grad[..., :CHECKED]).sum(), narrow, retain_graph=True)
    d_scores = torch.autograd.grad((weight * products).sum(), (left, right))
    return [y.detach(), d_value, *d_scores]


def run_case(benchmark: Any, settings: Settings, size: str, width: int, threads: int, mode: str, quick: bool) -> None:
    torch.set_num_threads(threads)
    graph, full = graphs.graph(size), HEADS * width
    providers = providers_of(graph, width, mode == "fwdbwd", threads, quick)
    case = Case("attention", "attention, additive", mode, threads, graph.num_dst, graph.num_edges, width, HEADS)
    floors = Floors(moved(graph, width, mode), spmm_gather(graph, full, mode, threads), 4 * graph.num_dst * full)
    settings.measure(benchmark, case, providers, floors)


@pytest.mark.parametrize(
    ("size", "threads", "mode"),
    [
        *cases(("small",), (1, 2), ("fwd", "fwdbwd"), quick=is_quick),
        *cases(("big",), (2,), ("fwd", "fwdbwd"), quick=is_quick),
    ],
)
def test_attention(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    run_case(benchmark, settings, size, 64, threads, mode, settings.quick)


def test_memory_of_two_million_edges(benchmark: Any, settings: Settings) -> None:
    """E x d of all heads is 488 MiB."""
    run_case(benchmark, settings, "dense", 16, 2, "fwdbwd", True)

"""The peers: what others offer for the same aggregation, each in its own format, built outside of the timed region.

A peer is made for a graph. Its edges stand in row order, its weights in its own edge order (a CSR's values where the
gradient of a weight is that of a CSR's values), its index type is the one it is faster with. A peer that cannot do a
case raises :class:`Absent` with the reason, which the report prints.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgmtl import Graph


class Absent(Exception):
    """A peer does not take part, and why."""


@dataclass(frozen=True)
class Aggregate:
    """``run(x [N, d], held)`` -> [N, d]; ``hold(weight [E] or None, wants_grad)``: the weights as the peer has them."""

    run: Callable[[Tensor, Any], Tensor]
    hold: Callable[[Tensor | None, bool], Any]


def need(*packages: str) -> None:
    """Absent unless the packages are installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise Absent(f"{package} is not installed")


def leaf(value: Tensor | None, wants_grad: bool) -> Tensor | None:
    return None if value is None else value.detach().clone().requires_grad_(wants_grad)


def csr(graph: Graph, weight: Tensor | None, index: torch.dtype) -> Tensor:
    """The torch CSR matrix of a graph (rows are destinations)."""
    values = torch.ones(graph.num_edges) if weight is None else weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR support is in beta state
        size = (graph.num_dst, graph.num_src)
        return torch.sparse_csr_tensor(graph.row_ptr.to(index), graph.col.to(index), values, size)


def fbgemm(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    col, row_ptr = graph.col.int(), graph.row_ptr.int()

    def run(x: Tensor, w: Tensor | None) -> Tensor:
        return F.embedding_bag(col, x, row_ptr, mode="sum", include_last_offset=True, per_sample_weights=w)

    return Aggregate(run, leaf)


def torch_csr(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    if weight_grad:
        gib = 4 * graph.num_src * graph.num_dst / 2**30
        raise Absent(f"the gradient of its values is a dense N x N matrix ({gib:.1f} GiB a task)")
    index = torch.int64 if mode == "fwd" and graph.device_type == "cpu" else torch.int32
    return Aggregate(lambda x, a: a @ x, lambda w, g: csr(graph, w, index).requires_grad_(g and w is not None))


def torch_coo(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    if weight_grad:
        raise Absent("the gradient of its values is a product of N x N, sampled")
    indices, size = torch.stack([graph.edge_rows(), graph.col.long()]), (graph.num_dst, graph.num_src)

    def hold(w: Tensor | None, wants_grad: bool) -> Tensor:
        values = torch.ones(graph.num_edges, device=graph.device) if w is None else w.detach()
        return torch.sparse_coo_tensor(indices, values, size, is_coalesced=True, check_invariants=False)

    return Aggregate(lambda x, a: torch.sparse.mm(a, x), hold)


def sparse_mm(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    # Its backward is faster with int32 indices, but row * N + col overflows there: from N * N = 2 ** 31 on the gradient
    # is wrong (torch 2.13).
    index = torch.int32 if graph.num_src * graph.num_dst < 2**31 else torch.int64

    def hold(w: Tensor | None, wants_grad: bool) -> Tensor:
        return csr(graph, w, index).requires_grad_(wants_grad and w is not None)

    return Aggregate(lambda x, a: torch.sparse.mm(a, x, "sum"), hold)


def torch_sparse(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    need("torch_sparse", "torch_scatter")
    from torch_sparse import SparseTensor, matmul

    base = SparseTensor(
        row=graph.edge_rows(),
        rowptr=graph.row_ptr,
        col=graph.col.long(),
        sparse_sizes=(graph.num_dst, graph.num_src),
        is_sorted=True,
        trust_data=True,
    )
    base.fill_cache_()
    return Aggregate(lambda x, w: matmul(base if w is None else base.set_value(w, layout="coo"), x, "sum"), leaf)


def pyg_edge_index(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    need("torch_geometric")
    from torch_geometric.nn import SimpleConv

    conv, edge_index = SimpleConv(aggr="sum"), torch.stack([graph.col.long(), graph.edge_rows()])
    return Aggregate(lambda x, w: conv(x, edge_index, w), leaf)


def pyg_csr(graph: Graph, weight_grad: bool, mode: str) -> Aggregate:
    need("torch_geometric")
    from torch_geometric import EdgeIndex

    if weight_grad:
        raise Absent("EdgeIndex.matmul hands weights that want a gradient to torch_sparse")
    size = (graph.num_src, graph.num_dst)
    edge_index = EdgeIndex(torch.stack([graph.col.long(), graph.edge_rows()]), sparse_size=size, sort_order="col")
    edge_index.fill_cache_()
    return Aggregate(lambda x, w: edge_index.matmul(x, w, transpose=True), leaf)


ON_CPU = ("F.embedding_bag (FBGEMM)", "torch.sparse.mm(reduce=)")  # those that are meant for it alone
AGGREGATES: dict[str, Callable[[Graph, bool, str], Aggregate]] = {
    "F.embedding_bag (FBGEMM)": fbgemm,
    "torch CSR @": torch_csr,
    "torch.sparse.mm(reduce=)": sparse_mm,
    "torch_sparse.matmul": torch_sparse,
    "PyG EdgeIndex.matmul": pyg_csr,
    "PyG edge_index": pyg_edge_index,
}


def compiled_variants(
    name: str, function: Callable[..., Any], inputs: Sequence[Tensor], threads: int, quick: bool
) -> dict[str, Callable[..., Any] | str]:
    """``torch.compile`` of the function, for the number of threads and (where that is not 1) with one-thread code too:
    its parallel code adds with atomics, which often costs more than it wins.

    The first axis of every tensor that it reads, ``inputs``, is marked as dynamic: measured, the code is as fast as
    that for fixed sizes, and the graphs of different sizes share it.
    """
    if quick:
        return {name: "left out by --quick: compiling takes longer than the smoke run may"}
    torch.compiler.reset()
    for value in inputs:
        torch._dynamo.mark_dynamic(value, 0)
    variants = {name: threads} if threads == 1 else {name: threads, f"{name}, 1-thread code": 1}
    return {label: torch.compile(function, options={"cpp.threads": count}) for label, count in variants.items()}


def compiled_aggregates(
    graph: Graph, x: Tensor, weight: Tensor | None, threads: int, quick: bool
) -> dict[str, Callable[[], Tensor] | str]:
    """One call for x [N, d], or x [N, T, d] and weights [E, T], by torch.compile: gather, multiply, index_add."""
    src, dst = graph.col.long(), graph.edge_rows()

    def gather_add(x: Tensor, w: Tensor | None = None) -> Tensor:
        messages = x[src] if w is None else x[src] * w.unsqueeze(-1)
        return x.new_zeros(x.shape).index_add(0, dst, messages)

    inputs = [src, dst, x, *([] if weight is None else [weight])]
    found = compiled_variants("torch.compile gather + index_add", gather_add, inputs, threads, quick)
    return {name: f if isinstance(f, str) else partial(f, x, weight) for name, f in found.items()}

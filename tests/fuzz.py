"""``python fuzz.py TARGET``: the examples of one target; prints how many there were. See test_fuzz.py."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import sys
from collections.abc import Callable
from typing import Any

import torch
from cases import DTYPES, REDUCTIONS
from compare import close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgmtl import _C, Graph, HeteroGraph, ops, reference

EXAMPLES = 450
count = 0
index = st.integers(-2, 8) | st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63)])
node_count = st.none() | st.integers(0, 9) | st.sampled_from([-1, 2**31, 2**62])
dtypes = st.sampled_from([torch.int64, torch.int32, torch.int16, torch.float32, torch.bool])
PYTHON_ERRORS = (TypeError, ValueError, IndexError, RuntimeError, MemoryError, OverflowError)


def clipped(value: int, dtype: torch.dtype) -> int:
    return value if dtype != torch.int32 else max(-(2**31), min(2**31 - 1, value))


@st.composite
def edge_lists(draw: Any) -> Tensor:
    dtype = draw(dtypes)
    pairs = draw(st.lists(st.tuples(index, index), max_size=12))
    values = [[clipped(v, dtype) if dtype in (torch.int64, torch.int32) else v % 5 for v in p] for p in pairs]
    edges = torch.tensor(values, dtype=torch.int64).reshape(-1, 2).to(dtype)
    return edges.t() if draw(st.integers(0, 9)) else edges


@st.composite
def graphs(draw: Any) -> Graph:
    num_src, num_dst = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    pairs = st.tuples(st.integers(0, max(0, num_src - 1)), st.integers(0, max(0, num_dst - 1)))
    edges = draw(st.lists(pairs, max_size=30)) if num_src and num_dst else []
    if draw(st.booleans()):
        edges.sort(key=lambda e: e[1])
    return Graph.from_edge_index(torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t(), num_src, num_dst)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    special = draw(st.sampled_from([None, None, None, torch.nan, torch.inf, 0.0]))
    value = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))), dtype=torch.float64)
    if special is not None and value.numel():
        value.view(-1)[draw(st.integers(0, value.numel() - 1))] = special
    value = value.to(dtype)
    return value.movedim(0, -1).contiguous().movedim(-1, 0) if draw(st.booleans()) else value


def both(function: Callable[..., Tensor], twin: Callable[..., Tensor], inputs: list[Tensor | None]) -> None:
    """Value and gradients of both; where there are infinities only whether both run."""
    results = []
    for call in (function, twin):
        leaves = [None if i is None else i.detach().clone().requires_grad_() for i in inputs]
        out = call(*leaves)
        found = torch.autograd.grad(out.float().sum(), [v for v in leaves if v is not None], allow_unused=True)
        results.append((out.detach(), *(f if f is not None else torch.zeros(()) for f in found)))
    finite = all(i is None or bool(i.isfinite().all()) for i in inputs)
    for got, want in zip(*results, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if finite:
            close(got, want, got.dtype, factor=4)


@given(edge_lists(), node_count, node_count)
def edges(edge_index: Tensor, num_src: int | None, num_dst: int | None) -> None:
    biggest = max(
        [n for n in (num_src, num_dst) if n is not None] + [int(edge_index.max()) if edge_index.numel() else 0]
    )
    if biggest > 2**20 and not (edge_index.numel() and biggest > 2**40):
        return  # a graph of billions of nodes is right, and too large to try
    try:
        graph = Graph.from_edge_index(edge_index, num_src, num_dst)
    except PYTHON_ERRORS:
        return
    assert torch.equal(graph.edge_index(), edge_index.long())
    assert torch.equal(graph.t().edge_index(), edge_index.flip(0).long())
    assert int(graph.in_degree().sum()) == graph.num_edges == int(graph.out_degree().sum())
    if graph.is_square:
        looped, weight = ops.gcn_norm(graph)
        assert weight.isfinite().all() and looped.num_edges == graph.num_edges + graph.num_dst
    assert all(torch.equal(g.edge_index(), graph.edge_index()) for g in Graph.batch([graph, graph]).unbatch())


@given(st.lists(st.integers(-2, 6), max_size=6), st.lists(index, max_size=6), node_count, st.booleans())
def sparse(row_ptr: list[int], col: list[int], num_src: int | None, mend: bool) -> None:
    if mend and row_ptr:
        row_ptr = [0, *sorted(abs(r) for r in row_ptr)]
        col = [abs(c) % 5 for c in col][: row_ptr[-1]]
        row_ptr = [min(r, len(col)) for r in row_ptr]
        row_ptr[-1] = len(col)
    try:
        graph = Graph.from_csr(torch.tensor(row_ptr, dtype=torch.int64), torch.tensor(col, dtype=torch.int64), num_src)
    except PYTHON_ERRORS:
        return
    assert graph.col.tolist() == col and graph.row_ptr.tolist() == row_ptr
    if graph.num_src < 2**20:
        assert torch.equal(graph.t().edge_index(), graph.edge_index().flip(0))


@st.composite
def typed_edges(draw: Any) -> tuple[dict[tuple[str, str, str], Tensor], dict[str, int]]:
    """Edges by relation and nodes by type; one time in eight with something that does not fit."""
    names = ["a", "b", "c", ""]
    num_nodes = draw(st.dictionaries(st.sampled_from(names), st.integers(0, 6), min_size=1, max_size=4))
    types, edges = st.sampled_from(sorted(num_nodes)), {}
    for relation in draw(st.lists(st.tuples(types, st.sampled_from(["x", "y", "rev_x", "self"]), types), max_size=6)):
        most = [num_nodes[relation[0]] - 1, num_nodes[relation[2]] - 1]
        pairs = st.lists(st.tuples(*(st.integers(0, max(0, m)) for m in most)), max_size=8 if min(most) >= 0 else 0)
        edges[relation] = torch.tensor(draw(pairs), dtype=draw(st.sampled_from([torch.int64, torch.int32])))
        edges[relation] = edges[relation].reshape(-1, 2).t()
    if edges and not draw(st.integers(0, 7)):
        edges[draw(st.sampled_from(sorted(edges)))] = draw(edge_lists())
        num_nodes |= draw(st.dictionaries(st.sampled_from(names), st.integers(-1, 2), max_size=1))
    return edges, num_nodes


@given(typed_edges())
def hetero(drawn: tuple[dict[tuple[str, str, str], Tensor], dict[str, int]]) -> None:
    edges, num_nodes = drawn
    try:
        graph = HeteroGraph.from_dict(edges, num_nodes)
    except (TypeError, ValueError, IndexError):
        return
    given = {relation: e.long() for relation, e in edges.items()}
    for want, got in ((given, graph.edge_index_dict()), (given, pickle.loads(pickle.dumps(graph)).edge_index_dict())):
        assert list(got) == list(want) and all(torch.equal(got[r], want[r]) for r in want)
    single = graph.to_homogeneous()
    parts = [graph.packed(t) for t in graph.node_types]
    assert single.graph.num_edges == sum(p.graph.num_edges for p in parts) == single.edge_type.numel()
    assert single.graph.in_degree().tolist() == [d for p in parts for d in p.by_node().in_degree().tolist()]
    with contextlib.suppress(ValueError):
        both = graph.add_inverse_relations()
        assert sum(both.num_edges.values()) == 2 * single.graph.num_edges
        assert torch.equal(
            both.to_homogeneous().graph.in_degree(), (single.graph.in_degree() + single.graph.out_degree())
        )


@given(st.data())
def spmm(data: st.DataObject) -> None:
    graph, dtype = data.draw(graphs()), data.draw(st.sampled_from(DTYPES))
    tasks, width = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 40))
    rank, kind = data.draw(st.sampled_from([2, 3])), data.draw(st.sampled_from(["none", "E", "ET"]))
    reduce = data.draw(st.sampled_from(REDUCTIONS))
    x = data.draw(tensors((graph.num_src, width) if rank == 2 else (graph.num_src, tasks, width), dtype))
    shape = (graph.num_edges,) if kind == "E" else (graph.num_edges, tasks)
    weight = None if kind == "none" else data.draw(tensors(shape, dtype))
    both(lambda x, w: ops.spmm(graph, x, w, reduce), lambda x, w: reference.spmm(graph, x, w, reduce), [x, weight])


@given(st.data())
def sddmm(data: st.DataObject) -> None:
    graph, dtype = data.draw(graphs()), data.draw(st.sampled_from(DTYPES))
    tasks, width = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 40))
    x = [
        data.draw(tensors((n, width) if data.draw(st.booleans()) else (n, tasks, width), dtype))
        for n in (graph.num_dst, graph.num_src)
    ]
    both(lambda a, b: ops.sddmm(graph, a, b), lambda a, b: reference.sddmm(graph, a, b), list(x))


@given(st.data())
def relation_gate(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    n, r, t, s, d = (data.draw(st.integers(0, most)) for most in (5, 4, 4, 9, 40))
    shapes = (n, r, t, d), (n, r, t, s), (s, d), (n, s, d)
    inputs = [data.draw(tensors(shape, dtype)) for shape in shapes]
    given = [v if i < 2 or data.draw(st.booleans()) else None for i, v in enumerate(inputs)]
    mask = data.draw(st.none() | st.just(torch.arange(n * r).reshape(n, r) % 3 > 0))
    kind = data.draw(st.sampled_from(["none", "elu"]))
    both(lambda *v: ops.relation_gate(*v, mask, kind), lambda *v: reference.relation_gate(*v, mask, kind), given)


@given(st.data())
def grouped_matmul(data: st.DataObject) -> None:
    dtype, sizes = data.draw(st.sampled_from(DTYPES)), data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    k, n = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    ptr = [0, *itertools.accumulate(sizes)]
    inputs: list[Tensor | None] = [data.draw(tensors(shape, dtype)) for shape in ((ptr[-1], k), (len(sizes), k, n))]
    both(lambda *v: ops.grouped_matmul(*v, ptr), lambda *v: reference.grouped_matmul(*v, ptr), inputs)


anything = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.text(max_size=3),
    st.builds(
        lambda shape, dtype, requires_grad: torch.zeros(
            shape, dtype=dtype, requires_grad=requires_grad and dtype.is_floating_point
        ),
        st.lists(st.integers(0, 4), max_size=4),
        st.sampled_from([*DTYPES, torch.int32, torch.int64, torch.bool, torch.complex64, torch.uint8]),
        st.booleans(),
    ),
    graphs(),
)


@given(graphs() | anything, anything, anything, st.sampled_from(REDUCTIONS) | anything)
def arguments(graph: Any, x: Any, weight: Any, reduce: Any) -> None:
    for call in (
        lambda: ops.spmm(graph, x, weight, reduce),
        lambda: ops.sddmm(graph, x, weight),
        lambda: ops.gcn_norm(graph, x),
        lambda: ops.attention(graph, x, score_src=weight, score_edge=reduce),
        lambda: ops.attention(graph, x, query=weight, key=x, score_type=reduce, edge_type=weight),
        lambda: ops.relation_gate(x, weight, reduce),
        lambda: ops.grouped_matmul(x, weight, reduce),
        lambda: ops.rspmm(graph, x, weight, x, None, "mul", reduce),
        lambda: ops.rspmm(graph, x, x, weight, None, reduce, "max"),
        lambda: ops.neighbor_sample(graph, x, weight, seed=reduce),
        lambda: Graph.from_edge_index(x, weight),
        lambda: Graph.from_csr(x, weight, reduce),
        lambda: Graph.from_sparse(x),
        lambda: HeteroGraph.from_dict(x, weight),
        lambda: HeteroGraph.from_dict({("a", "x", "a"): x}, {"a": weight}),
    ):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            call()


views = st.none() | st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([*DTYPES, torch.float32, torch.float32, torch.int32, torch.int64]),
)
small = st.integers(-2, 3)


@given(st.data())
def border(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    pattern = data.draw(st.sampled_from([graph.pattern, graph.t().pattern]))
    draw = lambda: data.draw(views)  # noqa: E731
    flag, threads = data.draw(st.booleans()), data.draw(small)
    for call in (
        lambda: _C.spmm(
            pattern, draw(), draw(), draw(), flag, draw(), data.draw(small), data.draw(small), draw(), draw(), threads
        ),
        lambda: _C.sddmm(pattern, draw(), draw(), draw(), flag, draw(), data.draw(small), draw(), threads),
        lambda: _C.spmm_backward(
            pattern, draw(), draw(), draw(), draw(), flag, draw(), data.draw(small), draw(), draw(), threads
        ),
        lambda: _C.attention(pattern, *(draw() for _ in range(7)), 0.2, 0.5, flag, draw(), draw(), threads),
        lambda: _C.attention_backward(
            pattern, graph.pattern, *(draw() for _ in range(11)), 0.2, 0.0, flag, *(draw() for _ in range(5)), threads
        ),
        lambda: _C.relation_gate(*[draw() for _ in range(5)], data.draw(small), draw(), threads),
        lambda: _C.relation_gate_backward(*[draw() for _ in range(9)], threads),
        lambda: _C.csr(draw(), draw(), draw(), data.draw(small), draw(), draw(), draw(), threads),
    ):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            call()


def main(test: Any) -> None:
    """Run one target on a fixed sequence of examples."""
    inner = test.hypothesis.inner_test

    def counted(*args: Any, **kwargs: Any) -> None:
        global count
        count += 1
        inner(*args, **kwargs)

    test.hypothesis.inner_test = counted
    settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(test)()
    print(count, "examples")


if __name__ == "__main__":
    main(globals()[sys.argv[1]])

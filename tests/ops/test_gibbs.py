"""Gibbs sampling: against enumeration, against its twin draw for draw, and what it promises of its random numbers."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.reference.gibbs import colours, orders, prepare, sweep

pytestmark = pytest.mark.usefixtures("kernels")
DTYPE = torch.float64


def simple(tasks: int, edges: int, seed: int) -> Graph:
    """Distinct edges without loops; cycles are likely."""
    keys = torch.randperm(tasks * (tasks - 1), generator=torch.Generator().manual_seed(seed))[:edges]
    src, dst = keys % max(1, tasks - 1), keys // max(1, tasks - 1)
    return Graph.from_edge_index(torch.stack((src + (src >= dst), dst)), tasks, tasks)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def marginals(graph: Graph, bias: Tensor, coupling: Tensor, normalised: bool, fixed: dict[int, bool]) -> Tensor:
    """P(y_t = 1) by enumeration, given the labels that are ``fixed``."""
    tasks = graph.num_dst
    y = torch.tensor(list(itertools.product([0.0, 1.0], repeat=tasks)), dtype=DTYPE)
    src, dst = graph.edge_index()
    matrix = torch.zeros(tasks, tasks, dtype=DTYPE).index_put((src, dst), coupling)
    field = bias + (2 * y - 1) @ matrix
    energy = (-y * field + (field.logaddexp(torch.zeros_like(field)) if normalised else 0)).sum(1)
    for t, value in fixed.items():
        energy = energy.masked_fill(y[:, t] != value, torch.inf)
    return (-energy).softmax(0) @ y


@pytest.mark.parametrize("order", ["random", "colour"])
@pytest.mark.parametrize("normalised", [True, False])
def test_marginals_are_those_of_enumeration(normalised: bool, order: str) -> None:
    graph, bias = simple(6, 10, 1), normal(2, 6)
    coupling = 0.6 * normal(3, 10)
    chains = 3000
    for fixed in ({}, {1: True, 4: False}):
        known = torch.zeros(6, dtype=torch.bool)
        start = torch.zeros(6, dtype=torch.int64) - 1
        for t, value in fixed.items():
            known[t], start[t] = True, int(value)
        _, mean = ops.gibbs(
            graph,
            bias.expand(chains, 6),
            coupling,
            start.expand(chains, 6),
            known.expand(chains, 6),
            sweeps=60,
            burn_in=20,
            normalised=normalised,
            order=order,
            seed=4,
        )
        error = mean.std(0) / chains**0.5
        wanted = marginals(graph, bias, coupling, normalised, fixed)
        assert ((mean.mean(0) - wanted).abs() <= 4 * error + 1e-12).all()
        assert error.max() < 0.004
        for t, value in fixed.items():
            assert (mean[:, t] == value).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("normalised", [True, False])
def test_draws_are_those_of_the_twin(dtype: torch.dtype, each: bool, normalised: bool, kernels: ModuleType) -> None:
    """For every size of a vector, and every instruction set."""
    before = kernels.simd()
    try:
        for tasks, edges, chains in ((1, 0, 3), (7, 20, 1), (12, 60, 16), (30, 200, 37)):
            graph = simple(tasks, edges, tasks)
            bias = normal(5, chains, tasks).to(dtype)
            coupling = normal(6, *([chains] if each else []), edges).to(dtype)
            start = torch.randint(-1, 2, (chains, tasks), generator=torch.Generator().manual_seed(7))
            known = (normal(8, chains, tasks) > 1) & (start >= 0)
            given = (graph, bias, coupling, start, known, 4, 1, normalised)
            want = reference.gibbs(*given, seed=9 << 50)
            for level in kernels.simd_levels():
                kernels.set_simd(level)
                with case(tasks, level):
                    label, mean = ops.gibbs(*given, seed=torch.tensor([9 << 50]))
                    assert torch.equal(label, want[0]) and label.dtype == torch.bool
                    close(mean, want[1], dtype)
    finally:
        kernels.set_simd(before)


def test_numbers_depend_on_seed_label_sweep_and_sample_alone(threads: None) -> None:
    graph, bias, coupling = simple(40, 300, 1), normal(2, 100, 40).float(), normal(3, 300).float()
    want = ops.gibbs(graph, bias, coupling, sweeps=3, seed=5)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        got = ops.gibbs(graph, bias, coupling, sweeps=3, seed=5)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    some = ops.gibbs(graph, bias[:37], coupling, sweeps=3, seed=5)
    assert torch.equal(some[0], want[0][:37])
    other = ops.gibbs(graph, bias, coupling, sweeps=3, seed=6)
    assert not torch.equal(other[0], want[0])
    drawn = [ops.gibbs(graph, bias, coupling, generator=torch.Generator().manual_seed(1))[0] for _ in range(2)]
    assert torch.equal(*drawn)
    wide = Graph(graph.row_ptr, graph.col.long(), None if graph.edge_id is None else graph.edge_id.long(), 40)
    assert torch.equal(ops.gibbs(wide, bias, coupling, sweeps=3, seed=5)[0], want[0])


def test_orders_are_permutations_and_colours_classes() -> None:
    graph, seed = simple(20, 40, 4), torch.tensor([3])
    random = orders(graph, 5, "random", True, seed)
    assert torch.equal(random.sort(1).values, torch.arange(20, dtype=torch.int32).expand(5, 20))
    assert len({tuple(row) for row in random.tolist()}) == 5
    src, dst = graph.edge_index()
    child = torch.zeros(20, 20, dtype=torch.bool)
    child[src, dst] = True
    near = child | child.t()
    for normalised in (False, True):
        colour = colours(graph, normalised)
        if normalised:
            near = near | (child.float() @ child.t().float() > 0)
        same = (colour[:, None] == colour[None]) & ~torch.eye(20, dtype=torch.bool)
        assert not (same & near).any()
        assert colour.max() < near.sum(1).max() + 1
        row = orders(graph, 2, "colour", normalised, seed)
        assert torch.equal(colour[row[0].long()], colour.sort().values) and torch.equal(row[0], row[1])


def test_labels_of_one_colour_may_be_drawn_in_any_order() -> None:
    graph, bias, coupling = simple(25, 50, 5), normal(6, 9, 25), normal(7, 50)
    field, weight, start = prepare(graph, bias, coupling, None)
    seed = torch.tensor([1])
    colour = colours(graph, True)
    row = orders(graph, 1, "colour", True, seed)[0].long()
    other = torch.cat([row[colour[row] == c].flip(0) for c in colour.unique()])
    assert not torch.equal(row, other)
    drawn = [sweep(graph, field, weight, start, None, r.int()[None], seed, 0, True) for r in (row, other)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    close(drawn[0][1], drawn[1][1], DTYPE)


def test_the_start_is_what_is_given_and_else_the_likelier_label() -> None:
    graph = simple(3, 2, 1)
    bias, none = torch.tensor([[-1.0, 2.0, 0.0]]), torch.zeros(2)
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert ops.gibbs(graph, bias, none, None, everything)[0].tolist() == [[False, True, False]]
    given = torch.tensor([[1, 0, -1]])
    label, mean = ops.gibbs(graph, bias, none, given, everything)
    assert label.tolist() == [[True, False, False]] and mean.tolist() == [[1, 0, 0]]
    assert ops.gibbs(graph, bias, none, ~everything, everything)[0].tolist() == [[False] * 3]


def test_nothing_is_differentiated_and_compiling_changes_nothing() -> None:
    graph, bias, coupling = simple(8, 20, 1), normal(2, 5, 8).requires_grad_(), normal(3, 20).requires_grad_()
    want = ops.gibbs(graph, bias, coupling, seed=1)
    assert not want[0].requires_grad and not want[1].requires_grad
    graph.t()
    compiled = torch.compile(lambda b, c: ops.gibbs(graph, b, c, seed=torch.tensor([1])), backend="aot_eager")
    got = compiled(bias.detach(), coupling.detach())
    assert torch.equal(got[0], want[0])
    close(got[1], want[1], DTYPE)


def test_an_op_of_the_library() -> None:
    from fastgmtl.ops.operator import flatten

    graph, bias, coupling = simple(8, 20, 1), normal(2, 5, 8), normal(3, 20)
    seed = torch.tensor([1])
    given = prepare(graph, bias, coupling, None)
    given = tuple(v.contiguous() for v in given)
    order = orders(graph, 2, "random", True, seed)
    args = (*flatten(graph), *given, None, order, seed, 0, True)
    torch.library.opcheck(torch.ops.fastgmtl.gibbs.default, args)


def test_empty_graphs_and_samples() -> None:
    for tasks, chains in ((0, 3), (4, 0), (0, 0)):
        graph = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), tasks, tasks)
        label, mean = ops.gibbs(graph, torch.zeros(chains, tasks), torch.zeros(0), seed=1)
        assert label.shape == mean.shape == (chains, tasks)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"sweeps": 0}, ValueError, "there must be 0 <= burn_in < sweeps, got 0 and 0"),
        ({"burn_in": 2}, ValueError, "there must be 0 <= burn_in < sweeps, got 2 and 2"),
        ({"order": "any"}, ValueError, "order must be one of random, colour, got 'any'"),
        ({"seed": 1.5}, TypeError, "seed must be an int or an int64 tensor of one element, got float"),
        ({"known": torch.zeros(4, 3)}, TypeError, "known must be a tensor of bool or None, got float32"),
        ({"known": torch.zeros(3) > 0}, ValueError, r"known must have shape \[B, T\] = \[4, 3\] and be on cpu"),
        ({"label": torch.zeros(4, 3)}, TypeError, "label must be a tensor of bool or integers"),
        ({"bias": torch.zeros(4)}, ValueError, r"field must have shape \[B, T\] = \[B, 3\], got \[4\]"),
        ({"coupling": torch.zeros(3)}, ValueError, r"coupling must have shape \[E\] or \[B, E\] = \[4, 2\], got \[3\]"),
    ],
)
def test_refused(changes: dict[str, object], error: type[Exception], text: str) -> None:
    given = {"bias": torch.zeros(4, 3), "coupling": torch.zeros(2)} | changes
    with pytest.raises(error, match=f"^gibbs: {text}"):
        ops.gibbs(simple(3, 2, 1), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("edges", [[[0, 1], [1, 1]], [[0, 0], [1, 1]]])
def test_loops_and_parallel_edges_are_refused(edges: list[list[int]]) -> None:
    graph = Graph.from_edge_index(torch.tensor(edges), 3, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"gibbs: graph must have neither loops nor parallel edges"):
            ops.gibbs(graph, torch.zeros(4, 3), torch.zeros(2))

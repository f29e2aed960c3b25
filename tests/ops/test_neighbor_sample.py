"""neighbor_sample: its twin in plain Python draw for draw, its distribution, and what every sample is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS, Pattern
from compare import case
from torch import Tensor

from fastgmtl import Graph, use_backend
from fastgmtl.ops import neighbor_sample
from fastgmtl.ops.neighbor_sample import HeteroNeighborSample, NeighborSample

FLAGS = [(replace, disjoint) for replace in (False, True) for disjoint in (False, True)]
SQUARE = [name for name, p in MEDIUM.items() if p.num_src == p.num_dst]
TYPES = {("a", "to", "b"): (40, 25, 300), ("b", "back", "a"): (25, 40, 200), ("b", "in", "b"): (25, 25, 90)}


def seeds_of(n: int, count: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(count))[:count]


def same(first: Any, second: Any) -> None:
    for name, value in vars(first).items():
        other = getattr(second, name)
        pairs = [(value, other)] if not isinstance(value, dict) else [(value[k], other[k]) for k in value]
        for a, b in pairs:
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, name


@pytest.fixture(scope="module")
def typed() -> tuple[dict[Any, Graph], dict[Any, Tensor]]:
    g = torch.Generator().manual_seed(4)
    edges = {kind: cases.random_edges(n, m, e, g) for kind, (n, m, e) in TYPES.items()}
    return {k: Graph.from_edge_index(v, *TYPES[k][:2]) for k, v in edges.items()}, edges


# ---------------------------------------------------------------------------------------------------- the twin


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", SQUARE)
def test_equals_the_twin(name: str) -> None:
    pattern = MEDIUM[name]
    graph, seeds = pattern.graph(), seeds_of(pattern.num_dst, 7)
    for fanouts in ([3, 2], [-1, 1], [60, 0, 2], []):
        for replace, disjoint in FLAGS:
            with case(fanouts, replace, disjoint):
                got = neighbor_sample(graph, seeds, fanouts, replace, disjoint, seed=5)
                with use_backend("reference"):
                    want = neighbor_sample(graph, seeds, fanouts, replace, disjoint, seed=5)
                same(got, want)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("replace", "disjoint"), FLAGS)
def test_typed_equals_the_twin(replace: bool, disjoint: bool, typed: tuple[dict[Any, Graph], Any]) -> None:
    seeds = {"b": seeds_of(25, 5), "a": seeds_of(40, 3)}
    for fanouts in ([3, 2], {kind: [k, 2 - k] for k, kind in enumerate(TYPES)}):
        got = neighbor_sample(typed[0], seeds, fanouts, replace, disjoint, seed=2**63 + 1)
        with use_backend("reference"):
            want = neighbor_sample(typed[0], seeds, fanouts, replace, disjoint, seed=2**63 + 1)
        same(got, want)


@pytest.mark.usefixtures("kernels")
def test_a_table_that_grows_equals_the_twin() -> None:
    """More nodes than are worth a place each: the hash table, filled beyond its first size."""
    n = 1 << 20
    edges = cases.random_edges(n, 4, 9000, torch.Generator().manual_seed(1))
    graph = Graph.from_edge_index(edges, n, n)
    got = neighbor_sample(graph, torch.arange(4), [-1, 2], seed=1)
    assert got.num_nodes[1] > 8000
    with use_backend("reference"):
        same(got, neighbor_sample(graph, torch.arange(4), [-1, 2], seed=1))


# ---------------------------------------------------------------------------------------------- what a sample is


@pytest.mark.parametrize(("replace", "disjoint"), FLAGS)
def test_what_every_sample_is(replace: bool, disjoint: bool) -> None:
    pattern, fanouts = MEDIUM["power_law"], [4, 3]
    graph, seeds = pattern.graph(), seeds_of(60, 9)
    degree = graph.in_degree()
    found = neighbor_sample(graph, seeds, fanouts, replace, disjoint, seed=1)
    assert torch.equal(found.node[:9], seeds) and found.num_nodes[0] == 9
    assert (sum(found.num_nodes), sum(found.num_edges)) == (len(found.node), len(found.edge))
    # Edges exist, join what they say they join, and stand by destination.
    src, dst = pattern.edge_index[:, found.edge]
    assert torch.equal(src, found.node[found.row]) and torch.equal(dst, found.node[found.col])
    assert (found.col.diff() >= 0).all()
    # Every node draws once, at the hop after the one that brought it, as many as it has to.
    first = 0
    for hop, fanout in enumerate(fanouts):
        nodes = torch.arange(first, first + found.num_nodes[hop])
        count = torch.bincount(found.col, minlength=len(found.node))[nodes]
        have = degree[found.node[nodes]]
        assert torch.equal(count, torch.where(have > 0, fanout, 0) if replace else have.clamp(max=fanout))
        first += found.num_nodes[hop]
    assert int(found.col.max()) < first
    # Without replacement no edge comes twice to one node, and a node is there once for each seed.
    pairs = torch.stack([found.col, found.edge])
    assert replace or pairs.unique(dim=1).size(1) == pairs.size(1)
    batch = torch.zeros_like(found.node) if found.batch is None else found.batch
    assert torch.stack([batch, found.node]).unique(dim=1).size(1) == len(found.node)
    if disjoint:
        assert torch.equal(batch[:9], torch.arange(9)) and torch.equal(batch[found.row], batch[found.col])
    assert torch.equal(found.graph.edge_index(), torch.stack([found.row, found.col]))


def test_all_neighbours_are_the_whole_neighbourhood() -> None:
    pattern = MEDIUM["typical"]
    graph, seeds = pattern.graph(), torch.arange(3)
    found = neighbor_sample(graph, seeds, [-1], seed=0)
    want = torch.isin(pattern.edge_index[1], seeds).nonzero().flatten()
    assert torch.equal(found.edge.sort().values, want)
    with_all = neighbor_sample(graph, torch.arange(60), [-1], seed=0)
    assert len(with_all.edge) == graph.num_edges and torch.equal(with_all.node, torch.arange(60))


def test_typed_samples(typed: tuple[dict[Any, Graph], dict[Any, Tensor]]) -> None:
    graphs, edges = typed
    found = neighbor_sample(graphs, {"b": seeds_of(25, 5)}, [3, 2], disjoint=True, seed=0, num_nodes={"lonely": 4})
    assert set(found.node) == {"a", "b", "lonely"} and set(found.row) == set(TYPES)
    assert found.batch is not None and found.batch["lonely"].shape == (0,)
    assert found.num_nodes["lonely"] == [0, 0, 0] and found.num_nodes["b"][0] == 5
    for kind, (row, col, edge) in {k: (found.row[k], found.col[k], found.edge[k]) for k in TYPES}.items():
        src, dst = edges[kind][:, edge]
        assert torch.equal(found.node[kind[0]][row], src) and torch.equal(found.node[kind[2]][col], dst)
        assert torch.equal(found.batch[kind[0]][row], found.batch[kind[2]][col])
    assert found.num_edges["b", "back", "a"][0] == 0  # no a is a seed
    assert found.num_edges["b", "back", "a"][1] > 0


def test_disjoint_seeds_are_counted_in_the_order_given(typed: tuple[dict[Any, Graph], Any]) -> None:
    for order in ("ab", "ba"):
        seeds = {name: torch.arange(2 if name == "a" else 3) for name in order}
        found = neighbor_sample(typed[0], seeds, [1], disjoint=True, seed=0)
        assert found.batch is not None
        first, second = (found.batch[name][: len(seeds[name])].tolist() for name in order)
        assert first + second == [0, 1, 2, 3, 4]


def test_seeds_that_are_there_twice() -> None:
    graph = Graph.from_edge_index(torch.tensor([[1, 0], [0, 1]]), 2, 2)
    found = neighbor_sample(graph, torch.tensor([0, 0]), [1], seed=0)
    assert found.node.tolist() == [0, 0, 1] and found.row.tolist() == [2, 2] and found.col.tolist() == [0, 1]
    apart = neighbor_sample(graph, torch.tensor([0, 0]), [1], disjoint=True, seed=0)
    assert apart.node.tolist() == [0, 0, 1, 1] and apart.row.tolist() == [2, 3]


@pytest.mark.parametrize(("replace", "disjoint"), FLAGS)
def test_nothing_to_sample(replace: bool, disjoint: bool) -> None:
    none = torch.zeros(0, dtype=torch.long)
    for name, seeds in (("typical", none), ("no_edges", torch.tensor([1, 4])), ("empty", none)):
        found = neighbor_sample(PATTERNS[name].graph(), seeds, [2, -1], replace, disjoint, seed=0)
        assert torch.equal(found.node, seeds) and found.edge.shape == found.row.shape == (0,)
        assert (found.num_nodes, found.num_edges) == ([len(seeds), 0, 0], [0, 0])
    nothing = neighbor_sample({}, {}, [2])
    assert nothing == HeteroNeighborSample({}, {}, {}, {}, None, {}, {})


# ------------------------------------------------------------------------------------------------- the distribution

STAR = 12  # leaves


def star() -> Graph:
    """Edges from 12 leaves to node 0."""
    return Graph.from_edge_index(torch.stack([torch.arange(1, STAR + 1), torch.zeros(STAR, dtype=torch.long)]), 13, 13)


def chi_square(count: Tensor, expected: float) -> float:
    return float(((count.double() - expected) ** 2 / expected).sum())


# 99.9 % points of chi-square with 11, 65 and 143 degrees of freedom.
BOUND = {11: 31.26, 65: 104.2, 143: 199.3}


def counted(graph: Graph, fanout: int, replace: bool, runs: int) -> Tensor:
    """The leaves that ``runs`` seeds, each by itself, have drawn, [runs, fanout]."""
    seeds = torch.zeros(runs, dtype=torch.long)
    found = neighbor_sample(graph, seeds, [fanout], replace, True, seed=11)
    return found.edge.reshape(runs, fanout)


@pytest.mark.parametrize("replace", [False, True])
def test_every_neighbour_is_as_likely(replace: bool) -> None:
    runs, fanout = 20_000, 5
    count = torch.bincount(counted(star(), fanout, replace, runs).flatten(), minlength=STAR)
    # Without replacement the counts vary less: the statistic is chi-square times (12 - 5) / 11.
    scale = 1 if replace else (STAR - 1) / (STAR - fanout)
    assert chi_square(count, runs * fanout / STAR) * scale < BOUND[11]


def test_every_pair_without_replacement_is_as_likely() -> None:
    runs = 20_000
    drawn = counted(star(), 2, False, runs).sort(1).values
    pairs = torch.bincount(drawn[:, 0] * STAR + drawn[:, 1], minlength=STAR * STAR).reshape(STAR, STAR)
    upper = pairs[torch.ones(STAR, STAR).triu(1).bool()]
    assert int(pairs.sum()) == int(upper.sum()) == runs
    assert chi_square(upper, runs / 66) < BOUND[65]


def test_draws_with_replacement_are_independent() -> None:
    runs = 20_000
    drawn = counted(star(), 2, True, runs)
    pairs = torch.bincount(drawn[:, 0] * STAR + drawn[:, 1], minlength=STAR * STAR)
    assert chi_square(pairs, runs / 144) < BOUND[143]


def test_many_of_many_without_replacement() -> None:
    """A hub of 500 edges, of which 200 are drawn: a bit each is kept of what is taken."""
    hub = Graph.from_edge_index(torch.stack([torch.arange(500), torch.zeros(500, dtype=torch.long)]), 500, 500)
    runs = 400
    drawn = neighbor_sample(hub, torch.zeros(runs, dtype=torch.long), [200], False, True, seed=3).edge.reshape(
        runs, 200
    )
    assert all(len(row.unique()) == 200 for row in drawn)
    count = torch.bincount(drawn.flatten(), minlength=500).double()
    # Each count is binomial (400, 0.4): mean 160, deviation 9.8.
    assert abs(count - 160).max() < 5 * 9.8 and 8.8 < count.std() < 10.8


# ------------------------------------------------------------------------------------------------------ randomness


def test_same_seed_same_sample_for_any_number_of_threads(threads: None) -> None:
    pattern = cases.large("power_law", 20_000, 200_000)
    graph, seeds = pattern.graph(), seeds_of(20_000, 500)
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(neighbor_sample(graph, seeds, [10, 5], seed=9))
        same(found[0], found[-1])
    other = neighbor_sample(graph, seeds, [10, 5], seed=10)
    assert not torch.equal(other.edge[:100], found[0].edge[:100])


def test_types_of_edges_draw_for_themselves() -> None:
    graph = star()
    found = neighbor_sample({("n", "r", "n"): graph, ("n", "s", "n"): graph}, {"n": torch.zeros(1).long()}, [6], seed=0)
    first, second = found.edge.values()
    assert not torch.equal(first, second)


def test_seeds_come_from_generators() -> None:
    graph, seeds = MEDIUM["typical"].graph(), torch.arange(20)

    def drawn(seed: Any) -> Tensor:
        return neighbor_sample(graph, seeds, [3], seed=seed).edge

    generator = torch.Generator().manual_seed(1)
    first, second = drawn(generator), drawn(generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(torch.Generator().manual_seed(1)))
    torch.manual_seed(3)
    one = drawn(None)
    torch.manual_seed(3)
    assert torch.equal(one, drawn(None)) and not torch.equal(one, drawn(None))
    assert torch.equal(drawn(-1), drawn(2**64 - 1))


# --------------------------------------------------------------------------------------------------------- refused

GRAPH, ZERO = PATTERNS["typical"].graph(), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: neighbor_sample(PATTERNS["bipartite"].graph(), ZERO, [1]),
            ValueError,
            "neighbor_sample: graph must be over one set of nodes, got 7 sources and 3 destinations; give graphs by "
            "edge type",
        ),
        (
            lambda: neighbor_sample(GRAPH, ZERO.float(), [1]),
            TypeError,
            "neighbor_sample: seeds must be an int64 tensor, got float32",
        ),
        (
            lambda: neighbor_sample(GRAPH, ZERO.reshape(1, 1), [1]),
            ValueError,
            "neighbor_sample: seeds must have shape [n], got [1, 1]",
        ),
        (
            lambda: neighbor_sample(GRAPH, ZERO + 5, [1]),
            IndexError,
            "neighbor_sample: every seed must be in [0, 5), got 5",
        ),
        (
            lambda: neighbor_sample(GRAPH, ZERO - 1, [1]),
            IndexError,
            "neighbor_sample: every seed must be in [0, 5), got -1",
        ),
        (
            lambda: neighbor_sample(GRAPH, ZERO, [-2]),
            ValueError,
            "neighbor_sample: a fan-out must be 0 or more, or -1 for all, got -2",
        ),
        (
            lambda: neighbor_sample({("a", "r", "a"): GRAPH, ("b", "r", "a"): MEDIUM["typical"].graph()}, {}, [1]),
            ValueError,
            "neighbor_sample: ('b', 'r', 'a') has 60 nodes of type 'a', expected 5",
        ),
        (
            lambda: neighbor_sample({("a", "r", "a"): GRAPH}, {"b": ZERO}, [1]),
            ValueError,
            "neighbor_sample: seeds are of a node type of the graphs, got 'b'",
        ),
        (
            lambda: neighbor_sample({("a", "r", "a"): GRAPH}, {"a": ZERO}, {}),
            ValueError,
            "neighbor_sample: fanouts must be given for every edge type, ('a', 'r', 'a') is missing",
        ),
        (
            lambda: neighbor_sample(
                {("a", "r", "a"): GRAPH, ("a", "s", "a"): GRAPH}, {}, {("a", "r", "a"): [1], ("a", "s", "a"): [1, 2]}
            ),
            ValueError,
            "neighbor_sample: every edge type must have as many hops, got [1, 2]",
        ),
    ],
)
def test_refused(make: Callable[[], NeighborSample], error: type[Exception], text: str) -> None:
    for backend in ("auto", "reference"):
        with use_backend(backend), pytest.raises(error) as caught:
            make()
        assert str(caught.value) == text


def test_int32_seeds_and_wide_columns() -> None:
    narrow, wide = (Pattern.graph(MEDIUM[name]) for name in ("typical", "typical_wide"))
    first = neighbor_sample(narrow, torch.arange(5, dtype=torch.int32), [3], seed=1)
    same(first, neighbor_sample(wide, torch.arange(5), [3], seed=1))

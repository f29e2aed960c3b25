"""rspmm by hand and by loops over edges: what is generated for every operator is beside this."""

from __future__ import annotations

import cmath
import gc
from collections.abc import Callable

import pytest
import torch
from cases import MEDIUM, PATTERNS
from compare import close
from torch import Tensor

from fastgmtl import Graph, ops
from fastgmtl.ops.relations import relations

TRIANGLE = torch.tensor([[0, 1, 2, 0, 0], [1, 2, 1, 1, 2]])  # node 0 has no edge in; 0 -> 1 is there twice
TYPES = torch.tensor([0, 1, 1, 0, 1])
MESSAGES: dict[str, Callable[[list[float], list[float]], list[float]]] = {
    "mul": lambda x, z: [a * b for a, b in zip(x, z, strict=True)],
    "add": lambda x, z: [a + b for a, b in zip(x, z, strict=True)],
    "rotate": lambda x, z: rotated(x, z),
}
REDUCTIONS: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
}


def rotated(x: list[float], z: list[float]) -> list[float]:
    half = len(x) // 2
    found = [complex(x[k], x[half + k]) * complex(z[k], z[half + k]) for k in range(half)]
    return [v.real for v in found] + [v.imag for v in found]


def by_loops(
    edges: Tensor, nodes: int, x: Tensor, z: Tensor, types: Tensor, weight: Tensor, message: str, reduce: str
) -> Tensor:
    rows = []
    for i in range(nodes):
        found = []
        for e in range(edges.size(1)):
            if int(edges[1, e]) == i:
                made = MESSAGES[message](x[int(edges[0, e])].tolist(), z[int(types[e])].tolist())
                found.append([float(weight[e]) * value for value in made])
        columns = list(zip(*found, strict=True)) if found else [()] * x.size(1)
        rows.append([REDUCTIONS[reduce](list(c)) if c else 0.0 for c in columns])
    return torch.tensor(rows, dtype=x.dtype)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("message", MESSAGES)
def test_by_loops(message: str, reduce: str) -> None:
    for name in ("typical", "isolated", "bipartite"):
        pattern = PATTERNS[name]
        g = torch.Generator().manual_seed(1)
        e = pattern.edge_index.size(1)
        x, z, w = (torch.randn(*s, generator=g).double() for s in ((pattern.num_src, 6), (4, 6), (e,)))
        types = torch.randint(4, (e,), generator=g)
        got = ops.rspmm(pattern.graph(), x, z, types, w, message, reduce)
        close(got, by_loops(pattern.edge_index, pattern.num_dst, x, z, types, w, message, reduce), torch.float64)


@pytest.mark.parametrize(
    ("message", "reduce", "want"),
    [
        # Messages into 1: from 0 by 0, from 2 by 1, from 0 by 0. Into 2: from 1 by 1, from 0 by 1.
        ("mul", "sum", [0.0, 3 * 1 + 5 * 4 + 3 * 1, 5 * 2 + 5 * 1]),
        ("mul", "mean", [0.0, 26 / 3, 7.5]),
        ("add", "sum", [0.0, 4.0 + 9 + 4, 7.0 + 6]),
        ("add", "max", [0.0, 9.0, 7.0]),
        ("mul", "min", [0.0, 3.0, 5.0]),
    ],
)
def test_by_hand(message: str, reduce: str, want: list[float]) -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x, z = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[3.0], [5.0]])
    assert ops.rspmm(graph, x, z, TYPES, None, message, reduce).flatten().tolist() == pytest.approx(want)


def test_a_rotation_turns() -> None:
    """By a quarter, twice."""
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)
    turn = cmath.rect(1, cmath.pi / 2)
    z = torch.tensor([[turn.real, turn.imag]])
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    types = torch.zeros(2, dtype=torch.long)
    for _ in range(2):
        x = ops.rspmm(graph, x, z, types, None, "rotate")
    torch.testing.assert_close(x[2], torch.tensor([-3.0, -4.0]))


@pytest.mark.parametrize("message", MESSAGES)
def test_queries_are_as_many_calls(message: str) -> None:
    """With an axis of queries in x, in the relations, or in both: a call for each."""
    graph = MEDIUM["typical"].graph()
    g = torch.Generator().manual_seed(2)
    types = torch.randint(3, (graph.num_edges,), generator=g)
    x, z = torch.randn(graph.num_src, 2, 6, generator=g), torch.randn(3, 2, 6, generator=g)
    for reduce in REDUCTIONS:
        for first, second in ((x, z), (x[:, 0], z), (x, z[:, 0])):
            got = ops.rspmm(graph, first, second, types, None, message, reduce)
            for k in range(2):
                one = [v if v.dim() == 2 else v[:, k] for v in (first, second)]
                close(got[:, k], ops.rspmm(graph, *one, types, None, message, reduce), torch.float32)


def test_of_equal_extremes_the_edge_given_first_gets_the_gradient() -> None:
    graph = Graph.from_edge_index(torch.tensor([[1, 0, 1], [0, 0, 1]]))
    types = torch.tensor([1, 0, 0])
    for message in MESSAGES:
        z = torch.ones(2, 2, requires_grad=True)
        ops.rspmm(graph, torch.ones(2, 2), z, types, None, message, "max").sum().backward()
        assert z.grad is not None
        # Of node 0 the edge of relation 1 was given first; node 1 has one edge, of relation 0.
        assert z.grad.sum(1).tolist() == [2.0, 2.0]


# ---------------------------------------------------------------------------------------------------------- the plan


def test_types_are_sorted_once() -> None:
    graph, types = MEDIUM["typical"].graph(), torch.zeros(700, dtype=torch.long)
    first = relations("rspmm", graph, types, 3)
    assert relations("rspmm", graph, types, 3) is first
    types[5] = 2  # a change in place is seen
    second = relations("rspmm", graph, types, 3)
    assert second is not first and second.rel_ptr.tolist() == [0, 699, 699, 700]
    assert relations("rspmm", graph, types, 4).rel_ptr.tolist() == [0, 699, 699, 700, 700]
    kept = graph._lazy["relations"]
    assert len(kept) == 1
    del types, first, second
    gc.collect()
    assert len(kept) == 0


def test_types_of_inference_mode_are_not_kept() -> None:
    graph = MEDIUM["typical"].graph()
    with torch.inference_mode():
        types = torch.zeros(700, dtype=torch.long)
        ops.rspmm(graph, torch.ones(60, 2), torch.ones(1, 2), types)
    assert len(graph._lazy["relations"]) == 0


def test_the_plan_names_every_edge() -> None:
    pattern = MEDIUM["bipartite"]
    graph, e = pattern.graph(), pattern.edge_index.size(1)
    types = torch.randint(5, (e,), generator=torch.Generator().manual_seed(3))
    plan = relations("rspmm", graph, types, 5)
    assert plan.rel_id is not None
    ids = plan.rel_id.long()
    assert torch.equal(ids.sort().values, torch.arange(e))
    assert torch.equal(torch.stack([plan.rel_src, plan.rel_dst]).long(), pattern.edge_index[:, ids])
    assert torch.equal(types[ids], torch.arange(5).repeat_interleave(plan.rel_ptr.diff()))
    assert graph.t().edge_id is not None
    assert torch.equal(plan.type_src.long(), types[graph.t().edge_id.long()])


# ----------------------------------------------------------------------------------------------------------- refused

GRAPH = PATTERNS["bipartite"].graph()  # 7 sources, 3 destinations, 9 edges
SRC, REL, KIND = torch.randn(7, 4), torch.randn(2, 4), torch.zeros(9, dtype=torch.long)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND, None, "sub"),
            ValueError,
            "rspmm: message must be one of mul, add, rotate, got 'sub'",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND, None, "mul", "std"),
            ValueError,
            "rspmm: reduce must be one of sum, mean, max, min, got 'std'",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL[:, :3], KIND),
            ValueError,
            "rspmm: relation must have shape [R, d] or [R, B, d] with d = 4, got [2, 3]",
        ),
        (
            lambda: ops.rspmm(GRAPH, torch.randn(7, 2, 4), torch.randn(2, 3, 4), KIND),
            ValueError,
            "rspmm: x and relation must have as many queries, got [7, 2, 4] and [2, 3, 4]",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC[:, :3], REL[:, :3], KIND, None, "rotate"),
            ValueError,
            "rspmm: rotate needs real and imaginary parts, an even number of columns, got 3",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND[:8]),
            ValueError,
            "rspmm: edge_type must have shape [E] = [9], got [8]",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND.float()),
            TypeError,
            "rspmm: edge_type must be an int32 or int64 tensor, got float32",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND + 2),
            IndexError,
            "rspmm: edge_type must be in [0, R) = [0, 2), got 2",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND - 1),
            IndexError,
            "rspmm: edge_type must be in [0, R) = [0, 2), got -1",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, REL, KIND, torch.randn(9, 2)),
            ValueError,
            "rspmm: weight must have shape [E] = [9], got [9, 2]",
        ),
        (
            lambda: ops.rspmm(GRAPH, SRC, None, KIND),  # type: ignore[arg-type]
            TypeError,
            "rspmm: relation must be a tensor, got NoneType; wrap it in torch.as_tensor",
        ),
    ],
)
def test_refused(make: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("message", MESSAGES)
def test_axes_of_length_zero(message: str, reduce: str) -> None:
    """Neither columns nor queries nor edges nor nodes."""
    nothing = torch.zeros(2, 0, dtype=torch.long)
    for graph, shape in (
        (GRAPH, (7, 0)),
        (GRAPH, (7, 0, 4)),
        (GRAPH, (7, 2, 0)),
        (Graph.from_edge_index(nothing, 7, 3), (7, 4)),
        (Graph.from_edge_index(nothing), (0, 4)),
    ):
        x, z = torch.zeros(shape, requires_grad=True), torch.zeros(2, *shape[1:], requires_grad=True)
        y = ops.rspmm(graph, x, z, KIND[: graph.num_edges], None, message, reduce)
        assert y.shape == (graph.num_dst, *shape[1:])
        y.sum().backward()
        assert x.grad is not None and z.grad is not None and not x.grad.any()


def test_mixed_dtypes_are_promoted() -> None:
    y = ops.rspmm(GRAPH, SRC.bfloat16(), REL, KIND)
    assert y.dtype == torch.float32
    assert torch.equal(y, ops.rspmm(GRAPH, SRC.bfloat16().float(), REL, KIND))

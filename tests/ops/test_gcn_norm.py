"""gcn_norm against PyG's, and by hand."""

from __future__ import annotations

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS, Pattern
from torch import Tensor

from fastgmtl import Graph, backend, ops

SQUARE = {n: p for n, p in MEDIUM.items() if p.num_src == p.num_dst} | {"empty": PATTERNS["empty"]}


@pytest.mark.parametrize("improved", [False, True])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pattern", SQUARE.values(), ids=SQUARE.keys())
def test_gcn_norm_is_pyg_s(pattern: Pattern, weighted: bool, loops: bool, improved: bool) -> None:
    gcn_norm = pytest.importorskip("torch_geometric.nn.conv.gcn_conv", reason="needs torch-geometric").gcn_norm
    n = pattern.num_src
    weight = (
        torch.rand(pattern.edge_index.size(1), generator=cases.generator("norm"), dtype=torch.float64)
        if weighted
        else None
    )
    graph, got = ops.gcn_norm(pattern.graph(), weight, loops, improved, dtype=torch.float64)
    # Without weights PyG gives the loops of an improved normalisation weight 1, against its documentation.
    theirs = torch.ones(pattern.edge_index.size(1), dtype=torch.float64) if improved and weight is None else weight
    edges, want = gcn_norm(pattern.edge_index, theirs, n, improved, loops, "source_to_target", torch.float64)
    # As matrices: here loops that moved to the end stay with weight 0, and parallel loops add up in both.
    dense = [
        torch.zeros(n, n, dtype=torch.float64).index_put_((e[1], e[0]), w, accumulate=True)
        for e, w in ((graph.edge_index(), got), (edges, want))
    ]
    torch.testing.assert_close(*dense, rtol=1e-10, atol=1e-12)
    assert got.dtype == torch.float64 and got.shape == (graph.num_edges,)


@pytest.mark.parametrize("improved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pattern", SQUARE.values(), ids=SQUARE.keys())
def test_the_fused_step_is_the_composition(pattern: Pattern, dtype: torch.dtype, improved: bool) -> None:
    found, weight = ops.gcn_norm(pattern.graph(), improved=improved, dtype=dtype)
    with backend.use_backend("reference"):
        wanted, composed = ops.gcn_norm(pattern.graph(), improved=improved, dtype=dtype)
    assert torch.equal(found.row_ptr, wanted.row_ptr) and torch.equal(found.col.long(), wanted.col.long())
    torch.testing.assert_close(weight, composed, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)


def test_gcn_norm_keeps_the_weight_of_a_loop() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 0, 1], [0, 1, 0]]))
    looped, weight = ops.gcn_norm(graph, torch.tensor([3.0, 1.0, 1.0]))
    dense = torch.zeros(2, 2).index_put_(tuple(looped.edge_index().flip(0)), weight, accumulate=True)
    # Degrees 3 + 1 and 1 + 1.
    torch.testing.assert_close(dense, torch.tensor([[3 / 4, 1 / 8**0.5], [1 / 8**0.5, 1 / 2]]))


def test_gcn_norm_is_differentiable_twice() -> None:
    graph = PATTERNS["self_loops"].graph()
    weight = (
        torch.rand(graph.num_edges, dtype=torch.float64, generator=cases.generator("twice")) + 0.5
    ).requires_grad_()

    def norm(weight: Tensor) -> Tensor:
        return ops.gcn_norm(graph, weight)[1]

    assert torch.autograd.gradcheck(norm, weight)
    assert torch.autograd.gradgradcheck(norm, weight)


def test_gcn_norm_of_rows_without_weight_is_zero() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 3)
    weight = torch.zeros(2, requires_grad=True)
    _, norm = ops.gcn_norm(graph, weight, add_self_loops=False)
    norm.sum().backward()
    assert norm.tolist() == [0.0, 0.0]
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_gcn_norm_refuses() -> None:
    graph = PATTERNS["typical"].graph()
    for weight, error, text in (
        (
            torch.zeros(9, dtype=torch.long),
            TypeError,
            "gcn_norm: weight must be floating point, got int64; convert it with .float()",
        ),
        (torch.zeros(4), ValueError, "gcn_norm: weight must have shape [E] or [E, T] = [9, T], got [4]"),
    ):
        with pytest.raises(error) as caught:
            ops.gcn_norm(graph, weight)
        assert str(caught.value) == text
    with pytest.raises(ValueError, match=r"gcn_norm: the graph must have as many sources as destinations, got 7 and 3"):
        ops.gcn_norm(PATTERNS["bipartite"].graph(), add_self_loops=False)


@pytest.mark.parametrize("loops", [False, True])
def test_weights_of_tasks_are_normalised_each_by_itself(loops: bool) -> None:
    graph = MEDIUM["typical"].graph()
    weight = torch.rand(graph.num_edges, 3, dtype=torch.float64, generator=cases.generator("tasks"))
    got = ops.gcn_norm(graph, weight, loops)[1]
    for t in range(3):
        torch.testing.assert_close(got[:, t], ops.gcn_norm(graph, weight[:, t], loops)[1])

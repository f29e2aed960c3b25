"""GINEConv against PyTorch Geometric's, itself and accelerated: values, gradients, parameters, forms of edges."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

import fastgmtl
from fastgmtl import Graph, nn
from fastgmtl.accelerate import small

pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of these tests")
EdgeIndex = pytest.importorskip("torch_geometric").EdgeIndex
assert_module = pytest.importorskip("torch_geometric.testing").assert_module

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
N, F, D = 12, 6, 4
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "edge_dim": {"edge_dim": D, "eps": 0.5, "train_eps": True},
    "mean": {"edge_dim": D, "aggr": "mean"},
    "backwards": {"flow": "target_to_source"},
}


def mlp() -> tnn.Module:
    return tnn.Sequential(tnn.Linear(F, 7), tnn.ReLU(), tnn.Linear(7, 4))


def made(source: Any, case: str) -> Any:
    torch.manual_seed(7)
    return source.GINEConv(mlp(), **CASES[case])


def attributes(case: str, edges: Tensor) -> Tensor:
    return torch.randn(edges.size(1), D if "edge_dim" in CASES[case] else F)


def outcome(layer: tnn.Module, x: Any, edges: Any, edge_attr: Tensor, *args: Any) -> list[Tensor]:
    """The output and all gradients, for a loss that is not symmetric."""
    leaves = [t.clone().requires_grad_() for t in (*(x if isinstance(x, tuple) else (x,)), edge_attr) if t is not None]
    given = (leaves[0], leaves[1] if len(leaves) > 2 else None) if isinstance(x, tuple) else leaves[0]
    out = layer(given, edges, leaves[-1], *args)
    loss = (out.double() * torch.arange(1, out.numel() + 1).view(out.shape).sin()).sum()
    return [out, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["fastgmtl.nn", "accelerate_"])
def both(request: pytest.FixtureRequest) -> Any:
    """PyG's layer of a case and ours, with the same parameters."""

    def make(case: str) -> tuple[Any, Any]:
        theirs = made(pyg, case)
        if request.param == "fastgmtl.nn":
            return theirs, made(nn, case)
        ours = copy.deepcopy(theirs)
        (row,) = fastgmtl.accelerate_(ours).swapped
        assert (row.now, row.kernel) == ("FastGINEConv", "relu_sum")
        return theirs, ours

    with small.always():
        yield make


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, both: Any, x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = both(case)
    for edges in (edge_index, torch.empty(2, 0, dtype=torch.long)):
        edge_attr = attributes(case, edges)
        want = outcome(theirs, x, edges, edge_attr)
        assert_same(outcome(ours, x, edges, edge_attr), want)
        assert_same(outcome(ours, x, Graph.from_edge_index(edges, N, N), edge_attr), want)
        assert_same(outcome(ours, x, EdgeIndex(edges, sparse_size=(N, N)), edge_attr), want)
    assert not hasattr(ours, "_calls") or ours._calls == {"": 6}


def test_bipartite(both: Any) -> None:
    theirs, ours = both("edge_dim")
    edges = torch.stack([torch.randint(0, 9, (20,)), torch.randint(0, 4, (20,))])
    edge_attr, src = attributes("edge_dim", edges), torch.randn(9, F)
    for x, size in (((src, torch.randn(5, F)), None), ((src, torch.randn(5, F)), (9, 5))):
        assert_same(outcome(ours, x, edges, edge_attr, size), outcome(theirs, x, edges, edge_attr, size))
    got, want = (layer((src, None), edges, edge_attr, (9, 5)) for layer in (ours, theirs))
    assert_same([got], [want])


@pytest.mark.parametrize("case", ["plain", "edge_dim"])
def test_assert_module(case: str, both: Any, x: Tensor, simple_edges: Tensor) -> None:
    _, ours = both(case)
    with warnings.catch_warnings():  # assert_module adds a filter of its own
        assert_module(
            ours,
            x,
            simple_edges,
            edge_attr=attributes(case, simple_edges),
            expected_size=(N, 4),
            test_sparse_layouts=[],
            atol=1e-5,
        )


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_pyg_s(case: str) -> None:
    theirs, ours = made(pyg, case), made(nn, case)
    for _ in range(2):
        state = ours.state_dict()
        assert list(state) == list(theirs.state_dict())
        assert all(torch.equal(state[key], value) for key, value in theirs.state_dict().items())
        for layer in (theirs, ours):
            torch.manual_seed(11)
            layer.reset_parameters()
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())


def test_autocast_and_half(both: Any, x: Tensor, edge_index: Tensor) -> None:
    theirs, ours = both("edge_dim")
    edge_attr = attributes("edge_dim", edge_index)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(x, edge_index, edge_attr), theirs(x, edge_index, edge_attr)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got.float(), want.float(), rtol=2e-2, atol=2e-2 * float(want.detach().abs().max()))


def test_what_has_no_kernel_is_the_parent_s(x: Tensor, simple_edges: Tensor) -> None:
    maximum = pyg.GINEConv(mlp(), aggr="max")
    (row,) = fastgmtl.accelerate_(maximum).left_alone
    assert row.reason == "no kernel for aggr='max'"
    layer = made(pyg, "plain")
    fastgmtl.accelerate_(layer)
    whole = torch.randint(-3, 3, (simple_edges.size(1), F))
    with small.always():
        torch.testing.assert_close(layer(x, simple_edges, whole), made(pyg, "plain")(x, simple_edges, whole))
        with pytest.raises((TypeError, AttributeError)):
            layer(x, simple_edges)
    assert layer._calls == {"edge features of another form": 2}
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is type(layer) and fastgmtl.deaccelerate_(again) == 1 and type(again) is pyg.GINEConv


def test_tasks_are_layers_side_by_side(x: Tensor, edge_index: Tensor) -> None:
    """Whichever of nodes and edges have features for each task."""
    tasks, edge_attr = 3, attributes("edge_dim", edge_index)
    for dim, given in ((D, edge_attr), (None, torch.randn(edge_index.size(1), tasks, F))):
        maps = nn.Linear(F, 4, num_tasks=tasks)
        layer = nn.GINEConv(maps, 0.3, edge_dim=dim, num_tasks=tasks)
        for features in (x, torch.randn(N, tasks, F)):
            out = layer(features, edge_index, given)
            for t in range(tasks):
                one = nn.GINEConv(nn.Linear(F, 4), 0.3, edge_dim=dim)
                state = {k: v if k == "eps" else v[t] for k, v in layer.state_dict().items()}
                one.load_state_dict(state)
                mine = (v if v.dim() == 2 else v[:, t] for v in (features, given))
                first, second = mine
                torch.testing.assert_close(out[:, t], one(first, edge_index, second), rtol=1e-5, atol=1e-5)


def test_refused(x: Tensor, simple_edges: Tensor) -> None:
    layer = made(nn, "plain")
    e = torch.randn(simple_edges.size(1), F)
    coo = torch.sparse_coo_tensor(simple_edges, torch.ones(simple_edges.size(1)), (N, N))
    for call, text in (
        (lambda: layer(x, simple_edges), r"GINEConv: edge_attr must be given, features of edges \[E, D\]"),
        (lambda: layer(x, coo, e), "GINEConv: edges must be an edge_index or a fastgmtl.Graph beside edge_attr"),
        (lambda: layer(x, simple_edges, e[:, :2]), r"edge_attr must have shape \[E, F\] = \[\d+, 6\].*; give edge_dim"),
        (lambda: layer(x, simple_edges, e[:2]), r"edge_attr must have shape \[E, F\] = \[\d+, 6\], got \[2, 6\]"),
        (lambda: nn.GINEConv(mlp(), aggr="max"), "GINEConv: aggr must be one of add, sum, mean, got 'max'"),
        (lambda: nn.GINEConv(tnn.ReLU(), edge_dim=3), "GINEConv: nn must begin with a linear map .* got ReLU"),
    ):
        with pytest.raises(ValueError, match=text):
            call()

"""RGCNConv against PyTorch Geometric's, its tasks against separate layers, and what it refuses."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn
from fastgmtl.nn import relations

N, F, R, T = 12, 6, 4, 3

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {  # C, R
    "mean": (5, R, {}),
    "sum": (5, R, {"aggr": "sum"}),
    "max": (5, R, {"aggr": "max", "bias": False}),
    "min": (5, R, {"aggr": "min"}),
    "no-root": (5, R, {"root_weight": False}),
    "bases": (5, R, {"num_bases": 2}),
    "blocks": (4, R, {"num_blocks": 2}),
    "one-relation": (5, 1, {}),
    "many": (5, 40, {}),  # most rows (node, relation) are empty: a product for each relation
    "many-max": (5, 40, {"aggr": "max"}),
    "many-bases": (5, 40, {"num_bases": 3, "aggr": "sum"}),
    "backwards": (5, R, {"flow": "target_to_source"}),
}


@pytest.fixture
def pyg() -> Any:
    return pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of these tests")


@pytest.fixture
def edges() -> Tensor:
    """Unsorted; the last node is isolated."""
    return torch.randint(0, N - 1, (2, 60), generator=torch.Generator().manual_seed(1)).unique(dim=1)


def types(edges: Tensor, count: int) -> Tensor:
    return torch.randint(0, count, (edges.size(1),), generator=torch.Generator().manual_seed(2))


def make(case: str, source: Any = nn, **more: Any) -> tnn.Module:
    width, count, kwargs = CASES[case]
    torch.manual_seed(7)
    return source.RGCNConv(F, width, count, **kwargs, **more)


def outcome(layer: tnn.Module, x: Any, *args: Any) -> list[Tensor]:
    leaves = [v.clone().requires_grad_() for v in (x if isinstance(x, tuple) else (x,))]
    out = layer(tuple(leaves) if isinstance(x, tuple) else leaves[0], *args)
    loss = (out.double() * torch.arange(1, out.numel() + 1).view(out.shape).sin()).sum()
    inputs = [*leaves, *layer.parameters()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["edge_index", "graph", "int32"])
def test_values_and_gradients(case: str, kind: str, pyg: Any, x: Tensor, edges: Tensor) -> None:
    theirs, ours = make(case, pyg), make(case)
    kinds = types(edges, CASES[case][1])
    given: Any = Graph.from_edge_index(edges, N, N) if kind == "graph" else edges.int() if kind == "int32" else edges
    want = outcome(theirs, x, edges, kinds)
    for _ in range(2):  # the second time on what was kept
        assert_same(outcome(ours, x, given, kinds), want)
    assert (
        relations.relations_of("", edges, kinds, N, N, CASES[case][1], False).present() is not None
    ) == case.startswith("many")


@pytest.mark.parametrize("case", CASES)
def test_same_seed_gives_the_same_parameters_and_names(case: str, pyg: Any, x: Tensor, edges: Tensor) -> None:
    theirs, ours = make(case, pyg), make(case)
    for _ in range(2):
        state, expected = ours.state_dict(), theirs.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], value) for key, value in expected.items())
        for layer in (theirs, ours):
            torch.manual_seed(11)
            layer.reset_parameters()
    assert repr(ours) == repr(theirs)
    for p in theirs.parameters():
        tnn.init.normal_(p)
    ours.load_state_dict(theirs.state_dict())
    kinds = types(edges, CASES[case][1])
    assert_same([ours(x, edges, kinds)], [theirs(x, edges, kinds)])


@pytest.mark.parametrize("case", ["mean", "many"])
def test_assert_module(case: str, pyg: Any, x: Tensor, edges: Tensor) -> None:
    assert_module = pytest.importorskip("torch_geometric.testing").assert_module
    kinds = types(edges, CASES[case][1])
    # In sparse layouts it would give the edges in another order than their types.
    assert_module(make(case), x, edges, edge_type=kinds, expected_size=(N, 5), test_sparse_layouts=[], atol=1e-6)


@pytest.mark.parametrize("case", ["mean", "max", "bases", "many"])
def test_embeddings(case: str, pyg: Any, edges: Tensor) -> None:
    """No features: nodes are numbers of rows of the matrices; all of them, some of them, and pairs."""
    edges = edges[:, (edges < F).all(0)]
    kinds, theirs, ours = types(edges, CASES[case][1]), make(case, pyg), make(case)
    for x in (None, torch.tensor([3, 1, 0, 5, 2, 2]), (torch.tensor([3, 1, 0, 5, 2, 2]), torch.arange(6))):
        results = []
        for layer in (ours, theirs):
            out = layer(x, edges, kinds)
            grads = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
            results.append([out, *grads])
        assert_same(*results)


def test_bipartite(pyg: Any) -> None:
    edges = torch.stack([torch.randint(0, 9, (20,)), torch.randint(0, 5, (20,))])
    x, kinds = (torch.randn(9, 3), torch.randn(5, 8)), types(edges, R)
    theirs = pyg.RGCNConv((3, 8), 4, R)
    ours = nn.RGCNConv((3, 8), 4, R)
    ours.load_state_dict(theirs.state_dict())
    assert_same(outcome(ours, x, edges, kinds), outcome(theirs, x, edges, kinds))
    assert_same(outcome(ours, x, Graph.from_edge_index(edges, 9, 5), kinds), outcome(theirs, x, edges, kinds))


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state", "ignore:.*invariant checks.*")
def test_the_values_of_a_sparse_matrix_are_types(x: Tensor, edges: Tensor) -> None:
    layer, kinds = make("mean"), types(edges, R)
    adj_t = torch.sparse_coo_tensor(edges.flip(0), kinds.float(), (N, N), check_invariants=True).coalesce()
    assert_same([layer(x, adj_t)], [layer(x, edges, kinds)])


@pytest.mark.parametrize("case", [c for c in CASES if c != "backwards"])
@pytest.mark.parametrize("per_task", [False, True], ids=["shared", "per-task"])
def test_tasks_equal_separate_layers(case: str, per_task: bool, edges: Tensor) -> None:
    joint, layers = make(case, num_tasks=T), [make(case) for _ in range(T)]
    for layer in layers:
        for p in layer.parameters():
            tnn.init.normal_(p)
    state = {k: torch.stack([layer.state_dict()[k] for layer in layers]) for k in joint.state_dict()}
    joint.load_state_dict(state)
    kinds, x = types(edges, CASES[case][1]), torch.randn(N, T, F) if per_task else torch.randn(N, F)
    ours = outcome(joint, x, edges, kinds)
    each = [layer(x[:, t] if per_task else x, edges, kinds) for t, layer in enumerate(layers)]
    torch.testing.assert_close(ours[0], torch.stack(each, 1), rtol=1e-4, atol=1e-4)
    probe = torch.arange(1, ours[0].numel() + 1).view(ours[0].shape).sin()
    loss = (torch.stack(each, 1).double() * probe).sum()
    for (name, _), grad in zip(joint.named_parameters(), ours[2:], strict=True):
        parts = torch.autograd.grad(loss, [dict(layer.named_parameters())[name] for layer in layers], retain_graph=True)
        torch.testing.assert_close(grad, torch.stack(parts), rtol=1e-4, atol=1e-4)


def test_tasks_of_embeddings(edges: Tensor) -> None:
    edges = edges[:, (edges < F).all(0)]
    kinds, joint, single = types(edges, R), make("mean", num_tasks=2), make("mean")
    joint.load_state_dict({k: torch.stack([v, 2 * v]) for k, v in single.state_dict().items()})
    out = single(None, edges, kinds)
    torch.testing.assert_close(joint(None, edges, kinds), torch.stack([out, 2 * out], 1))


@pytest.mark.parametrize("case", ["mean", "blocks", "many", "many-bases"])
@pytest.mark.parametrize("tasks", [None, 2])
def test_second_derivatives(case: str, tasks: int | None, edges: Tensor) -> None:
    layer = make(case, num_tasks=tasks).double()
    edges = edges[:, :14]
    kinds, names = types(edges, CASES[case][1]), [k for k, _ in layer.named_parameters()]
    x = torch.randn(N, F, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *rest: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, rest, strict=True)), (x, edges, kinds)).square()

    inputs = [x, *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("case", ["mean", "many"])
def test_compile_without_graph_breaks(case: str, x: Tensor, edges: Tensor) -> None:
    torch._dynamo.reset()
    layer, kinds = make(case), types(edges, CASES[case][1])
    expected = layer(x, edges, kinds)
    out = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, edges, kinds)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    found, want = (torch.autograd.grad(o.square().sum(), list(layer.parameters())) for o in (out, expected))
    assert_same(list(found), list(want))


@pytest.mark.parametrize("case", ["mean", "many"])
def test_no_edges_and_no_nodes(case: str, x: Tensor) -> None:
    layer, none = make(case), torch.empty(2, 0, dtype=torch.long)
    torch.testing.assert_close(layer(x, none, none[0]), x @ layer.root + layer.bias)
    assert layer(x[:0], none, none[0]).shape == (0, 5)


def test_patterns_are_kept_until_something_changes(x: Tensor, edges: Tensor) -> None:
    layer, kinds = make("mean"), types(edges, R)
    first = layer(x, edges, kinds)
    kept = relations.relations_of("", edges, kinds, N, N, R, False)
    assert relations.relations_of("", edges, kinds, N, N, R, False) is kept
    assert relations.relations_of("", edges.clone(), kinds, N, N, R, False) is not kept
    edges[0, 0] = (edges[0, 0] + 1) % N
    changed = layer(x, edges, kinds)
    assert not torch.equal(changed, first)
    kinds[0] = (kinds[0] + 1) % R
    assert not torch.equal(layer(x, edges, kinds), changed)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x, edges.clone(), kinds.clone()), layer(x, edges, kinds))
    before = len(relations._known)
    del kinds
    gc.collect()
    assert len(relations._known) < before


def test_same_bits_from_run_to_run_and_after_a_copy(x: Tensor, edges: Tensor) -> None:
    layer, kinds = make("many"), types(edges, 40)
    runs = [outcome(copy.deepcopy(layer), x, edges, kinds.clone()) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


X, E, K = torch.zeros(3, F), torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: nn.RGCNConv(F, 4, R, num_bases=2, num_blocks=2),
            ValueError,
            "num_bases or num_blocks must be None, got 2 and 2",
        ),
        (
            lambda: nn.RGCNConv(F, 5, R, num_blocks=2),
            ValueError,
            "num_blocks must divide in_channels and out_channels, got 2 for 6 and 5",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R)(X, E),
            ValueError,
            "edge_type must be given: a type for each edge, or a sparse matrix of them",
        ),
        (lambda: nn.RGCNConv(F, 4, R)(X, E, K[:1]), ValueError, "edge_type must be a tensor [E] = [2], got [1]"),
        (
            lambda: nn.RGCNConv(F, 4, R)(X, E, K.float()),
            TypeError,
            "edge_type must be int32 or int64, got float32; convert it with .long()",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R)(X, E, torch.tensor([0, 4])),
            IndexError,
            "every edge_type must be in [0, 4), edge 1 has 4",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R)(X, Graph.from_edge_index(E, 4), K),
            ValueError,
            "the graph has 4 sources and 4 destinations, the features are for 3 and 3",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R, num_blocks=2)(None, E, K),
            ValueError,
            "x must be features where num_blocks is given, got int64",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R, flow="target_to_source")((X, X), E, K),
            ValueError,
            "flow must be source_to_target for a pair (x_src, x_dst), got 'target_to_source'; turn the edges round "
            "instead, with edge_index.flip(0)",
        ),
        (
            lambda: nn.RGCNConv(F, 4, R, aggr="median"),
            ValueError,
            "aggr must be one of sum, add, mean, max, min, got 'median'",
        ),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == "RGCNConv: " + text

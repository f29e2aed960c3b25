"""HGTConv against PyTorch Geometric's, its tasks against separate layers, and what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import HeteroGraph, hetero, nn

NODES = {"author": 5, "paper": 9, "term": 4}
WIDTHS = {"author": 6, "paper": 8, "term": 3}
RELATIONS = [
    ("author", "to", "paper"),
    ("paper", "to", "author"),
    ("term", "in", "paper"),
    ("paper", "cites", "paper"),
    ("paper", "cites.twice", "paper"),  # no edges
]
METADATA = (list(NODES), RELATIONS)  # nothing points to a term
C, H, T = 8, 2, 3


@pytest.fixture
def edges() -> dict[tuple[str, str, str], Tensor]:
    g = torch.Generator().manual_seed(3)
    found = {}
    for i, (src, name, dst) in enumerate(RELATIONS):
        count = 0 if "." in name else 10 + 3 * i
        # The last paper has no edge.
        ends = [torch.randint(NODES[t] - (t == "paper"), (count,), generator=g) for t in (src, dst)]
        found[src, name, dst] = torch.stack(ends)
    return found


@pytest.fixture
def x() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(4)
    return {t: torch.randn(n, WIDTHS[t], generator=g) for t, n in NODES.items()}


def make(source: Any = nn, heads: int = H, in_channels: Any = WIDTHS, **more: Any) -> tnn.Module:
    torch.manual_seed(7)
    return source.HGTConv(in_channels, C, METADATA, heads, **more)


def outcome(layer: tnn.Module, x: dict[str, Tensor], edges: Any) -> list[Tensor]:
    leaves = {t: v.clone().requires_grad_() for t, v in x.items()}
    out = layer(leaves, edges)
    loss = sum((v.double() * torch.arange(1, v.numel() + 1).view(v.shape).sin()).sum() for v in out.values())
    inputs = [*leaves.values(), *layer.parameters()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)  # type: ignore[arg-type]
    return [*out.values(), *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def pyg() -> Any:
    return pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of these tests")


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("kind", ["dict", "graph"])
def test_values_and_gradients(heads: int, kind: str, pyg: Any, x: Any, edges: Any) -> None:
    theirs, ours = make(pyg, heads), make(heads=heads)
    for layer in (theirs, ours):  # priors and skips that are not all one
        torch.manual_seed(1)
        for p in layer.parameters():
            tnn.init.normal_(p, std=0.5)
    given = HeteroGraph.from_dict(edges, NODES) if kind == "graph" else edges
    assert list(ours(x, given)) == list(theirs(x, edges)) == ["author", "paper"]
    want = outcome(theirs, x, edges)
    for _ in range(2):  # the second time on what was kept
        assert_same(outcome(ours, x, given), want)


def test_same_seed_gives_the_same_parameters_and_names(pyg: Any, x: Any, edges: Any) -> None:
    theirs, ours = make(pyg), make()
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
    assert_same(list(ours(x, edges).values()), list(theirs(x, edges).values()))
    other = make(pyg)
    other.load_state_dict(ours.state_dict())
    assert_same(list(ours(x, edges).values()), list(other(x, edges).values()))


def test_lazy(pyg: Any, x: Any, edges: Any) -> None:
    theirs, ours = make(pyg, in_channels=-1), make(in_channels=-1)
    expected = theirs(x, edges)
    ours.load_state_dict(theirs.state_dict())
    assert_same(list(ours(x, edges).values()), list(expected.values()))
    fresh = make(in_channels=-1)
    fresh(x, edges)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state", "ignore:.*invariant checks.*")
def test_sparse_matrices(x: Any, edges: Any) -> None:
    layer = make()
    sparse = {}
    for (src, name, dst), e in edges.items():
        pairs = e.unique(dim=1) if e.numel() else e
        edges[src, name, dst] = pairs
        size = (NODES[dst], NODES[src])
        sparse[src, name, dst] = torch.sparse_coo_tensor(
            pairs.flip(0), torch.ones(pairs.size(1)), size, check_invariants=True
        ).coalesce()
    assert_same(list(layer(x, sparse).values()), list(layer(x, edges).values()))


@pytest.mark.parametrize("per_task", [False, True], ids=["shared", "per-task"])
def test_tasks_equal_separate_layers(per_task: bool, x: Any, edges: Any) -> None:
    joint, layers = make(num_tasks=T), [make() for _ in range(T)]
    for layer in layers:
        for p in layer.parameters():
            tnn.init.normal_(p, std=0.5)
    state = {k: torch.stack([layer.state_dict()[k] for layer in layers]) for k in joint.state_dict()}
    joint.load_state_dict(state)
    graph = HeteroGraph.from_dict(edges, NODES)
    given = {t: torch.randn(v.size(0), T, v.size(1)) for t, v in x.items()} if per_task else x
    ours = outcome(joint, given, graph)
    each = [layer({t: v[:, i] for t, v in given.items()} if per_task else x, graph) for i, layer in enumerate(layers)]
    want = [torch.stack([out[t] for out in each], 1) for t in ("author", "paper")]
    assert_same(ours[:2], want)
    loss = sum((w.double() * torch.arange(1, w.numel() + 1).view(w.shape).sin()).sum() for w in want)
    for (name, _), grad in zip(joint.named_parameters(), ours[5:], strict=True):
        parts = torch.autograd.grad(
            loss,  # type: ignore[arg-type]
            [dict(layer.named_parameters())[name] for layer in layers],
            retain_graph=True,
            allow_unused=True,
        )
        stacked = torch.stack([torch.zeros_like(grad[0]) if p is None else p for p in parts])
        torch.testing.assert_close(grad, stacked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tasks", [None, 2])
def test_second_derivatives(tasks: int | None, x: Any, edges: Any) -> None:
    layer = make(num_tasks=tasks).double()
    graph, names = HeteroGraph.from_dict(edges, NODES), [k for k, _ in layer.named_parameters()]
    features = {t: v.double() for t, v in x.items()}

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        out = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (features, graph))
        return tuple(v.square() for v in out.values())

    inputs = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_compile_without_graph_breaks(x: Any, edges: Any) -> None:
    torch._dynamo.reset()
    layer, graph = make(), HeteroGraph.from_dict(edges, NODES)
    expected = layer(x, graph)
    out = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, graph)
    assert_same(list(out.values()), list(expected.values()))
    found, want = (
        torch.autograd.grad(sum(v.square().sum() for v in o.values()), list(layer.parameters()), allow_unused=True)
        for o in (out, expected)
    )
    assert_same([g for g in found if g is not None], [g for g in want if g is not None])


def test_no_edges_at_all(x: Any) -> None:
    none = {r: torch.empty(2, 0, dtype=torch.long) for r in RELATIONS}
    layer = make()
    out = layer(x, none)
    assert_same(list(layer(x, {}).values()), list(out.values()))
    assert torch.equal(out["author"], out["author"][:1].expand(5, -1))  # the bias of the last map alone


def test_graphs_of_dicts_are_kept_until_something_changes(x: Any, edges: Any) -> None:
    graph = hetero.as_hetero(edges, NODES)
    assert hetero.as_hetero(dict(edges), NODES) is graph
    edges["author", "to", "paper"][0, 0] += 1
    edges["author", "to", "paper"][0, 0] %= 5
    changed = hetero.as_hetero(edges, NODES)
    assert changed is not graph
    edges["term", "in", "paper"] = edges["term", "in", "paper"].clone()
    again = hetero.as_hetero(edges, NODES)
    assert again is not changed
    before = len(hetero._known_graphs)
    edges.clear()
    gc.collect()
    assert len(hetero._known_graphs) < before


X = {t: torch.zeros(n, WIDTHS[t]) for t, n in NODES.items()}
NONE = torch.empty(2, 0, dtype=torch.long)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.HGTConv(4, 6, METADATA, 4), "HGTConv: heads must divide out_channels, got 4 for 6"),
        (
            lambda: make()(X | {"venue": torch.zeros(1, 2)}, {}),
            "HGTConv: node type 'venue' must be one of author, paper, term",
        ),
        (
            lambda: make()(X, {("term", "to", "paper"): NONE}),
            "HGTConv: relation ('term', 'to', 'paper') must be one of those of metadata",
        ),
        (
            lambda: make()(X | {"term": torch.zeros(4, 2, 3)}, {}),
            "HGTConv: features of term must have shape [N, F], got [4, 2, 3]",
        ),
        (
            lambda: make(num_tasks=2)(X | {"term": torch.zeros(4, 3, 3)}, {}),
            "HGTConv: features of term must have shape [N, F] or [N, T, F] with T = 2, got [4, 3, 3]",
        ),
        (
            lambda: make()(X, HeteroGraph.from_dict({}, {"author": 5})),
            "the graph has the nodes {'author': 5}, the features are for {'author': 5, 'paper': 9, 'term': 4}",
        ),
    ],
)
def test_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text

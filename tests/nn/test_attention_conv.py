"""GATConv and GATv2Conv beyond what is generated: edge features, pairs of features, weights, dropout, derivatives."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, nn

N, F, D = 12, 6, 3
NAMES = ["GATConv", "GATv2Conv"]


def both(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """PyG's layer and ours with the same numbers in all parameters."""
    pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is the oracle of these tests")
    theirs, ours = getattr(pyg, name)(*args, **kwargs).double(), getattr(nn, name)(*args, **kwargs).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def assert_same(ours: Any, theirs: Any, x: Any, *args: Any, **kwargs: Any) -> None:
    """Values, weights, and the gradients of inputs and parameters."""
    found = []
    for layer in (ours, theirs):
        leaves = [t.detach().clone().requires_grad_() for t in (x if isinstance(x, tuple) else (x,)) if t is not None]
        given = (leaves[0], leaves[1] if len(leaves) > 1 else None) if isinstance(x, tuple) else leaves[0]
        more = [
            a.detach().clone().requires_grad_() if isinstance(a, Tensor) and a.dtype.is_floating_point else a
            for a in args
        ]
        out = layer(given, *more, **kwargs)
        value = out[0] if isinstance(out, tuple) else out
        inputs = [*leaves, *(m for m in more if isinstance(m, Tensor) and m.requires_grad), *layer.parameters()]
        loss = (value * torch.arange(value.numel()).view_as(value).cos()).sum()
        grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        found.append((value, *(out[1] if isinstance(out, tuple) else ()), *grads))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fill", ["mean", "add", "min", "max", "mul", 0.7, "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_edge_features(name: str, fill: Any, edge_index: Tensor) -> None:
    fill = torch.arange(3.0) if fill == "tensor" else fill
    theirs, ours = both(name, F, 4, heads=2, edge_dim=D, fill_value=fill)
    x, edge_attr = torch.randn(N, F, dtype=torch.float64), torch.randn(edge_index.size(1), D, dtype=torch.float64)
    assert_same(ours, theirs, x, edge_index, edge_attr)
    assert_same(ours, theirs, x, edge_index)


@pytest.mark.parametrize("name", NAMES)
def test_backwards_with_two_maps(name: str, edge_index: Tensor) -> None:
    theirs, ours = both(name, (F, F), 4, heads=2, residual=True, flow="target_to_source")
    assert_same(ours, theirs, torch.randn(N, F, dtype=torch.float64), edge_index, return_attention_weights=True)


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_one_feature_an_edge_and_weights(name: str, loops: bool, flow: str, edge_index: Tensor) -> None:
    theirs, ours = both(name, F, 4, heads=2, edge_dim=1, add_self_loops=loops, flow=flow)
    x, edge_attr = torch.randn(N, F, dtype=torch.float64), torch.randn(edge_index.size(1), dtype=torch.float64)
    assert_same(ours, theirs, x, edge_index, edge_attr, return_attention_weights=True)


@pytest.mark.parametrize("sizes", [(9, 5), (5, 9), (7, 7)])
@pytest.mark.parametrize("name", NAMES)
def test_bipartite(name: str, sizes: tuple[int, int]) -> None:
    edges = torch.stack([torch.randint(0, n, (30,)) for n in sizes])
    x = tuple(torch.randn(n, width, dtype=torch.float64) for n, width in zip(sizes, (F, D), strict=True))
    theirs, ours = both(name, (F, D), 4, heads=2, residual=True)
    assert_same(ours, theirs, x, edges, return_attention_weights=True)
    assert_same(ours, theirs, x, edges)


def test_destinations_without_features() -> None:
    theirs, ours = both("GATConv", F, 4, add_self_loops=False)
    edges = torch.stack([torch.randint(0, 9, (30,)), torch.randint(0, 5, (30,))])
    x = (torch.randn(9, F, dtype=torch.float64), None)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, edges, size=(9, 5)), theirs(x, edges, size=(9, 5)), rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="GATv2Conv: x must be a tensor or a pair of tensors"):
        nn.GATv2Conv(F, 4)((torch.randn(9, F), None), edges)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_with_edge_features(name: str, edge_index: Tensor) -> None:
    tasks, kwargs = 3, {"heads": 2, "edge_dim": D}
    layers = [getattr(nn, name)(F, 4, **kwargs) for _ in range(tasks)]
    joint = getattr(nn, name)(F, 4, num_tasks=tasks, **kwargs)
    joint.load_state_dict({k: torch.stack([layer.state_dict()[k] for layer in layers]) for k in joint.state_dict()})
    x, edge_attr = torch.randn(N, tasks, F), torch.randn(edge_index.size(1), D)
    out, (edges, weights) = joint(x, edge_index, edge_attr, return_attention_weights=True)
    for t, layer in enumerate(layers):
        want, (want_edges, alpha) = layer(x[:, t], edge_index, edge_attr, return_attention_weights=True)
        assert torch.equal(edges, want_edges)
        torch.testing.assert_close(out[:, t], want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weights[:, t], alpha, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_only_while_training(name: str, x: Tensor, edge_index: Tensor) -> None:
    layer = getattr(nn, name)(F, 4, dropout=0.5)
    torch.manual_seed(1)
    first = layer(x, edge_index)
    torch.manual_seed(1)
    assert torch.equal(layer(x, edge_index), first)
    assert not torch.equal(layer(x, edge_index), first)
    _, (_, weights) = layer(x, edge_index, return_attention_weights=True)
    assert 0.3 < float((weights == 0).float().mean()) < 0.7
    layer.eval()
    assert torch.equal(layer(x, edge_index), layer(x, edge_index))


@pytest.mark.parametrize("name", NAMES)
def test_second_order(name: str, edge_index: Tensor) -> None:
    layer = getattr(nn, name)(2, 2, heads=2).double()
    x = torch.randn(N, 2, dtype=torch.float64, requires_grad=True)
    graph = Graph.from_edge_index(edge_index, N, N)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, graph), x)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_size_of_edges_times_width_is_kept(name: str) -> None:
    graph = Graph.from_edge_index(torch.randint(0, 50, (2, 3000)), 50, 50)
    layer, x = getattr(nn, name)(8, 32, heads=4), torch.randn(50, 8)
    largest = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        layer(x, graph)
    assert largest <= 3050 * 4


@pytest.mark.parametrize("name", NAMES)
def test_refused(name: str, x: Tensor, edge_index: Tensor) -> None:
    make = getattr(nn, name)
    with pytest.raises(ValueError, match=f"{name}: aggr must be one of sum, add, mean, max, min, got 'median'"):
        make(F, 4, aggr="median")
    with pytest.raises(ValueError, match=f"{name}: fill_value must be a number, a tensor or one of .*, got 'median'"):
        make(F, 4, fill_value="median")
    count = edge_index.size(1)
    for shape in ([3, 2], [count, 3], [count], [count, 2, 1]):
        with pytest.raises(
            ValueError, match=rf"{name}: edge_attr .* \[E, D\] = \[{count}, 2\], got {re.escape(str(shape))}"
        ):
            make(F, 4, edge_dim=2)(x, edge_index, torch.randn(shape))
    with pytest.raises(TypeError, match=f"{name}: edge_attr must be floating point, got int64"):
        make(F, 4, edge_dim=1)(x, edge_index, torch.ones(count, dtype=torch.long))


def test_edge_features_without_a_map(x: Tensor, edge_index: Tensor) -> None:
    edge_attr = torch.randn(edge_index.size(1), D)
    layer = nn.GATConv(F, 4)
    assert torch.equal(layer(x, edge_index, edge_attr), layer(x, edge_index))  # as in PyTorch Geometric
    with pytest.raises(
        ValueError, match="GATv2Conv: edge_attr must be None for a layer that was made without edge_dim"
    ):
        nn.GATv2Conv(F, 4)(x, edge_index, edge_attr)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state", "ignore:.*invariant checks.*")
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_one_value_an_edge_of_a_sparse_matrix_is_no_feature(name: str, loops: bool, simple_edges: Tensor) -> None:
    theirs, ours = both(name, F, 4, edge_dim=1, add_self_loops=loops)
    values = torch.rand(simple_edges.size(1), dtype=torch.float64)
    adj_t = torch.sparse_coo_tensor(simple_edges.flip(0), values, (N, N)).coalesce().to_sparse_csr()
    assert_same(ours, theirs, torch.randn(N, F, dtype=torch.float64), adj_t)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_a_sparse_tensor_are_features(name: str, simple_edges: Tensor) -> None:
    sparse = pytest.importorskip("torch_sparse", reason="SparseTensor is torch_sparse's")
    theirs, ours = both(name, F, 4, edge_dim=D, add_self_loops=False)
    src, dst = simple_edges
    values = torch.rand(src.numel(), D, dtype=torch.float64)
    adj_t = sparse.SparseTensor(row=dst, col=src, value=values, sparse_sizes=(N, N))
    assert_same(ours, theirs, torch.randn(N, F, dtype=torch.float64), adj_t)


@pytest.mark.parametrize("aggr", ["mean", "max", "min"])
@pytest.mark.parametrize("name", NAMES)
def test_other_aggregations(name: str, aggr: str, simple_edges: Tensor) -> None:
    theirs, ours = both(name, F, 4, heads=2, aggr=aggr)
    x = torch.randn(N, F, dtype=torch.float64)
    assert_same(ours, theirs, x, simple_edges)
    assert_same(ours, theirs, x, simple_edges, return_attention_weights=True)

"""What the layers promise without a peer: names that stay, errors, copies, dtypes, lazy and cached state."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn

N, F = 12, 6


def layers(width: int = 4) -> dict[str, tnn.Module]:
    return {
        "gcn": nn.GCNConv(F, width),
        "sage": nn.SAGEConv(F, width, project=True),
        "gin": nn.GINConv(nn.Linear(F, width), train_eps=True),
        "graph": nn.GraphConv(F, width),
    }


def test_state_dict_keys_and_shapes_stay() -> None:
    found = {name: [(k, tuple(v.shape)) for k, v in layer.state_dict().items()] for name, layer in layers().items()}
    assert found == {
        "gcn": [("bias", (4,)), ("lin.weight", (4, 6))],
        "sage": [
            ("lin.weight", (6, 6)),
            ("lin.bias", (6,)),
            ("lin_l.weight", (4, 6)),
            ("lin_l.bias", (4,)),
            ("lin_r.weight", (4, 6)),
        ],
        "gin": [("eps", (1,)), ("nn.weight", (4, 6)), ("nn.bias", (4,))],
        "graph": [("lin_rel.weight", (4, 6)), ("lin_rel.bias", (4,)), ("lin_root.weight", (4, 6))],
    }


def test_repr() -> None:
    assert repr(nn.GCNConv(8, 16)) == "GCNConv(8, 16)"
    assert repr(nn.GCNConv(-1, 16, num_tasks=4)) == "GCNConv(-1, 16, num_tasks=4)"
    assert repr(nn.SAGEConv((8, 4), 16, aggr="max")) == "SAGEConv((8, 4), 16, aggr=max)"
    assert repr(nn.SAGEConv(8, 16, num_tasks=2)) == "SAGEConv(8, 16, aggr=mean, num_tasks=2)"
    assert repr(nn.GraphConv(8, 16)) == "GraphConv(8, 16)"
    assert repr(nn.GINConv(nn.Linear(8, 16))) == "GINConv(nn=Linear(8, 16, bias=True))"
    assert repr(nn.Linear(8, 16, False, num_tasks=2)) == "Linear(8, 16, bias=False, num_tasks=2)"


X, EDGES = torch.zeros(3, F), torch.tensor([[0, 1], [1, 2]])
CSR = (torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1]))

ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "aggr": (
        lambda: nn.SAGEConv(F, 4, aggr="median"),
        ValueError,
        "SAGEConv: aggr must be one of sum, add, mean, max, min, got 'median'",
    ),
    "aggr-list": (
        lambda: nn.GraphConv(F, 4, aggr=["sum", "max"]),  # type: ignore[arg-type]
        ValueError,
        "GraphConv: aggr must be one of sum, add, mean, max, min, got ['sum', 'max']",
    ),
    "aggr-gcn": (lambda: nn.GCNConv(F, 4, aggr="max"), ValueError, "GCNConv: aggr must be add or sum, got 'max'"),
    "flow": (
        lambda: nn.GCNConv(F, 4, flow="upwards"),
        ValueError,
        "GCNConv: flow must be source_to_target or target_to_source, got 'upwards'",
    ),
    "node_dim": (lambda: nn.GCNConv(F, 4, node_dim=0), ValueError, "GCNConv: node_dim must be -2, got 0"),
    "decomposed": (
        lambda: nn.GINConv(nn.Linear(F, 4), decomposed_layers=2),
        ValueError,
        "GINConv: decomposed_layers must be 1, got 2",
    ),
    "aggr_kwargs": (
        lambda: nn.SAGEConv(F, 4, aggr_kwargs={"p": 1}),
        ValueError,
        "SAGEConv: aggr_kwargs must be None, got {'p': 1}",
    ),
    "num_tasks": (
        lambda: nn.SAGEConv(F, 4, num_tasks=0),
        ValueError,
        "SAGEConv: num_tasks must be None or an integer of at least 1, got 0",
    ),
    "loops": (
        lambda: nn.GCNConv(F, 4, add_self_loops=True, normalize=False),
        ValueError,
        "GCNConv: add_self_loops must be False where normalize is, got add_self_loops=True",
    ),
    "project": (
        lambda: nn.SAGEConv(-1, 4, project=True),
        ValueError,
        "SAGEConv: in_channels must be given for project=True, got -1",
    ),
    "gcn-pair": (
        lambda: nn.GCNConv(F, 4)((X, X), EDGES),  # type: ignore[arg-type]
        ValueError,
        "GCNConv: x must be one tensor, got a tuple; this layer does not support bipartite graphs, "
        "SAGEConv and GraphConv do",
    ),
    "triple": (
        lambda: nn.SAGEConv(F, 4)((X, X, X), EDGES),  # type: ignore[arg-type]
        ValueError,
        "SAGEConv: x must be a tensor or a pair (x_src, x_dst), got 3 items",
    ),
    "no-tensor": (
        lambda: nn.SAGEConv(F, 4)([[1.0], [2.0]], EDGES),  # type: ignore[arg-type]
        TypeError,
        "SAGEConv: x_src must be a tensor, got list",
    ),
    "integers": (
        lambda: nn.GCNConv(F, 4)(X.long(), EDGES),
        TypeError,
        "GCNConv: x must be floating point, got int64; convert it with .float()",
    ),
    "rank": (
        lambda: nn.GraphConv(F, 4)(X.unsqueeze(1), EDGES),
        ValueError,
        "GraphConv: x must have shape [N, F], got [3, 1, 6]; give num_tasks=T for features [N, T, F]",
    ),
    "tasks": (
        lambda: nn.GraphConv(F, 4, num_tasks=2)(X.unsqueeze(1), EDGES),
        ValueError,
        "GraphConv: x must have shape [N, F] or [N, T, F] with T = 2, got [3, 1, 6]",
    ),
    "backwards-pair": (
        lambda: nn.SAGEConv(F, 4, flow="target_to_source")((X, X), EDGES),
        ValueError,
        "SAGEConv: flow must be source_to_target for a pair (x_src, x_dst), got 'target_to_source'; "
        "turn the edges round instead, with edge_index.flip(0)",
    ),
    "backwards-sparse": (
        lambda: nn.SAGEConv(F, 4, flow="target_to_source")(X, torch.eye(3).to_sparse()),
        ValueError,
        "SAGEConv: flow must be source_to_target for a sparse matrix, got 'target_to_source'; "
        "give the transposed matrix instead",
    ),
    "sparse-weight": (
        lambda: nn.GraphConv(F, 4)(X, torch.eye(3).to_sparse(), torch.ones(3)),
        ValueError,
        "GraphConv: edge_weight must be None for a sparse matrix, whose values are the weights; "
        "set them in the matrix, or give edge_index",
    ),
    "weight": (
        lambda: nn.GraphConv(F, 4)(X, EDGES, torch.ones(2, 3)),
        ValueError,
        "GraphConv: edge_weight must have shape [E], got [2, 3]",
    ),
    "weight-tasks": (
        lambda: nn.GCNConv(F, 4, num_tasks=2)(X, EDGES, torch.ones(2, 3)),
        ValueError,
        "GCNConv: edge_weight must have shape [E] or [E, T] with T = 2, got [2, 3]",
    ),
    "size": (
        lambda: nn.SAGEConv(F, 4)((X, None), EDGES, size=(4, 2)),
        ValueError,
        "SAGEConv: size must be the numbers of sources and destinations, got (4, 2) with features of 3 sources",
    ),
    "graph": (
        lambda: nn.SAGEConv(F, 4)(X, Graph.from_edge_index(EDGES, 4, 4)),
        ValueError,
        "the graph has 4 sources and 4 destinations, the features are for 3 and 3",
    ),
    "matrix": (
        lambda: nn.SAGEConv(F, 4)((X, X), torch.eye(3)[:2].to_sparse()),
        ValueError,
        "the graph has 3 sources and 2 destinations, the features are for 3 and 3",
    ),
    "edges": (
        lambda: nn.SAGEConv(F, 4)(X, [[0, 1], [1, 0]]),
        TypeError,
        "graph: edges must be a Graph, an edge_index tensor [2, E], a torch sparse tensor or a torch_sparse "
        "SparseTensor, got list",
    ),
    "gin-nn": (
        lambda: nn.GINConv(tnn.Linear(F, 4), num_tasks=2)(X, EDGES),
        ValueError,
        "GINConv: nn must return [N, T, C] with T = 2, got [3, 4]; build it of fastgmtl.nn.Linear(..., num_tasks=T)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    call, kind, message = ERRORS[case]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'agr'"):
        nn.SAGEConv(F, 4, agr="max")


@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "graph"])
def test_copies(name: str, x: Tensor, edge_index: Tensor) -> None:
    layer = layers()[name]
    out = layer(x, edge_index)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, edge_index), out)
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in layer.parameters()}


@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "graph"])
@pytest.mark.parametrize("width", [3, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(name: str, width: int, dtype: torch.dtype, x: Tensor, edge_index: Tensor) -> None:
    layer = layers(width)[name].double()
    exact = layer(x.double(), edge_index)
    out = layer.to(dtype)(x.to(dtype), edge_index)
    assert out.dtype == dtype
    # The parameters were rounded as well, so bfloat16 has a few roundings of 2^-8 in every sum.
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 6e-2, torch.float16: 1e-2}[dtype]
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


def test_low_precision_degrees_are_exact() -> None:
    # 300 is no bfloat16: a degree summed in bfloat16 would stop at 256.
    edges = torch.stack([torch.arange(1, 301), torch.zeros(300, dtype=torch.long)])
    layer = nn.GCNConv(1, 1, add_self_loops=False, bias=False).bfloat16()
    tnn.init.ones_(layer.lin.weight)
    loops = torch.arange(301).expand(2, -1)
    out = layer(torch.ones(301, 1, dtype=torch.bfloat16), torch.cat([edges, loops], dim=1))
    torch.testing.assert_close(out[0].item(), 300 / 301**0.5 + 1 / 301, rtol=1e-2, atol=0)


def test_cached_keeps_the_first_graph_until_something_changes(x: Tensor, edge_index: Tensor) -> None:
    layer = nn.GCNConv(F, 4, cached=True)
    other = edge_index.flip(0)
    first = layer(x, edge_index)
    assert torch.equal(layer(x, other), first)
    for change in (
        lambda: layer.load_state_dict(layer.state_dict()),
        lambda: layer.to(torch.float32),
        lambda: tnn.Sequential(layer).load_state_dict(tnn.Sequential(layer).state_dict()),
    ):
        change()
        assert not torch.equal(layer(x, other), first)
        change()
        assert torch.equal(layer(x, edge_index), first)
    layer.reset_parameters()
    assert torch.equal(layer(x, other), layer(x, edge_index))


def test_reset_reaches_the_network_of_gin(x: Tensor, edge_index: Tensor) -> None:
    layer = nn.GINConv(tnn.Sequential(tnn.Sequential(nn.Linear(F, 4)), tnn.ReLU()), eps=0.5, train_eps=True)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    tnn.init.zeros_(layer.eps)
    layer.reset_parameters()
    after = layer.state_dict()
    assert after["eps"].item() == before["eps"].item() == 0.5
    assert not torch.equal(after["nn.0.0.weight"], before["nn.0.0.weight"])


def test_lazy_layers(x: Tensor, edge_index: Tensor) -> None:
    lazy = nn.SAGEConv((-1, -1), 4)
    assert repr(lazy.lin_l) == "Linear(-1, 4, bias=True)"
    twin = copy.deepcopy(lazy)
    restored = pickle.loads(pickle.dumps(lazy))
    out = lazy(x, edge_index)
    assert repr(lazy.lin_l) == "Linear(6, 4, bias=True)"
    for other in (twin, restored):
        other.load_state_dict(lazy.state_dict())
        assert torch.equal(other(x, edge_index), out)
    other.load_state_dict(nn.SAGEConv((-1, -1), 4).state_dict())
    assert other((x[:, :2], x), edge_index).shape == (N, 4)
    assert other.lin_l.weight.shape == (4, 2)
    assert nn.GCNConv(-1, 4).double()(x.double(), edge_index).dtype == torch.float64


def test_hooks_and_replacements_of_the_linear_map_are_honoured(x: Tensor, edge_index: Tensor) -> None:
    layer = nn.SAGEConv(F, 2)  # narrow: without a hook it would be applied before the aggregation, by-passing calls
    expected, seen = layer(x, edge_index), []
    handle = layer.lin_l.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    torch.testing.assert_close(layer(x, edge_index), expected)
    assert seen == [(N, F)]
    handle.remove()
    plain = tnn.Linear(F, 2)
    plain.load_state_dict(layer.lin_l.state_dict())
    layer.lin_l = plain
    torch.testing.assert_close(layer(x, edge_index), expected)


def test_edge_weight_of_one_column(x: Tensor, edge_index: Tensor) -> None:
    weight = torch.rand(edge_index.size(1))
    for name in ("gcn", "graph"):
        layer = layers()[name]
        assert torch.equal(layer(x, edge_index, weight.unsqueeze(1)), layer(x, edge_index, weight))


def test_nan_weights_propagate(x: Tensor) -> None:
    out = nn.GraphConv(F, 4)(x, torch.tensor([[0, 1], [1, 2]]), torch.tensor([float("nan"), 1.0]))
    assert out[1].isnan().all()
    assert not out[2:].isnan().any()


def test_works_without_torch_geometric() -> None:
    code = (
        "import sys; sys.modules['torch_geometric'] = None; import torch, fastgmtl.nn as nn; "
        "nn.GCNConv(2, 2)(torch.ones(2, 2), torch.tensor([[0], [1]]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

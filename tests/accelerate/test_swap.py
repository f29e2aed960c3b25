"""accelerate_ on models: what it takes, what it leaves, what it reports, and that it can be undone."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import F, assert_same, mlp, served
from torch import Tensor, nn
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.utils import trim_to_layer

import fastgmtl
from fastgmtl.accelerate import small, verify

N = 12


class OwnSAGE(pyg.SAGEConv):  # type: ignore[misc]
    def message(self, x_j: Tensor) -> Tensor:
        return x_j.sigmoid()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = pyg.SAGEConv(F, 8), pyg.GCNConv(8, 3)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        self.runs.add_(1)
        return self.second(self.drop(self.norm(self.first(x, edge_index)).relu()), edge_index)


def test_report() -> None:
    model = nn.ModuleDict(
        {
            "sage": pyg.SAGEConv(F, 4),
            "own": OwnSAGE(F, 4),
            "median": pyg.SAGEConv(F, 4, aggr="median"),
            "list": pyg.SAGEConv(F, 4, aggr=["sum", "max"]),
            "gin": pyg.GINEConv(mlp(), aggr="max"),
            "cheb": pyg.ChebConv(F, 4, 2),
            "gcn": pyg.GCNConv(F, 4),
            "lin": nn.Linear(F, 4),
        }
    )
    report = fastgmtl.accelerate_(model, filter_fn=lambda layer, name: name != "gcn")
    assert [(r.name, r.was, r.now, r.kernel, r.reason) for r in report] == [
        ("sage", "SAGEConv", "FastSAGEConv", "spmm", ""),
        ("own", "OwnSAGE", "OwnSAGE", "", "a subclass of SAGEConv, whose methods may be others"),
        ("median", "SAGEConv", "SAGEConv", "", "no kernel for aggr='median'"),
        ("list", "SAGEConv", "SAGEConv", "", "no kernel for aggr=['sum', 'max']"),
        ("gin", "GINEConv", "GINEConv", "", "no kernel for aggr='max'"),
        ("cheb", "ChebConv", "ChebConv", "", "no kernel"),
        ("gcn", "GCNConv", "GCNConv", "", "filter_fn"),
    ]
    assert repr(report) == "Report(1 of 7 layers accelerated)" and len(report) == 7
    assert (len(report.swapped), len(report.left_alone)) == (1, 6)
    table = str(report).splitlines()
    assert table[0].split() == ["layer", "was", "now", "kernel", "remark"]
    assert table[2].split() == ["sage", "SAGEConv", "FastSAGEConv", "spmm"]
    assert table[-1] == "1 of 7 layers accelerated"
    assert str(model["sage"]) == "FastSAGEConv(6, 4, aggr=mean)"
    again = fastgmtl.accelerate_(model, filter_fn=lambda layer, name: name != "gcn")
    assert again[0].reason == "accelerated already" and again[0].now == "FastSAGEConv"


def test_a_layer_by_itself(x: Tensor, edge_index: Tensor) -> None:
    layer = pyg.SAGEConv(F, 4)
    report = fastgmtl.accelerate_(layer)
    assert "(model)  SAGEConv  FastSAGEConv  spmm" in str(report)
    layer(x, edge_index)
    layer(x.double().half().unsqueeze(0).float(), edge_index)
    assert dict(report[0].calls) == {"": 1, "features that are not [N, F]": 1}
    assert "1 x parent: features that are not [N, F]" in str(report)


def test_arguments_that_do_not_fit() -> None:
    for swap in (fastgmtl.accelerate_, fastgmtl.deaccelerate_):
        with pytest.raises(TypeError, match=r"accelerate_: model must be a torch.nn.Module, got dict"):
            swap({})  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"verify must be a tuple or a mapping of arguments, got Tensor"):
        fastgmtl.accelerate_(Model(), verify=torch.ones(2))  # type: ignore[arg-type]


def test_without_pyg() -> None:
    script = """
import sys
sys.modules["torch_geometric"] = None
import fastgmtl, torch
try:
    fastgmtl.accelerate_(torch.nn.Linear(2, 2))
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.startswith("accelerate_ swaps layers of PyTorch Geometric") and "pip install torch_geometric" in found


def test_importing_fastgmtl_does_not_import_pyg() -> None:
    script = "import sys, fastgmtl; print('torch_geometric' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found == "False\n"


def test_an_unpickled_model_runs_in_a_fresh_process(tmp_path: Any, x: Tensor, edge_index: Tensor) -> None:
    model = pyg.GraphSAGE(F, 8, 2, 3)
    fastgmtl.accelerate_(model)
    torch.save((model, x, edge_index, model(x, edge_index)), tmp_path / "model.pt")
    script = f"""
import torch
model, x, edges, expected = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
torch.testing.assert_close(model(x, edges), expected)
print(type(model.convs[0]).__name__)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found == "FastSAGEConv\n"


# ----------------------------------------------------------------------------------------------------- verify


def test_verify_measures_and_leaves_no_trace(x: Tensor, edge_index: Tensor) -> None:
    model = Model()
    model.second.cached = True
    model.drop.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    report = fastgmtl.accelerate_(model, verify=(x, edge_index))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.second._cached_edge_index is None
    assert all(not module._forward_hooks for module in model.modules())
    assert all(row.max_diff is not None and 0 < row.max_diff < 1e-6 for row in report)
    assert all(row.calls == {} for row in report)
    assert f"max diff {report[0].max_diff:.1e}" in str(report)
    by_name = fastgmtl.accelerate_(Model(), verify={"x": x, "edge_index": edge_index})
    assert by_name[0].max_diff is not None


def test_verify_names_the_layer_and_puts_the_model_back(
    monkeypatch: pytest.MonkeyPatch, x: Tensor, edge_index: Tensor
) -> None:
    from fastgmtl.accelerate.neighbours import FastGCNConv

    monkeypatch.setattr(FastGCNConv, "forward", lambda self, x, edges: pyg.GCNConv.forward(self, x, edges) + 1e-3)
    model = Model()
    attributes = [set(vars(m)) for m in model.modules()]
    with pytest.raises(RuntimeError, match=r"output of second \(FastGCNConv\) differs by 1.0e-03 .* as it was"):
        fastgmtl.accelerate_(model, verify=(x, edge_index))
    assert type(model.first) is pyg.SAGEConv and type(model.second) is pyg.GCNConv
    assert [set(vars(m)) for m in model.modules()] == attributes


def test_verify_puts_the_model_back_where_it_fails(x: Tensor, edge_index: Tensor) -> None:
    model = Model()
    with pytest.raises(IndexError):
        fastgmtl.accelerate_(model, verify=(x, edge_index + N))
    assert type(model.first) is pyg.SAGEConv and model.training


@pytest.mark.parametrize(("dtype", "wrong"), [(torch.float64, 1e-8), (torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_tolerance_is_that_of_the_dtype(dtype: torch.dtype, wrong: float) -> None:
    layer, value = nn.Linear(1, 1), torch.tensor([1.0, float("nan"), float("inf")], dtype=dtype)
    assert verify.check({layer: [[value]]}, {layer: [[value]]}, {layer: "a"}) == {layer: 0.0}
    for other in (value + wrong, value[[1, 0, 2]], value.float() if dtype != torch.float32 else value.double()):
        with pytest.raises(RuntimeError, match="output of a "):
            verify.check({layer: [[value]]}, {layer: [[other]]}, {layer: "a"})


# ---------------------------------------------------------------------------------------- what people hold on to


def test_optimisers_and_hooks_go_on(x: Tensor, edge_index: Tensor) -> None:
    model, seen = Model(), []
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model.first.register_forward_hook(lambda *_: seen.append("forward"))
    model.first.lin_l.register_full_backward_hook(lambda *_: seen.append("backward"))
    fastgmtl.accelerate_(model)
    before = model.first.lin_l.weight.detach().clone()
    model(x.requires_grad_(), edge_index).square().sum().backward()
    optimiser.step()
    assert seen == ["forward", "backward"]
    assert not torch.equal(before, model.first.lin_l.weight)


HOOKS = ("propagate_forward_pre", "propagate_forward", "message_forward_pre", "message_forward")
HOOKS += ("aggregate_forward_pre", "aggregate_forward")


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_message_passing_are_called(name: str, x: Tensor, edge_index: Tensor) -> None:
    layer, seen = pyg.SAGEConv(F, 4), []
    report = fastgmtl.accelerate_(layer)
    handle = getattr(layer, f"register_{name}_hook")(lambda *_: seen.append(name))
    layer(x, edge_index)
    assert seen == [name] and report[0].calls == {"hooks of message passing": 1}
    handle.remove()
    layer(x, edge_index)
    assert served(layer) == 1


def test_a_method_replaced_on_the_instance_is_called(x: Tensor, edge_index: Tensor) -> None:
    layer = pyg.SAGEConv(F, 4)
    report = fastgmtl.accelerate_(layer)
    layer.message = lambda x_j: torch.zeros_like(x_j)
    assert torch.equal(layer(x, edge_index), layer.lin_l.bias + layer.lin_r(x))
    assert report[0].calls == {"a method replaced on the instance": 1}


@pytest.mark.parametrize("make", [pyg.GCN, pyg.GraphSAGE, pyg.GAT, pyg.GIN])
def test_explainers_explain_the_same(make: Any, x: Tensor, simple_edges: Tensor) -> None:
    model, masks, edge_index = make(F, 8, 2, 3), [], simple_edges
    for accelerated in (False, True):
        if accelerated:
            report = fastgmtl.accelerate_(model)
            model = copy.deepcopy(model)
        torch.manual_seed(2)
        explainer = Explainer(
            model,
            GNNExplainer(epochs=5),
            explanation_type="model",
            node_mask_type="attributes",
            edge_mask_type="object",
            model_config={"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"},
        )
        masks.append(explainer(x, edge_index, index=0))
    assert model.convs[0]._calls["explanation"] > 0 and len(report.swapped) == 2
    torch.testing.assert_close(masks[0].edge_mask, masks[1].edge_mask)
    torch.testing.assert_close(masks[0].node_mask, masks[1].node_mask)
    model(x, edge_index)
    assert served(model.convs[0]) > 0


def test_lazy_layers_are_the_parents_until_they_have_a_shape(x: Tensor, edge_index: Tensor) -> None:
    for make in (lambda: pyg.SAGEConv(-1, 4), lambda: pyg.GCNConv(-1, 4), lambda: pyg.GraphConv(-1, 4)):
        theirs = make()
        ours = copy.deepcopy(theirs)
        report = fastgmtl.accelerate_(ours)
        with pytest.raises(RuntimeError, match="run the lazy model once before"):
            fastgmtl.accelerate_(copy.deepcopy(theirs), verify=(x, edge_index))
        outs = []
        for layer in (theirs, ours):
            torch.manual_seed(4)
            outs.append([layer(x, edge_index), layer(x, edge_index)])
        assert_same(outs[1], outs[0])
        assert report[0].calls == {"lazy parameters without a shape": 1, "": 1}


def test_tracing_runs_the_parents_path(x: Tensor, edge_index: Tensor) -> None:
    layer = pyg.SAGEConv(F, 4)
    expected = layer(x, edge_index)
    report = fastgmtl.accelerate_(layer)
    traced = torch.jit.trace(layer, (x, edge_index))
    assert_same([traced(x, edge_index)], [expected])
    assert report[0].calls["tracing"] > 0 and "scatter_add" in str(traced.inlined_graph)


# ------------------------------------------------------------------------------------------------------ batches


def test_batches_with_trim_to_layer(x: Tensor) -> None:
    """What a neighbour loader gives: nodes and edges in the order of their hops, of which layers need ever less."""
    nodes, edges = [2, 4, 6], [6, 9]
    index = torch.stack([torch.randint(2, 6, (6,)), torch.randint(0, 2, (6,))])
    index = torch.cat([index, torch.stack([torch.randint(6, 12, (9,)), torch.randint(2, 6, (9,))])], dim=1)
    model = nn.ModuleList([pyg.SAGEConv(F, 5), pyg.SAGEConv(5, 3)])

    def forward() -> Tensor:
        h, e = x, index
        for i, conv in enumerate(model):
            h, e, _ = trim_to_layer(i, nodes, edges, h, e)
            h = conv(h, e).relu()
        return h[:2]

    expected = forward()
    fastgmtl.accelerate_(model)
    assert_same([forward()], [expected])
    assert all(served(conv) == 1 for conv in model)


def test_graphs_are_kept_with_their_edges_and_follow_changes(x: Tensor, edge_index: Tensor) -> None:
    theirs = pyg.SAGEConv(F, 4)
    ours = copy.deepcopy(theirs)
    fastgmtl.accelerate_(ours)
    for _ in range(2):
        assert_same([ours(x, edge_index)], [theirs(x, edge_index)])
        edge_index[0, :5] = 7


@pytest.fixture
def small_inputs_as_for_users() -> Iterator[None]:
    before, small._always = small._always, False
    yield
    small._always = before


@pytest.mark.usefixtures("small_inputs_as_for_users")
def test_new_and_small_edges_are_the_parents_until_they_come_back(x: Tensor, edge_index: Tensor) -> None:
    layer = pyg.SAGEConv(F, 4)
    expected = layer(x, edge_index)
    report = fastgmtl.accelerate_(layer)
    for _ in range(20):
        assert_same([layer(x, edge_index.clone())], [expected])
    assert report[0].calls == {"small input": 20}
    for _ in range(20):
        assert_same([layer(x, edge_index)], [expected])
    assert report[0].calls == {"small input": 20 + small.PATIENCE, "": 20 - small.PATIENCE}
    edge_index[0, 0] = 5  # other edges now
    layer(x, edge_index)
    assert report[0].calls["small input"] == 21 + small.PATIENCE
    wide = pyg.SAGEConv(small.SMALL // edge_index.size(1) + 1, 2)
    fastgmtl.accelerate_(wide)
    wide(torch.randn(N, wide.in_channels), edge_index.clone())
    assert served(wide) == 1


@pytest.mark.usefixtures("small_inputs_as_for_users")
@pytest.mark.filterwarnings("ignore:Sparse .* tensor", "ignore:.*invariant checks.*", "ignore:.*to CSR format.*")
def test_products_with_a_small_csr_matrix_are_the_parents(x: Tensor, simple_edges: Tensor) -> None:
    coo = torch.sparse_coo_tensor(simple_edges.flip(0), torch.ones(simple_edges.size(1)), (N, N)).coalesce()
    csr = coo.to_sparse_csr()
    for layer, mine in ((pyg.SAGEConv(F, 4), 0), (pyg.GCNConv(F, 4), 20 - small.PATIENCE)):
        fastgmtl.accelerate_(layer)
        for _ in range(20):
            layer(x, csr)
        assert served(layer) == mine
    for layer in (pyg.SAGEConv(F, 4), pyg.GCNConv(F, 4), pyg.GATConv(F, 4)):
        fastgmtl.accelerate_(layer)
        matrix = coo.clone()
        for _ in range(20):
            layer(x, matrix)
        assert served(layer) == 20 - small.PATIENCE


@pytest.mark.usefixtures("small_inputs_as_for_users")
def test_edges_that_are_gone_are_forgotten(x: Tensor) -> None:
    layer = pyg.SAGEConv(F, 4)
    fastgmtl.accelerate_(layer)
    before = len(small._seen)
    for _ in range(5):
        layer(x, torch.randint(0, N, (2, 10)))
    assert len(small._seen) == before
    with torch.inference_mode():
        kept = torch.randint(0, N, (2, 10))
        for _ in range(2 * small.PATIENCE):
            layer(x, kept)
    assert layer._calls == {"small input": 5 + 2 * small.PATIENCE} and len(small._seen) == before


@pytest.mark.parametrize("filled_by_the_parent", [False, True])
def test_a_cached_graph_is_the_parents(filled_by_the_parent: bool, x: Tensor, edge_index: Tensor) -> None:
    layer = pyg.GCNConv(F, 4, cached=True)
    expected = copy.deepcopy(layer)(x, edge_index)
    if filled_by_the_parent:
        layer(x, edge_index)
    fastgmtl.accelerate_(layer)
    other = edge_index.flip(1)[:, :9].contiguous()
    for edges in (edge_index, other):  # what is cached is used whatever the edges are
        assert_same([layer(x, edges)], [expected])
    assert served(layer) == 2
    fastgmtl.deaccelerate_(layer)
    assert_same([layer(x, other)], [expected])
    layer.reset_parameters()
    assert layer._cached_edge_index is None

"""HeteroConv of convolutions that are alike, in one pass: values, gradients, and whatever is left to its parent."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import RELATIONS, F, assert_same, assert_same_half, hetero, outcome
from torch import Tensor, nn

import fastgmtl
from fastgmtl.accelerate import small

KINDS: dict[str, Callable[[], nn.Module]] = {
    "sage": lambda: pyg.SAGEConv((F, F), 4),
    "sage-sum": lambda: pyg.SAGEConv((F, F), 9, aggr="sum", bias=False),
    "sage-no-root": lambda: pyg.SAGEConv((F, F), 4, root_weight=False),
    "graph": lambda: pyg.GraphConv((F, F), 4),
    "graph-mean": lambda: pyg.GraphConv(F, 4, aggr="mean", bias=False),
    "lazy": lambda: pyg.SAGEConv((-1, -1), 4),
}


def both(make: Callable[[], nn.Module], aggr: str = "sum") -> tuple[Any, Any]:
    """PyG's layer, and an accelerated copy of it."""
    torch.manual_seed(0)
    theirs = pyg.HeteroConv({relation: make() for relation in RELATIONS}, aggr=aggr)
    theirs(*hetero())  # lazy ones get their shape
    ours = copy.deepcopy(theirs)
    first, *rest = fastgmtl.accelerate_(ours).swapped
    assert (first.was, first.now, first.kernel) == ("HeteroConv", "FastHeteroConv", "spmm of (node, relation)")
    assert len(rest) == len(RELATIONS)
    return theirs, ours


@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind: str, aggr: str) -> None:
    theirs, ours = both(KINDS[kind], aggr)
    x, edges = hetero()
    for _ in range(2):
        assert_same(outcome(ours, x, edges), outcome(theirs, x, edges))
        edges[RELATIONS[0]] = torch.empty(2, 0, dtype=torch.long)
    x, edges = hetero()
    assert_same(outcome(ours, {**x, "unused": torch.randn(3, F)}, edges)[:2], outcome(theirs, x, edges)[:2])
    assert ours._calls == {"": 3}
    assert all(not conv._calls for conv in ours.convs.values())


def test_verify_compares_the_one_pass() -> None:
    theirs, _ = both(KINDS["sage"])
    report = fastgmtl.accelerate_(theirs, verify=hetero())
    assert report[0].max_diff is not None and report[0].max_diff < 1e-5
    assert all(row.max_diff is None for row in report[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    theirs, ours = (layer.to(dtype) for layer in both(KINDS["sage"]))
    x, edges = hetero()
    x = {t: v.to(dtype) for t, v in x.items()}
    for t, want in theirs(x, edges).items():
        got = ours(x, edges)[t]
        assert_same_half(got, want) if dtype == torch.bfloat16 else assert_same([got], [want])


def test_copies_state_and_undo() -> None:
    theirs, ours = both(KINDS["sage"])
    x, edges = hetero()
    want = theirs(x, edges)["paper"]
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert_same([other(x, edges)["paper"]], [want])
        assert fastgmtl.deaccelerate_(other) == 1 + len(RELATIONS)
        assert type(other) is pyg.HeteroConv and not hasattr(other, "_calls")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    again = fastgmtl.accelerate_(ours)
    assert {row.reason for row in again} == {"accelerated already"} and len(again) == len(RELATIONS)


@pytest.mark.parametrize(
    "convs",
    [
        lambda: {RELATIONS[0]: pyg.SAGEConv((F, F), 4), RELATIONS[2]: pyg.GraphConv((F, F), 4)},
        lambda: {RELATIONS[0]: pyg.SAGEConv((F, F), 4), RELATIONS[2]: pyg.SAGEConv((F, F), 4, aggr="sum")},
        lambda: {RELATIONS[0]: pyg.SAGEConv((F, F), 4), RELATIONS[2]: pyg.SAGEConv((F, F), 4, root_weight=False)},
        lambda: {r: pyg.SAGEConv((F, F), 4, aggr="max") for r in RELATIONS},
        lambda: {r: pyg.SAGEConv((F, F), 4, normalize=True) for r in RELATIONS},
        lambda: {RELATIONS[1]: pyg.SAGEConv(F, 4)},
    ],
)
def test_what_is_not_alike_is_swapped_one_by_one(convs: Any) -> None:
    theirs = pyg.HeteroConv(convs())
    ours = copy.deepcopy(theirs)
    report = fastgmtl.accelerate_(ours)
    assert type(ours) is pyg.HeteroConv and len(report.swapped) == len(ours.convs)
    x, edges = hetero()
    assert_same(outcome(ours, x, edges), outcome(theirs, x, edges))


def test_calls_that_are_the_parent_s() -> None:
    theirs, ours = both(KINDS["graph"])
    x, edges = hetero()
    weights = {r: torch.rand(15) for r in RELATIONS}
    for given, keywords, reason in (
        ((x, edges), {"edge_weight_dict": weights}, "arguments beside features and edges"),
        ((x, {r: edges[r] for r in RELATIONS[:3]}), {}, "a relation without features or edges"),
        (({t: v.double() if t == "term" else v for t, v in x.items()}, edges), {}, "features of another form"),
    ):
        try:
            want = theirs(*given, **keywords)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                ours(*given, **keywords)
        else:
            got = ours(*given, **keywords)
            assert_same([got[t] for t in want], list(want.values()))
        assert ours._calls[reason] == 1
    one = {r: e[:, :1] for r, e in edges.items()}
    assert_same([ours(x, one)["paper"]], [theirs(x, one)["paper"]])
    assert ours._calls["relations that most nodes lack"] == 1
    seen: list[Tensor] = []
    handle = ours.convs[RELATIONS[1]].register_forward_hook(lambda *a: seen.append(a[2]))
    assert_same([ours(x, edges)["paper"]], [theirs(x, edges)["paper"]])
    assert len(seen) == 1 and ours._calls["hooks of a convolution"] == 1
    handle.remove()
    ours.convs[RELATIONS[0]].lin_rel.register_forward_hook(lambda *a: seen.append(a[2]))
    ours(x, edges)
    assert len(seen) == 2 and ours._calls["hooks of a convolution"] == 2


def test_a_convolution_that_was_filtered_out_keeps_its_path() -> None:
    theirs, _ = both(KINDS["sage"])
    ours = copy.deepcopy(theirs)
    fastgmtl.accelerate_(ours, filter_fn=lambda layer, name: "cites" not in name)
    x, edges = hetero()
    assert_same([ours(x, edges)["paper"]], [theirs(x, edges)["paper"]])
    assert ours._calls == {"a convolution that is not accelerated": 1}


def test_small_inputs_are_the_parent_s_until_they_have_come_back() -> None:
    theirs, ours = both(KINDS["sage"])
    x, edges = hetero()
    before, small._always = small._always, False
    try:
        for _ in range(small.PATIENCE + 2):
            got = ours(x, edges)
    finally:
        small._always = before
    assert ours._calls[""] > 0 and ours._calls["small input"] > 0
    assert_same([got["paper"]], [theirs(x, edges)["paper"]])

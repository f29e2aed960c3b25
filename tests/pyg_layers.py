"""The settings of every layer that is replaced, and how a layer is run in a test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import fastgmtl

F = 6


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(F, 7), nn.ReLU(), nn.Linear(7, 4))


# Narrower and wider outputs than F: the operators aggregate after or before the linear map.
CASES: dict[str, Callable[[], nn.Module]] = {
    "gcn-narrow": lambda: pyg.GCNConv(F, 3),
    "gcn-wide": lambda: pyg.GCNConv(F, 9, bias=False),
    "gcn-no-loops": lambda: pyg.GCNConv(F, 9, add_self_loops=False),
    "gcn-plain": lambda: pyg.GCNConv(F, 9, normalize=False, bias=False),
    "gcn-cached": lambda: pyg.GCNConv(F, 3, cached=True),
    "gcn-improved": lambda: pyg.GCNConv(F, 3, improved=True),
    "gcn-decomposed": lambda: pyg.GCNConv(F, 4, decomposed_layers=2),
    "gcn-backwards": lambda: pyg.GCNConv(F, 9, flow="target_to_source"),
    "sage-narrow": lambda: pyg.SAGEConv(F, 3),
    "sage-wide": lambda: pyg.SAGEConv(F, 9, normalize=True, bias=False),
    "sage-sum": lambda: pyg.SAGEConv(F, 3, aggr="sum", root_weight=False),
    "sage-max": lambda: pyg.SAGEConv(F, 3, aggr="max"),
    "sage-min": lambda: pyg.SAGEConv(F, 9, aggr="min"),
    "sage-project": lambda: pyg.SAGEConv(F, 3, project=True),
    "sage-node-dim": lambda: pyg.SAGEConv(F, 3, node_dim=0),
    "sage-backwards": lambda: pyg.SAGEConv(F, 3, flow="target_to_source"),
    "gin": lambda: pyg.GINConv(mlp()),
    "gin-eps": lambda: pyg.GINConv(mlp(), 0.5, True),
    "gin-mean": lambda: pyg.GINConv(mlp(), aggr="mean"),
    "gin-backwards": lambda: pyg.GINConv(mlp(), flow="target_to_source"),
    "graph": lambda: pyg.GraphConv(F, 3),
    "graph-wide": lambda: pyg.GraphConv(F, 9, aggr="mean", bias=False),
    "graph-max": lambda: pyg.GraphConv(F, 3, aggr="max"),
    "graph-backwards": lambda: pyg.GraphConv(F, 3, flow="target_to_source"),
    "gat": lambda: pyg.GATConv(F, 3),
    "gat-heads": lambda: pyg.GATConv(F, 3, 4, negative_slope=0.3),
    "gat-average": lambda: pyg.GATConv(F, 3, 4, concat=False, bias=False),
    "gat-no-loops": lambda: pyg.GATConv(F, 3, 2, add_self_loops=False, residual=True),
    "gat-pair": lambda: pyg.GATConv((F, F), 3, 2),
    "gat-mean": lambda: pyg.GATConv(F, 3, 2, aggr="mean"),
    "gat-backwards": lambda: pyg.GATConv(F, 3, 2, flow="target_to_source"),
    "gatv2": lambda: pyg.GATv2Conv(F, 3, 4),
    "gatv2-shared": lambda: pyg.GATv2Conv(F, 3, 2, share_weights=True, concat=False),
    "gatv2-no-loops": lambda: pyg.GATv2Conv(F, 3, 2, add_self_loops=False, bias=False, residual=True),
    "transformer": lambda: pyg.TransformerConv(F, 3, 4),
    "transformer-beta": lambda: pyg.TransformerConv(F, 3, 2, beta=True),
    "transformer-average": lambda: pyg.TransformerConv(F, 3, 2, concat=False, bias=False),
    "transformer-no-root": lambda: pyg.TransformerConv((F, F), 3, 2, root_weight=False),
    "transformer-backwards": lambda: pyg.TransformerConv(F, 3, 2, flow="target_to_source"),
    "gatv2-backwards": lambda: pyg.GATv2Conv(F, 3, 2, flow="target_to_source"),
}
WEIGHTED = [case for case in CASES if case.startswith(("gcn", "graph"))]
FORWARDS = [case for case in CASES if not case.endswith("backwards")]


def pair(case: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A layer of PyG and an accelerated copy of it."""
    theirs = CASES[case]().to(dtype)
    with torch.no_grad():
        for p in theirs.parameters():  # no biases of zero, no priors of one
            p.normal_().mul_(0.5)
    ours = copy.deepcopy(theirs)
    report = fastgmtl.accelerate_(ours)
    assert len(report.swapped) == 1, str(report)
    return theirs, ours


def run(layer: nn.Module, x: Any, edges: Any, **keywords: Any) -> list[Tensor]:
    """The output and the gradients of inputs and parameters, for a loss that is not symmetric."""
    inputs = [t.detach().clone().requires_grad_() for t in (x if isinstance(x, tuple) else (x,)) if t is not None]
    given = (inputs[0], inputs[1] if len(inputs) > 1 else None) if isinstance(x, tuple) else inputs[0]
    for name, value in keywords.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            keywords[name] = value.detach().clone().requires_grad_()
            inputs.append(keywords[name])
    out = layer(given, edges, **keywords)
    loss = (out.double() * torch.arange(1, out.numel() + 1).view(out.shape).sin()).sum()
    inputs += list(layer.parameters())
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        tol = {torch.float64: 1e-10, torch.float32: 1e-5}.get(b.dtype, 2e-2)
        torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def assert_same_half(ours: Tensor, theirs: Tensor) -> None:
    """Of bfloat16: 2e-2 of the largest entry."""
    assert ours.dtype == theirs.dtype
    a, b = ours.detach().float(), theirs.detach().float()
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))


def served(layer: nn.Module) -> int:
    """How many calls ran on the operators."""
    return layer._calls[""]  # type: ignore[union-attr, index]


# ------------------------------------------------------------------------------------------- dicts of features

NODES = {"author": 7, "paper": 9, "term": 5}
RELATIONS = [
    ("author", "writes", "paper"),
    ("paper", "cites", "paper"),
    ("paper", "by.way", "author"),
    ("term", "to", "paper"),
    ("paper", "back", "term"),
]


def hetero(width: int = F) -> tuple[dict[str, Tensor], dict[Any, Tensor]]:
    x = {t: torch.randn(n, width) for t, n in NODES.items()}
    edges = {r: torch.stack([torch.randint(0, NODES[t], (15,)) for t in (r[0], r[2])]) for r in RELATIONS}
    return x, edges


def outcome(layer: nn.Module, x: dict[str, Tensor], *args: Any) -> list[Tensor]:
    leaves = {t: v.clone().requires_grad_() for t, v in x.items()}
    out = layer(leaves, *args)
    values = [out[t] for t in sorted(out) if out[t] is not None]
    loss = sum((v.double() * torch.arange(1, v.numel() + 1).view(v.shape).sin()).sum() for v in values)
    inputs = [*leaves.values(), *layer.parameters()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [*values, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]

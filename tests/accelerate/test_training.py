"""Models of PyTorch Geometric, trained accelerated and not: the same loss curve."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from pyg_layers import F
from torch import Tensor, nn

import fastgmtl

STEPS, CLASSES, R = 25, 3, 3
NODES = {"author": 20, "paper": 30}
RELATIONS = [("author", "writes", "paper"), ("paper", "by", "author"), ("paper", "cites", "paper")]


class RGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [pyg.RGCNConv(F, 8, R), pyg.RGCNConv(8, 8, R, num_bases=2), pyg.RGCNConv(8, CLASSES, R)]
        )

    def forward(self, x: Tensor, edges: Tensor, types: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            x = conv(x, edges, types).relu()
        return self.convs[-1](x, edges, types)


class HGT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([pyg.HGTConv(F, 8, (list(NODES), RELATIONS), 2) for _ in range(1)])
        self.convs.append(pyg.HGTConv(8, 8, (list(NODES), RELATIONS), 2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: dict[str, Tensor], edges: dict[Any, Tensor]) -> Tensor:
        for conv in self.convs:
            x = conv(x, edges)
        return self.head(x["paper"])


def homogeneous() -> tuple[Any, ...]:
    return torch.randn(30, F), torch.randint(0, 30, (2, 120))


def typed() -> tuple[Any, ...]:
    return *homogeneous(), torch.randint(0, R, (120,))


def hetero() -> tuple[Any, ...]:
    x = {t: torch.randn(n, F) for t, n in NODES.items()}
    return x, {r: torch.stack([torch.randint(0, NODES[t], (80,)) for t in (r[0], r[2])]) for r in RELATIONS}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]], int]] = {
    "GraphSAGE": (lambda: pyg.GraphSAGE(F, 8, 3, CLASSES), homogeneous, 3),
    "GAT": (lambda: pyg.GAT(F, 8, 3, CLASSES, heads=2), homogeneous, 3),
    "GATv2": (lambda: pyg.GAT(F, 8, 3, CLASSES, heads=2, v2=True), homogeneous, 3),
    "GIN": (lambda: pyg.GIN(F, 8, 3, CLASSES, norm="batch_norm"), homogeneous, 3),
    "GCN": (lambda: pyg.GCN(F, 8, 3, CLASSES, jk="cat"), homogeneous, 3),
    "RGCN": (RGCN, typed, 3),
    "HGT": (HGT, hetero, 2),
}


def curve(model: nn.Module, given: tuple[Any, ...], labels: Tensor) -> list[float]:
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(*given), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_the_same_loss_curve(name: str) -> None:
    make, data, layers = MODELS[name]
    model, given, labels = make(), data(), torch.randint(0, CLASSES, (30,))
    # In float64 the two do not drift apart by rounding.
    model = model.double()
    given = tuple(
        {t: v.double() for t, v in g.items()}
        if isinstance(g, dict) and isinstance(next(iter(g)), str)
        else g.double()
        if isinstance(g, Tensor) and g.is_floating_point()
        else g
        for g in given
    )
    other = copy.deepcopy(model)
    report = fastgmtl.accelerate_(other)
    assert len(report.swapped) == layers
    plain, fast = curve(model, given, labels), curve(other, given, labels)
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=1e-8)
    assert all(row.calls == {"": STEPS} for row in report)

"""virgo_: its variances against the closed formulas, what it fills, and states that keep their size on real graphs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn
from fastgmtl.data import load
from fastgmtl.ops import gcn_norm

N, F = 12, 6
WIDTHS = (6, 5, 4, 3)


class Deep(tnn.Module):
    """GCN layers with relu between them."""

    def __init__(self, *widths: int, layer: Any = nn.GCNConv, **kwargs: Any) -> None:
        super().__init__()
        self.convs = tnn.ModuleList(layer(a, b, **kwargs) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor, edges: Any) -> list[Tensor]:
        """The states after each layer."""
        states = []
        for conv in self.convs:
            states.append(conv(x, edges))
            x = states[-1].relu()
        return states


def dense(edges: Tensor) -> Tensor:
    graph, weight = gcn_norm(Graph.from_edge_index(edges, N, N), dtype=torch.float64)
    source, target = graph.edge_index()
    return torch.zeros(N, N, dtype=torch.float64).index_put((target, source), weight, accumulate=True)


def test_variances_are_the_formulas(edge_index: Tensor, x: Tensor) -> None:
    a, x = dense(edge_index), x.double()
    graph, weight = gcn_norm(Graph.from_edge_index(edge_index, N, N), dtype=torch.float64)
    power = [torch.linalg.matrix_power(a, k) for k in range(4)]
    f = [float((p @ x.mean(1)).square().sum()) for p in power]
    b = [float((p.T @ torch.ones(N).double()).square().sum()) for p in power]
    forward = [2 / 6, 2 / 5 * f[1] / f[2], 2 / 4 * f[2] / f[3]]
    backward = [2 / 5 * b[2] / b[3], 2 / 4 * b[1] / b[2], N / ((3 - 1) * b[1])]
    harmonic = [2 / (1 / p + 1 / q) for p, q in zip(forward, backward, strict=True)]
    for mode, want in (("forward", forward), ("backward", backward), ("harmonic", harmonic)):
        assert nn.virgo_variances(graph, weight, x, WIDTHS, mode) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("tasks", [None, 2])
def test_weights_are_drawn_within_the_bounds(tasks: int | None, flow: str, edge_index: Tensor, x: Tensor) -> None:
    model = Deep(6, 200, 300, 3, num_tasks=tasks, flow=flow)
    before = [conv.lin.weight for conv in model.convs]
    for conv in model.convs:
        tnn.init.ones_(conv.bias)
    assert nn.virgo_(model, x, edge_index, generator=torch.Generator().manual_seed(0)) is model
    graph = Graph.from_edge_index(edge_index, N, N)
    graph, weight = gcn_norm(graph if flow == "source_to_target" else graph.t(), dtype=torch.float64)
    for conv, old, c in zip(model.convs, before, nn.virgo_variances(graph, weight, x, (6, 200, 300, 3)), strict=True):
        assert conv.lin.weight is old and not conv.bias.any()
        assert float(conv.lin.weight.detach().abs().max()) == pytest.approx(math.sqrt(3 * c), rel=0.05)
        assert float(conv.lin.weight.detach().var()) == pytest.approx(c, rel=0.1)
    first = model.convs[0].lin.weight.clone()
    nn.virgo_(model, x, edge_index, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.convs[0].lin.weight, first)


def test_layers_of_pyg_and_their_settings(edge_index: Tensor, x: Tensor) -> None:
    pyg = pytest.importorskip("torch_geometric.nn")
    for kwargs in ({}, {"normalize": False}, {"add_self_loops": False}):
        edges = torch.cat([edge_index, torch.arange(N).repeat(2, 1)], 1)
        found = []
        for layer in (pyg.GCNConv, nn.GCNConv):
            model = Deep(*WIDTHS, layer=layer, **kwargs)
            nn.virgo_(model, x, edges, generator=torch.Generator().manual_seed(1))
            found.append([conv.lin.weight for conv in model.convs])
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["planetoid:cora", "city:huangpu"])
@pytest.mark.usefixtures("data_root")
def test_states_and_gradients_keep_their_size(name: str) -> None:
    """Sixteen layers of width 128 on a real graph: at most 3-fold from the second on; Glorot's fade a thousandfold.

    The states by the forward mode, gradients by the backward mode; the mean of three draws.
    """
    data, depth = load(name), 16
    x = data.x[:, :64]

    def sizes(mode: str | None) -> tuple[float, float]:
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = Deep(x.size(1), *[128] * depth)
            if mode is not None:
                nn.virgo_(model, x, data.graph, mode=mode)
            states = model(x, data.graph)
            for state in states:
                state.retain_grad()
            states[-1].logsumexp(1).sum().backward()
            forward = [float(state.detach().square().mean()) for state in states[1:]]
            backward = [float(state.grad.square().mean()) for state in states[1:-1]]  # type: ignore[union-attr]
            found.append((forward[-1] / forward[0], backward[0] / backward[-1]))
        first, second = torch.tensor(found).mean(0).tolist()
        return first, second

    assert 1 / 3 < sizes("forward")[0] < 3
    assert 1 / 3 < sizes("backward")[1] < 3
    assert max(sizes(None)) < 1e-3


def test_refused(edge_index: Tensor, x: Tensor) -> None:
    for call, message in (
        (lambda: nn.virgo_(tnn.Linear(2, 2), x, edge_index), "the model must have GCNConv layers, got Linear"),
        (lambda: nn.virgo_(Deep(6, 3), x, edge_index, mode="both"), "mode must be one of forward, backward, harmonic"),
        (lambda: nn.virgo_(Deep(6, 3, 1), x, edge_index), "the last layer must have at least 2 columns for mode 'harm"),
        (lambda: nn.virgo_(Deep(6, 3), 0 * x, edge_index), "the states of layer 1 must not vanish or overflow"),
        (
            lambda: nn.virgo_(Deep(-1, 3), x, edge_index),
            "the layers must know their widths, got in_channels=-1; run the model",
        ),
        (
            lambda: nn.virgo_(Deep(6, 3), x, edge_index, torch.ones(edge_index.size(1), 2)),
            r"edge_weight must have shape \[E\], got",
        ),
        (
            lambda: nn.virgo_(tnn.Sequential(nn.GCNConv(6, 4), nn.GCNConv(5, 3)), x, edge_index),
            "a layer takes 5 features, the one before it gives 4",
        ),
    ):
        with pytest.raises(ValueError, match=f"virgo_: {message}"):
            call()
    nn.virgo_(Deep(6, 3, 1), x, edge_index, mode="forward")

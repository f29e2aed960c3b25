"""What there is to see of a learned task graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgmtl.data.metrics import METRICS as SCORES
from fastgmtl.graph import Graph
from fastgmtl.methods.panel import Network, Panel, Plot

METRICS = ("edges", "AUROC", "AUPRC", "SHD")
LEAST = 0.01


def metrics(probability: Tensor, truth: Graph | None) -> tuple[float, ...]:
    """METRICS of probabilities [T, T], row the cause: how many edges are expected; with the true graph, else NaN,
    ROC-AUC and average precision of the edges, and the structural Hamming distance of those above one half.

    The distance counts pairs of labels between which an edge is missing, too much or turned round.
    """
    count = len(probability)
    off = ~torch.eye(count, dtype=torch.bool, device=probability.device)
    expected = probability[off].sum().item()
    if truth is None or truth.num_dst != count:
        return expected, math.nan, math.nan, math.nan
    true = torch.zeros_like(probability)
    true[tuple(truth.edge_index())] = 1
    score, wanted = probability[off][:, None], true[off][:, None]
    wrong = (probability > 0.5) != (true > 0.5)
    distance = float((wrong | wrong.t()).triu(1).sum())
    return expected, SCORES["roc_auc"](score, wanted), SCORES["average_precision"](score, wanted), distance


def matrices(names: Sequence[str], probability: Tensor, strength: Tensor) -> dict[str, Sequence[Panel]]:
    """Probabilities of the edges, and couplings of likely ones, row the cause."""
    labels, likely = tuple(names), strength * (probability > 0.5)
    most = max(1e-6, likely.abs().max().item())

    def panel(title: str, values: Tensor, what: str, low: float) -> Panel:
        return Panel(title, labels, labels, values.tolist(), "cause", "effect", what, low, -low or 1.0)

    return {
        "edges": [panel("edges", probability, "probability", 0.0)],
        "couplings": [panel("couplings of likely edges", likely, "coupling", -most)],
    }


def networks(
    names: Sequence[str], probability: Tensor, strength: Tensor, truth: Graph | None, coupling: Tensor | None
) -> dict[str, Sequence[Network]]:
    """The learned graph: every edge with at least LEAST, and beside it the true one where it is known."""
    pairs = (probability >= LEAST).nonzero().tolist()
    learned = [(s, t, strength[s, t].item(), probability[s, t].item()) for s, t in pairs]
    found = [Network("learned", tuple(names), learned)]
    if truth is not None and truth.num_dst == len(names):
        edges = truth.edge_index().t().tolist()
        force = [1.0] * len(edges) if coupling is None else coupling.tolist()
        found.append(Network("true", tuple(names), [(s, t, j, 1.0) for (s, t), j in zip(edges, force, strict=True)]))
    return {"task_graph": found}


def curves(watched: Tensor) -> dict[str, Sequence[Plot]]:
    """METRICS [epochs, 4] over the epochs; NaN is left out."""
    plots = []
    for name, values in zip(METRICS, watched.t().tolist(), strict=True):
        points = [(float(epoch), value) for epoch, value in enumerate(values, 1) if not math.isnan(value)]
        if points:
            plots.append(Plot(name, {name: points}, "epoch", name))
    return {"structure": plots} if plots else {}

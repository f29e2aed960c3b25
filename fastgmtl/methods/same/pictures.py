"""What there is to see of SAME: how losses fall with adaptation, and how embeddings lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from fastgmtl.data import Dataset
from fastgmtl.methods.panel import Plot
from fastgmtl.methods.same.episodes import Episode, Part
from fastgmtl.methods.same.inner import Adapt, Params, adapted
from fastgmtl.methods.same.model import Model
from fastgmtl.methods.same.probes import pooled

STEPS = 10
MOST_POINTS = 1500


def adaptation(
    model: Model, episodes: Sequence[Episode], rate: float, adapt: Adapt, steps: int = STEPS
) -> Sequence[Plot]:
    """Mean target loss of each task over the episodes after 0, 1, ... steps of adaptation to the support set."""
    losses: dict[str, list[list[float]]] = {}
    for episode in episodes:
        for name, part in episode.parts.items():
            losses.setdefault(name, []).append(curve(model, name, part, rate, adapt, steps))
    series = {
        name: [(float(k), sum(column) / len(column)) for k, column in enumerate(zip(*rows, strict=True))]
        for name, rows in losses.items()
    }
    if not series:
        return []
    return [Plot("loss on the target set", series, "steps of adaptation", "mean loss of val episodes")]


def curve(model: Model, name: str, part: Part, rate: float, adapt: Adapt, steps: int) -> list[float]:
    """Target loss of one task after 0, 1, ..., ``steps`` steps."""
    both = torch.nn.ModuleList((model.encoder, model.heads[name]))
    fixed = {k: v.detach() for k, v in both.named_parameters()}
    moving = {k: v.requires_grad_() for k, v in fixed.items() if adapt == "all" or k.startswith("1.")}

    def loss(now: Params, support: bool) -> Tensor:
        block, query = (part.support, part.support_query) if support else (part.target, part.target_query)
        own = [{k[2:]: v for k, v in {**fixed, **now}.items() if k.startswith(f"{p}.")} for p in (0, 1)]
        h = functional_call(model.encoder, own[0], (block.x, block.graph))
        return functional_call(model.heads[name], own[1], (h, query))

    found = [float(loss(moving, False))]
    for _ in range(steps):
        with torch.enable_grad():
            moving = adapted(lambda now: loss(now, True), moving, rate, 1, True)
        moving = {k: v.detach().requires_grad_() for k, v in moving.items()}
        found.append(float(loss(moving, False)))
    return found


def embeddings(h: Tensor, dataset: Dataset) -> Sequence[Plot]:
    """Nodes, and means over graphs, on their two main axes, by class; at most MOST_POINTS of them, evenly spaced."""
    plots = []
    for task in dataset.tasks.values():
        if task.kind != "class" or (task.level == "graph" and dataset.node_graph is None):
            continue
        x = pooled(h, dataset) if task.level == "graph" else h[dataset.rows(task)]
        every = max(1, -(-x.size(0) // MOST_POINTS))
        flat, label = main_axes(x)[::every].tolist(), task.target[::every].tolist()
        series = {
            f"class {c}": [(a, b) for (a, b), own in zip(flat, label, strict=True) if own == c]
            for c in range(task.num_outputs)
        }
        plots.append(Plot(task.name, series, "first axis", "second axis", joined=False))
    return plots


def main_axes(x: Tensor) -> Tensor:
    """Rows of x on the two directions of largest variance: [n, 2]."""
    centred = (x - x.mean(0)).double()
    axes = torch.linalg.eigh(centred.t() @ centred).eigenvectors[:, -2:].flip(1)
    # The sign of an axis is free: the largest entry is made positive.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return centred @ axes

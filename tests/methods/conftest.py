"""A small data set with every kind of task, all with gaps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.data.tasks import NegativeSampler

GRAPHS, SIZE = 12, 8
NODES = GRAPHS * SIZE


def _split(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    where = torch.rand(n, generator=generator)
    return {"train": where < 0.6, "val": (where >= 0.6) & (where < 0.8), "test": where >= 0.8}


def _make(unlabelled: bool = False, regression_metric: str = "mae", unit: float = 1.0) -> Dataset:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(NODES, 5, generator=generator)
    owner = torch.arange(NODES) // SIZE
    ring = torch.arange(NODES)
    pairs = torch.stack((ring, owner * SIZE + (ring + 1) % SIZE))
    links = _split(pairs.shape[1], generator)
    kept = pairs[:, links["train"]]
    both = torch.cat((pairs, pairs.flip(0)), 1)
    sampler = NegativeSampler((both[0] * NODES + both[1]).sort().values, torch.arange(0, NODES + 1, SIZE), NODES)
    fixed = {s: sampler.draw(pairs[:, links[s]], generator) for s in ("val", "test")}
    graph_x = x.reshape(GRAPHS, SIZE, 5).mean(1)
    nodes = _split(NODES, generator)
    labels = (x[:, :3] > 0).float()
    labels[torch.rand(NODES, 3, generator=generator) < 0.3] = math.nan
    number = 3 + 2 * x[:, 0]
    number[::4] = math.nan
    classes = x[:, :3].argmax(1)
    classes[::5] = -1
    tasks = [
        Task("class", "class", "node", classes, nodes, "accuracy", num_outputs=3),
        Task("labels", "multilabel", "node", labels, nodes, "roc_auc", num_outputs=3),
        Task("number", "regression", "node", unit * number, nodes, regression_metric),
        Task("link", "link", "edge", pairs, links, "roc_auc", sampler=sampler, fixed_negatives=fixed),
        Task(
            "graph",
            "class",
            "graph",
            (graph_x[:, 0] > 0).long(),
            _split(GRAPHS, generator),
            "macro_f1",
            num_outputs=2,
        ),
    ]
    if unlabelled:
        gone = classes.masked_fill(nodes["train"], -1)
        tasks.append(Task("unlabelled", "class", "node", gone, nodes, "accuracy", num_outputs=3))
    return Dataset(
        name="mixed",
        graph=Graph.from_edge_index(torch.cat((kept, kept.flip(0)), 1), NODES, NODES),
        x=x,
        tasks=TaskSet(tasks),
        node_graph=owner,
        num_graphs=GRAPHS,
    )


@pytest.fixture
def make_mixed() -> Callable[..., Dataset]:
    """Node class, multi-label, regression, link and graph class on 12 rings of 8 nodes, with missing labels."""
    return _make


@pytest.fixture
def mixed() -> Dataset:
    return _make()

"""A small data set with every kind of task, all with gaps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.data.molecules import Molecules, molecules
from fastgmtl.data.splits import both_ways, link_task, random_split
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


def _molecules(count: int, seed: int = 0) -> Molecules:
    """Chains of up to 14 atoms, some closed to rings, of carbon, nitrogen and oxygen; labels: has nitrogen, has a ring.

    One label in five is missing.
    """
    draw = np.random.default_rng(seed)
    size = draw.integers(1, 15, count)
    size[:2] = 12, 1
    ring = (draw.random(count) < 0.4) & (size > 2)
    atom = np.stack([draw.choice([5, 5, 5, 6, 7], size.sum()), draw.integers(0, 3, size.sum())], 1)
    bonds = [
        [(k, k + 1) for k in range(n - 1)] + ([(int(n) - 1, 0)] if closed else [])
        for n, closed in zip(size, ring, strict=True)
    ]
    flat = np.array([pair for molecule in bonds for pair in molecule], np.int64).reshape(-1, 2)
    ptr = np.r_[0, size.cumsum()]
    nitrogen = [bool((atom[a:b, 0] == 6).any()) for a, b in itertools.pairwise(ptr)]
    y = np.stack([nitrogen, ring], 1).astype(np.float32)
    y[draw.random(y.shape) < 0.2] = np.nan
    arrays = {
        "atom": atom,
        "bond": flat,
        "bond_attr": np.stack([draw.integers(0, 4, len(flat)), draw.integers(0, 3, len(flat))], 1),
        "atom_ptr": ptr,
        "bond_ptr": np.r_[0, np.cumsum([len(b) for b in bonds])],
        "y": y,
        "scaffold_split": np.r_[0, 0, draw.choice(3, count - 2, p=[0.7, 0.15, 0.15])],
        "tasks": np.array(["nitrogen", "ring"]),
    }
    return molecules(Path("some.npz"), "some", arrays)


@pytest.fixture
def make_molecules() -> Callable[..., Molecules]:
    """Molecules without chemistry: ``count`` of them."""
    return _molecules


def _small_graphs(count: int = 40, seed: int = 3, dtype: torch.dtype = torch.float32) -> Dataset:
    """Graphs of 9 to 16 nodes whose classes can be learned: of graphs by their chords, of nodes by their features."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(9, 17, (count,), generator=generator)
    owner = torch.arange(count).repeat_interleave(sizes)
    ptr = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
    kind = torch.randint(2, (count,), generator=generator)
    total = int(ptr[-1])
    here = torch.arange(total) - ptr[owner]
    steps = (torch.ones(count, dtype=torch.int64), torch.where(kind > 0, 3, 1))
    pairs = [torch.stack((torch.arange(total), ptr[owner] + (here + step[owner]) % sizes[owner])) for step in steps]
    link, graph = link_task(both_ways(torch.cat(pairs, 1)), total, seed, ptr)
    x = torch.randn(total, 6, generator=generator)
    by_graph = random_split(count, (0.6, 0.2), seed)
    by_node = {name: mask[owner] for name, mask in by_graph.items()}
    tasks = [
        Task("graph_class", "class", "graph", kind, by_graph, "accuracy", num_outputs=2),
        Task("node_class", "class", "node", x[:, :3].argmax(1), by_node, "accuracy", num_outputs=3),
        link,
    ]
    return Dataset("small_graphs", graph, x.to(dtype), TaskSet(tasks), node_graph=owner, num_graphs=count)


@pytest.fixture
def small_graphs() -> Callable[..., Dataset]:
    """Many small graphs with graph class, node class and link tasks, as SAME has them."""
    return _small_graphs

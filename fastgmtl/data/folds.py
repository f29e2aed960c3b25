"""Folds of data sets of many graphs: repeated random splits, and cross-validation. Whole graphs are for test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.splits import both_ways, random_split
from fastgmtl.data.tasks import SPLITS, Task, TaskSet
from fastgmtl.graph import Graph

HELD = 0.2  # share of the edges of a graph of val and test that are asked for, and not in the message graph


def folds(
    dataset: Dataset,
    kind: Literal["permutations", "crossvalidation"] = "permutations",
    count: int = 10,
    seed: int = 123,
    fractions: tuple[float, float] = (0.7, 0.1),
) -> Iterator[Dataset]:
    """The data set, ``count`` times, its graphs split anew; nodes and links go with their graph.

    permutations: random splits of ``fractions`` for train and val, the rest for test; test sets overlap. SAME calls it
    cross-validation. crossvalidation: ``count`` disjoint test sets that cover all graphs; the next one is for val.
    Links of a graph in train are all for training; of a graph in val or test a fifth is asked for (HELD), beside as
    many pairs that are no edges, and messages pass along the rest.
    """
    if dataset.node_graph is None:
        raise ValueError(f"folds: data set {dataset.name} is one graph, there is nothing to split")
    if kind not in ("permutations", "crossvalidation"):
        raise ValueError(f"folds: kind must be permutations or crossvalidation, got {kind!r}")
    n = dataset.num_graphs
    if kind == "crossvalidation" and not 3 <= count <= n:
        raise ValueError(f"folds: count must be from 3 to the {n} graphs, got {count}")
    for fold in range(count):
        if kind == "permutations":
            split = random_split(n, fractions, seed + fold)
        else:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            part = torch.empty(n, dtype=torch.int64)
            part[order] = torch.arange(n) % count
            test, val = part == fold, part == (fold + 1) % count
            split = {"train": ~(test | val), "val": val, "test": test}
        yield by_graph(dataset, split, seed + fold)


def by_graph(dataset: Dataset, split: dict[str, Tensor], seed: int) -> Dataset:
    """The data set with the graphs split as the bool masks [G] say; see :func:`folds`."""
    assert dataset.node_graph is not None
    owner, graph, tasks = dataset.node_graph, dataset.graph, []
    split = {name: mask.to(owner.device) for name, mask in split.items()}
    for task in dataset.tasks.values():
        if task.kind == "link":
            made, graph = _links(task, {name: mask[owner[task.target[0]]] for name, mask in split.items()}, seed)
            tasks.append(made)
        else:
            own = split if task.level == "graph" else {name: mask[owner] for name, mask in split.items()}
            tasks.append(dataclasses.replace(task, split=own))
    return dataclasses.replace(dataset, graph=graph, tasks=TaskSet(tasks))


def _links(task: Task, of_graph: dict[str, Tensor], seed: int) -> tuple[Task, Graph]:
    """The task with a split by graph, and the message graph of all edges that are not asked for."""
    assert task.sampler is not None
    generator = torch.Generator().manual_seed(seed)
    asked = torch.rand(task.target.shape[1], generator=generator).to(task.target.device) < HELD
    split = {name: mask if name == "train" else mask & asked for name, mask in of_graph.items()}
    fixed = {name: task.sampler.draw(task.target[:, split[name]], generator) for name in SPLITS if name != "train"}
    seen = task.target[:, ~(split["val"] | split["test"])]
    nodes = task.sampler.num_nodes
    made = dataclasses.replace(task, split=split, fixed_negatives=fixed)
    return made, Graph.from_edge_index(both_ways(seen), nodes, nodes)

"""Splits, and what turns edges into a link-prediction task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastgmtl.data.negatives import NegativeSampler
from fastgmtl.data.tasks import SPLITS, Task
from fastgmtl.graph import Graph


def random_split(n: int, fractions: tuple[float, float], seed: int) -> dict[str, Tensor]:
    """Disjoint bool [n] masks: floor(f n) entries for train and val with f = fractions, the rest for test.

    The tiny addend keeps 0.7 * 10 at 7: a fraction that is meant to divide n must not lose one to rounding.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    first = int(fractions[0] * n + 1e-9)
    second = first + int(fractions[1] * n + 1e-9)
    split = {name: torch.zeros(n, dtype=torch.bool) for name in SPLITS}
    for name, part in zip(SPLITS, (order[:first], order[first:second], order[second:]), strict=True):
        split[name][part] = True
    return split


def masks(parts: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """Bool [n] masks of lists of indices."""
    split = {name: torch.zeros(n, dtype=torch.bool) for name in SPLITS}
    for name, index in parts.items():
        split[name][index] = True
    return split


def undirected(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Each pair of nodes joined by an edge once, as [2, M] with the smaller first, sorted; no self loops."""
    low, high = edge_index.min(0).values, edge_index.max(0).values
    keys = torch.unique((low * num_nodes + high)[low != high])
    return torch.stack((keys // max(1, num_nodes), keys % max(1, num_nodes)))


def both_ways(pairs: Tensor) -> Tensor:
    """Every pair in both directions: [2, M] to [2, 2 M]."""
    return torch.cat((pairs, pairs.flip(0)), dim=1)


def link_task(
    edge_index: Tensor, num_nodes: int, seed: int, ptr: Tensor | None = None, name: str = "link"
) -> tuple[Task, Graph]:
    """Link prediction on the undirected edges, 80/10/10, and the message graph of its training edges.

    ptr int64 [G + 1] bounds the nodes of each graph: negatives join nodes of one graph, in number as the positives.
    """
    pairs = undirected(edge_index, num_nodes)
    ends = both_ways(pairs)
    keys = (ends[0] * num_nodes + ends[1]).sort().values
    sampler = NegativeSampler(keys, torch.tensor([0, num_nodes]) if ptr is None else ptr, num_nodes)
    split = random_split(pairs.shape[1], (0.8, 0.1), seed)
    generator = torch.Generator().manual_seed(seed)
    fixed = {part: sampler.draw(pairs[:, split[part]], generator) for part in ("val", "test")}
    task = Task(
        name=name,
        kind="link",
        level="edge",
        target=pairs,
        split=split,
        metric="roc_auc",
        sampler=sampler,
        fixed_negatives=fixed,
    )
    messages = both_ways(pairs[:, split["train"]])
    return task, Graph.from_edge_index(messages, num_nodes, num_nodes)


def degree_features(graph: Graph) -> Tensor:
    """Features for a graph that has none: 1 and log(1 + degree) in the message graph, float32 [N, 2]."""
    degree = graph.in_degree().float()
    return torch.stack((torch.ones_like(degree), degree.log1p()), dim=1)

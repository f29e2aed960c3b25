"""Heads trained on frozen embeddings: what embeddings are worth to a small network, for seen and unseen tasks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastgmtl.data import METRICS, Dataset, Task
from fastgmtl.graph import Graph
from fastgmtl.methods.same.episodes import Block, Query, batches
from fastgmtl.methods.same.model import Head, head
from fastgmtl.methods.same.probes import Embed, Probes

BATCH, LR, LOOK = 8, 1e-3, 5  # SAME's: graphs a step, Adam's rate, epochs from one val score to the next


def head_scores(probes: Probes, embed: Embed, dataset: Dataset, split: str, epochs: int = 100) -> dict[str, float]:
    """Score on a split of a fresh head for every task, trained on the frozen embeddings of the training graphs.

    Every five epochs it is scored on val; the best one counts. Draws from PyTorch's global generator.
    """
    with torch.no_grad():
        h = embed(Block(dataset.x, dataset.graph, (0, dataset.num_nodes)))
        known = embed(probes.block.to(h.device))
    found = {}
    for name, task in dataset.tasks.items():
        network = head(task, h.size(1), probes.variant).to(h)
        made = list(_links(probes, known) if task.kind == "link" else _classes(probes, task, h))
        found[name] = _train(network, made, task, h, dataset, split, epochs)
    return found


def _classes(probes: Probes, task: Task, h: Tensor) -> Iterator[tuple[Tensor, Query]]:
    graphs = probes.graphs
    for batch in batches(probes.train, BATCH):
        rows = torch.cat([torch.arange(graphs.ptr[g], graphs.ptr[g + 1]) for g in batch]).to(h.device)
        if task.level == "graph":
            yield h[rows], Query(task.target[batch], _pool([graphs.size(g) for g in batch]).to(h.device))
        else:
            here = (task.target[rows] >= 0).nonzero()[:, 0]
            yield h[rows], Query(task.target[rows[here]], here)


def _pool(sizes: list[int]) -> Graph:
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Graph.from_edge_index(torch.stack((torch.arange(owner.numel()), owner)), owner.numel(), len(sizes))


def _links(probes: Probes, known: Tensor) -> Iterator[tuple[Tensor, Query]]:
    held = probes.held.to(known.device)
    assert isinstance(held.index, Tensor)
    order = torch.randperm(held.target.numel()).to(known.device)
    for pairs in order.tensor_split(max(1, len(probes.train) // BATCH)):
        nodes, index = held.index[:, pairs].unique(return_inverse=True)
        yield known[nodes], Query(held.target[pairs], index)


def _train(
    network: Head,
    made: list[tuple[Tensor, Query]],
    task: Task,
    h: Tensor,
    dataset: Dataset,
    split: str,
    epochs: int,
) -> float:
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    best, weights = -1.0, network.state_dict()
    for epoch in range(1, epochs + 1):
        for features, query in made:
            optimizer.zero_grad()
            network(features, query).backward()
            optimizer.step()
        if epoch % LOOK == 0 or epoch == epochs:
            score = _score(network, task, h, dataset, "val")
            if score > best:
                best, weights = score, {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(weights)
    return _score(network, task, h, dataset, split)


@torch.no_grad()
def _score(network: Head, task: Task, h: Tensor, dataset: Dataset, split: str) -> float:
    if task.kind == "link":
        pairs = task.positives(split), task.negatives(split)
        outputs = [network.scores(h, Query(p[0], p)) for p in pairs]
        truth = torch.cat([torch.full_like(o, float(k == 0)) for k, o in enumerate(outputs)])
        return METRICS[task.metric](torch.cat(outputs), truth)
    if task.level == "graph":
        assert dataset.node_graph is not None
        sizes = torch.bincount(dataset.node_graph, minlength=dataset.num_graphs).tolist()
        return task.score(network.scores(h, Query(task.target, _pool(sizes).to(h.device))), split)
    return task.score(network.scores(h, Query(task.target, torch.arange(h.size(0), device=h.device))), split)

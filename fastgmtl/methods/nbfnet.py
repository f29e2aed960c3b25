"""NBFNet on a knowledge graph: trained with negative samples, judged by filtered ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.data.knowledge import KnowledgeGraph
from fastgmtl.graph import Graph
from fastgmtl.nn.nbfnet import NBFNet

HITS = (1, 3, 10)


@dataclass(frozen=True)
class NBFNetConfig:
    """The published settings, but for batches of both questions of a triple."""

    channels: int = 32
    num_layers: int = 6
    message: str = "mul"
    aggr: str = "pna"
    lr: float = 5e-3
    batch: int = 64  # questions
    negatives: int = 32
    temperature: float = 0.5  # of the weights of negatives, by their scores; 0: equal weights


def build(data: KnowledgeGraph, config: NBFNetConfig) -> NBFNet:
    """The model of the config for a knowledge graph and its inverse relations."""
    return NBFNet(config.channels, config.num_layers, 2 * data.num_relations, config.message, config.aggr)


def fit(model: NBFNet, data: KnowledgeGraph, config: NBFNetConfig, epochs: int, seed: int = 0) -> Iterator[float]:
    """Train; yields the mean loss of each epoch.

    The edges between the two entities of a batch's triples, in both directions, are left out of the graph while it is
    trained on: it would learn to look them up.
    """
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    generator = torch.Generator().manual_seed(seed)
    source, relation, answer = data.queries("train")
    edges, types = data.graph.edge_index(), data.edge_type
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(source), generator=generator).split(config.batch):
            questions, answers = (source[rows], relation[rows]), answer[rows]
            keep = ~joined(edges, questions[0], answers, data.num_entities)
            graph = Graph.from_edge_index(edges[:, keep], data.num_entities, data.num_entities)
            wrong = negatives(data, *questions, config.negatives, generator)
            scores = model(graph, types[keep], *questions, torch.cat([answers.unsqueeze(1), wrong], 1))
            loss = ranking_loss(scores, config.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())


def joined(edges: Tensor, head: Tensor, tail: Tensor, num_entities: int) -> Tensor:
    """Whether an edge [2, E] joins the head and the tail of a triple, in either direction; bool [E]."""
    pairs = torch.cat([head * num_entities + tail, tail * num_entities + head])
    return torch.isin(edges[0] * num_entities + edges[1], pairs)


def negatives(data: KnowledgeGraph, source: Tensor, relation: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` entities [B, count] that do not answer the question in train, drawn uniformly."""
    chance = (~data.known(source, relation, ("train",))).float()
    chance[chance.sum(1) == 0] = 1.0  # everything is an answer
    return torch.multinomial(chance, count, replacement=True, generator=generator)


def ranking_loss(scores: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy of the answer (column 0) and the weighted mean of that of the negatives."""
    right, wrong = F.softplus(-scores[:, 0]), F.softplus(scores[:, 1:])
    if temperature > 0:
        wrong = wrong * (scores[:, 1:].detach() / temperature).softmax(1)
        return ((right + wrong.sum(1)) / 2).mean()
    return ((right + wrong.mean(1)) / 2).mean()


@torch.no_grad()
def evaluate(model: NBFNet, data: KnowledgeGraph, split: str, batch: int = 64) -> dict[str, float]:
    """``mrr`` and ``hits@k`` of both questions of every triple, among all entities that are no other known answer.

    Of equal scores the rank is the mean: an answer is neither favoured nor put behind.
    """
    found = []
    for source, relation, answer in zip(*(v.split(batch) for v in data.queries(split)), strict=True):
        scores = model(data.graph, data.edge_type, source, relation)
        found.append(ranks(scores, answer, data.known(source, relation)))
    rank = torch.cat(found)
    return {"mrr": float(rank.reciprocal().mean()), **{f"hits@{k}": float((rank <= k).double().mean()) for k in HITS}}


def ranks(scores: Tensor, answer: Tensor, known: Tensor) -> Tensor:
    """The filtered rank of each answer [B], from 1; float64."""
    own = scores.gather(1, answer.unsqueeze(1))
    others = (~known).scatter(1, answer.unsqueeze(1), False)
    above, equal = ((compare & others).sum(1).double() for compare in (scores > own, scores == own))
    return 1 + above + equal / 2

"""The model of SAME: a GCN that embeds nodes in rows of length 1, and one head for each task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Task
from fastgmtl.graph import Graph
from fastgmtl.methods.same.episodes import Query, Variant
from fastgmtl.nn import GCNConv
from fastgmtl.ops import spmm

# Rows shorter than this have no direction: they become 0, with gradient 0.
SHORTEST = 1e-12


def unit_rows(v: Tensor) -> Tensor:
    """Rows of v [n, d] divided by their 2-norms; 0 for a row of norm below SHORTEST. Differentiable to any order."""
    square = v.square().sum(-1, keepdim=True)
    long = square > SHORTEST**2
    return v * torch.where(long, torch.where(long, square, 1).rsqrt(), 0)


class Encoder(nn.Module):
    r"""Layers of GCNConv: :math:`V_l = \mathrm{relu}(\hat A H_{l-1} W_l + b_l) + H_{l-1}` (the sum from the second on).

    ``residual``: with that sum. ``normalize``: :math:`H_l = V_l / \|V_l\|` row by row, after the sum.
    ``batch_norm``: before the relu. Maps x [n, F] to h [n, hidden].
    """

    def __init__(
        self,
        features: int,
        hidden: int = 256,
        layers: int = 3,
        residual: bool = True,
        normalize: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [features] + [hidden] * layers
        self.convs = nn.ModuleList(GCNConv(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(layers if batch_norm else 0))
        self.residual = residual
        self.normalize = normalize

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """h [n, hidden] of x [n, F] on a graph of n nodes."""
        h = x
        for place, conv in enumerate(self.convs):
            u = conv(h, graph)
            v = (self.norms[place](u) if self.norms else u).relu()
            v = v + h if self.residual and place else v
            h = unit_rows(v) if self.normalize else v
        return h


class Head(nn.Module):
    """From embeddings h [n, d] and a query to outputs, and to their mean loss."""

    @abstractmethod
    def scores(self, h: Tensor, query: Query) -> Tensor:
        """Logits [q, C], or [q] for pairs."""

    def forward(self, h: Tensor, query: Query) -> Tensor:
        """Mean cross entropy over the query; 0 where it is empty."""
        logits = self.scores(h, query)
        return F.cross_entropy(logits, query.target) if query.target.numel() else logits.sum()


class NodeHead(Head):
    """Classes of nodes: h W + b."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, classes)

    def scores(self, h: Tensor, query: Query) -> Tensor:
        """[q, C]."""
        # Few columns are picked instead of many: first the map, then the rows.
        return self.linear(h).index_select(0, query.index)


class GraphHead(Head):
    """Classes of graphs: relu(h W1 + b1), its mean (or sum) over each graph's nodes, W2 and b2."""

    def __init__(self, hidden: int, classes: int, reduce: str) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, classes)
        self.reduce = reduce

    def scores(self, h: Tensor, query: Query) -> Tensor:
        """[number of graphs, C]."""
        assert isinstance(query.index, Graph)
        return self.second(spmm(query.index, self.first(h).relu(), reduce=self.reduce))


class LinkHead(Head):
    """Pairs (a, b): w . [q_a ; q_b] + c with q = relu(h W + b).

    Every node is mapped once, to two numbers: nothing of the size of pairs times d is written. ``released``: q without
    relu, and the logistic of the score, in [1e-8, 1 - 1e-8], is taken for the logit.
    """

    def __init__(self, hidden: int, released: bool) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(2 * hidden, 1)
        self.released = released

    def scores(self, h: Tensor, query: Query) -> Tensor:
        """[q]: the logit of an edge."""
        assert isinstance(query.index, Tensor)
        q = self.first(h)
        if not self.released:
            q = q.relu()
        ends = q @ self.second.weight.view(2, -1).t()
        a, b = (ends[:, k].index_select(0, query.index[k]) for k in (0, 1))
        score = a + b + self.second.bias
        return score.sigmoid().clamp(1e-8, 1 - 1e-8) if self.released else score

    def forward(self, h: Tensor, query: Query) -> Tensor:
        """Mean binary cross entropy; 0 where the query is empty."""
        score = self.scores(h, query)
        if not score.numel():
            return score.sum()
        return F.binary_cross_entropy_with_logits(score, query.target.to(score.dtype))


def head(task: Task, hidden: int, variant: Variant) -> Head:
    """A fresh head for the task."""
    released = variant == "as_released"
    if task.level == "graph":
        return GraphHead(hidden, task.num_outputs, "sum" if released else "mean")
    return LinkHead(hidden, released) if task.level == "edge" else NodeHead(hidden, task.num_outputs)


class Model(nn.Module):
    """An encoder ``(x [n, F], graph) -> h [n, d]``, any module, and a head for each task."""

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    @classmethod
    def of(cls, encoder: nn.Module, tasks: Sequence[Task], hidden: int, variant: Variant = "as_described") -> Model:
        """With a fresh head for each task."""
        return cls(encoder, {task.name: head(task, hidden, variant) for task in tasks})

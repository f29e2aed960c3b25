"""What embeddings are worth: linear probes and heads on frozen embeddings, for tasks that were trained and unseen ones.

Every probe is fit on the training graphs. Those of links see their message graph without the pairs that they are fit on
(``as_described``), or with them (``as_released``). scikit-learn is imported where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.data import METRICS, Dataset, Task
from fastgmtl.graph import Graph
from fastgmtl.methods.heads import standard
from fastgmtl.methods.same.episodes import Block, Graphs, Maker, Query, Variant
from fastgmtl.ops import spmm

Embed = Callable[[Block], Tensor]
# From features [n, F], classes [n] and features [m, F] to one number [m] (two classes) or [m, C].
Probe = Callable[[Tensor, Tensor, Tensor, int], Tensor]
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Probes:
    """The training graphs as probes are fit on them: ``block`` and ``held``, the pairs that link probes are fit on."""

    graphs: Graphs
    train: Sequence[int]
    block: Block
    held: Query
    variant: Variant

    @classmethod
    def of(cls, graphs: Graphs, train: Sequence[int], variant: Variant, generator: torch.Generator) -> Probes:
        """For the training graphs; the pairs are a fifth of the edges, or the last tenth of them ``as_released``."""
        train = sorted(train)
        if variant == "as_described":
            block, _, held = Maker(graphs, generator).links(train, everything=False)
            return cls(graphs, train, block, held, variant)
        starts = graphs.starts(train)
        sides = [torch.empty(2, 0, dtype=torch.int64)], [torch.empty(2, 0, dtype=torch.int64)]
        for graph, start in zip(train, starts, strict=False):
            for side, pairs in zip(sides, (graphs.edges(graph), graphs.non_edges(graph)), strict=True):
                side.append(last_tenth(pairs) + start)
        positive, negative = (torch.cat(side, 1) for side in sides)
        target = torch.cat((torch.ones(positive.size(1)), torch.zeros(negative.size(1))))
        return cls(graphs, train, graphs.block(train), Query(target, torch.cat((positive, negative), 1)), variant)

    def scores(self, embed: Embed, dataset: Dataset, split: str, probe: Probe) -> dict[str, float]:
        """Score of every task on a split; NaN where there is nothing to fit or to score."""
        h = embed(Block(dataset.x, dataset.graph, (0, dataset.num_nodes)))
        return {name: self.score(task, embed, h, dataset, split, probe) for name, task in dataset.tasks.items()}

    def score(self, task: Task, embed: Embed, h: Tensor, dataset: Dataset, split: str, probe: Probe) -> float:
        """Score of one task on a split, from the embeddings h [N, d] of the data set's graph."""
        if task.kind not in ("class", "link"):
            return float("nan")
        if task.kind == "link":
            return self._link(task, embed, h, split, probe)
        x = pooled(h, dataset) if task.level == "graph" else h
        rows, seen = ((task.split[s] & (task.target >= 0)).nonzero()[:, 0] for s in (split, "train"))
        if not rows.numel() or task.target[seen].unique().numel() < 2:
            return float("nan")
        found = probe(x[seen], task.target[seen], x[rows], task.num_outputs)
        found = torch.stack((-found, found), 1) if found.dim() == 1 else found
        return METRICS[task.metric](found, task.target[rows])

    def _link(self, task: Task, embed: Embed, h: Tensor, split: str, probe: Probe) -> float:
        block, held = self.block.to(h.device), self.held.to(h.device)
        pairs = task.positives(split), task.negatives(split)
        if not pairs[0].size(1) or not held.target.numel():
            return float("nan")
        both = torch.cat(pairs, 1)
        truth = torch.cat([torch.full((p.size(1),), float(p is pairs[0]), device=h.device) for p in pairs])
        assert isinstance(held.index, Tensor)
        known = embed(block)
        found = probe(ends(known, held.index), held.target.long(), ends(h, both), 2)
        if self.variant == "as_released":
            return METRICS["accuracy"](torch.stack((-found, found), 1), truth.long())
        return METRICS[task.metric](found, truth)


def last_tenth(pairs: Tensor) -> Tensor:
    """The last tenth of pairs [2, m], as SAME's code takes it."""
    return pairs[:, int(0.9 * pairs.size(1)) :]


def ends(h: Tensor, pairs: Tensor) -> Tensor:
    """[h_a, h_b] of pairs [2, q]: [q, 2 d]."""
    return torch.cat((h[pairs[0]], h[pairs[1]]), 1)


def pooled(h: Tensor, dataset: Dataset) -> Tensor:
    """Mean of h over the nodes of each graph: [G, d]."""
    assert dataset.node_graph is not None
    nodes = torch.arange(dataset.num_nodes, device=h.device)
    pool = Graph.from_edge_index(torch.stack((nodes, dataset.node_graph)), dataset.num_nodes, dataset.num_graphs)
    return spmm(pool, h, reduce="mean")


# ------------------------------------------------------------------------------------------------ probes


def _numbers(found: Tensor) -> Tensor:
    """[m, C] of two classes as one number [m]."""
    return found[:, 1] - found[:, 0] if found.size(1) == 2 else found


def ridge(x: Tensor, y: Tensor, new: Tensor, classes: int) -> Tensor:
    """Ridge regression of the classes' indicators on standardised features: exact, in one solve."""
    shift, scale = standard(x)
    x, new = (x - shift) / scale, (new - shift) / scale
    target = F.one_hot(y, classes).to(x.dtype)
    mean = target.mean(0)
    gram = (x.t() @ x).double()
    gram.diagonal().add_(RIDGE * x.size(0))
    weight = torch.linalg.solve(gram, (x.t() @ (target - mean)).double()).to(x.dtype)
    return _numbers(new @ weight + mean)


def _fitted(model: Any, x: Tensor, y: Tensor, new: Tensor, classes: int) -> Tensor:
    from sklearn.exceptions import ConvergenceWarning

    shift, scale = standard(x)
    left, right = (v.sub(shift).div(scale).double().cpu().numpy() for v in (x, new))
    with warnings.catch_warnings():
        # SAME's settings; whether a thousand rounds are enough is theirs to answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(left, y.cpu().numpy())
    found = torch.from_numpy(model.decision_function(right))
    if found.dim() == 1:
        if classes == 2:
            return found.to(x.device)
        found = torch.stack((-found, found), 1)
    out = found.new_full((found.size(0), classes), -torch.inf)
    out[:, torch.from_numpy(model.classes_)] = found
    return out.to(x.device)


def svc(x: Tensor, y: Tensor, new: Tensor, classes: int) -> Tensor:
    """LinearSVC(C=1, tol=1e-5) on standardised features: SAME's linear probe.

    Solved in the primal: the same optimum, and fewer unknowns than the dual has where nodes outnumber features.
    """
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=1.0, tol=1e-5, max_iter=1000, random_state=0, dual=False)
    return _fitted(model, x, y, new, classes)


def logistic(x: Tensor, y: Tensor, new: Tensor, classes: int) -> Tensor:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression

    return _fitted(LogisticRegression(max_iter=1000), x, y, new, classes)


PROBES: Mapping[str, Probe] = {"svc": svc, "logistic": logistic, "ridge": ridge}


def delta_m(scores: Mapping[str, float], single: Mapping[str, float]) -> float:
    """Mean over the tasks of the relative gain over single-task training, in per cent: 100 mean (M - B) / B."""
    return 100 * sum((scores[name] - single[name]) / single[name] for name in scores) / len(scores)

"""The meta-step of SAME without this library: as the authors' code has it, and the best that plain PyTorch does.

Both take the parameters of a :class:`fastgmtl.methods.same.Model` by name and an Episode, and return the outer losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers import csr
from fastgmtl import Graph
from fastgmtl.methods.same import Episode
from fastgmtl.methods.same.episodes import Block, Query
from fastgmtl.ops import gcn_norm

Params = dict[str, Tensor]
Aggregate = Callable[[Tensor], Tensor]
LAYERS = 3


def of_task(params: Params, task: str) -> Params:
    """The encoder's parameters and those of the task's head."""
    return {k: v for k, v in params.items() if k.startswith(("encoder.", f"heads.{task}."))}


# ------------------------------------------------------------------------------------------------ as released


def index_add(edge_index: Tensor, h: Tensor) -> Tensor:
    """A GCN's aggregation; loops and normalisation made anew in every call."""
    n = h.size(0)
    keep = edge_index[0] != edge_index[1]
    loops = torch.arange(n)
    row, col = torch.cat([edge_index[:, keep], torch.stack([loops, loops])], 1)
    weight = torch.ones(row.size(0), dtype=h.dtype)
    degree = torch.zeros(n, dtype=h.dtype).index_add(0, row, weight)
    scale = degree.pow(-0.5)
    scale = scale.masked_fill(scale == float("inf"), 0)
    norm = scale[row] * weight * scale[col]
    return torch.zeros_like(h).index_add(0, col, norm.view(-1, 1) * h[row])


def encode(params: Params, x: Tensor, aggregate: Aggregate) -> Tensor:
    """Three layers, residual and normalised rows."""
    h = x
    for layer in range(LAYERS):
        name = f"encoder.convs.{layer}"
        v = (aggregate(h @ params[f"{name}.lin.weight"].t()) + params[f"{name}.bias"]).relu()
        h = F.normalize(v + h if layer else v)
    return h


def loss(params: Params, task: str, level: str, h: Tensor, query: Query) -> Tensor:
    """Of one head; the pairs of links are two matrices of embeddings, side by side."""

    def linear(value: Tensor, name: str) -> Tensor:
        return F.linear(value, params[f"heads.{task}.{name}.weight"], params[f"heads.{task}.{name}.bias"])

    if level == "node":
        return F.cross_entropy(linear(h[query.index], "linear"), query.target)
    if level == "graph":
        owner = query.index.edge_index()[1]
        pooled = h.new_zeros(query.index.num_dst, h.size(1)).index_add(0, owner, linear(h, "first").relu())
        count = torch.bincount(owner, minlength=query.index.num_dst).view(-1, 1)
        return F.cross_entropy(linear(pooled / count, "second"), query.target)
    ends = [linear(h[query.index[side]], "first").relu() for side in (0, 1)]
    score = linear(torch.cat(ends, 1), "second")[:, 0]
    return F.binary_cross_entropy_with_logits(score, query.target.to(score.dtype))


def released(
    params: Params,
    episode: Episode,
    levels: dict[str, str],
    adapt: str,
    rate: float = 0.04,
    aggregates: Callable[[Block], Aggregate] | None = None,
) -> Tensor:
    """Sum of the outer losses: one task after the other, autograd with ``create_graph``.

    ``aggregates`` makes another aggregation of a block: the same model on other operators.
    """
    make = aggregates or (lambda block: partial(index_add, block.graph.edge_index()))
    total = []
    for task, part in episode.parts.items():
        now = of_task(params, task)

        def run(now: Params, block: Block, query: Query, task: str = task) -> Tensor:
            return loss(now, task, levels[task], encode(now, block.x, make(block)), query)

        names = [k for k in now if adapt == "all" or k.startswith("heads.")]
        inner = run(now, part.support, part.support_query)
        grads = torch.autograd.grad(inner, [now[k] for k in names], create_graph=True)
        adapted = now | {k: now[k] - rate * g for k, g in zip(names, grads, strict=True)}
        total.append(run(adapted, part.target, part.target_query))
    return torch.stack(total).sum()


# ------------------------------------------------------------------------------------------------ best of plain


class Plain:
    """An episode with everything that is constant made beforehand: normalised CSR matrices of the joined graphs."""

    def __init__(self, episode: Episode, levels: dict[str, str]) -> None:
        self.episode, self.levels = episode, levels
        self.sides = {name: self._side(getattr(episode, name)) for name in ("support", "target", "union")}
        self.pools = {id(g): self._pool(g) for part in episode.parts.values() for g in self._graphs(part)}

    @staticmethod
    def _graphs(part: object) -> list[Graph]:
        queries = (part.support_query, part.target_query)  # type: ignore[attr-defined]
        return [q.index for q in queries if isinstance(q.index, Graph)]

    @staticmethod
    def _pool(graph: Graph) -> Tensor:
        dense = torch.zeros(graph.num_dst, graph.num_src)
        dense[graph.edge_rows(), graph.col.long()] = 1
        return dense / dense.sum(1, keepdim=True)

    @staticmethod
    def _side(block: Block) -> tuple[Tensor, Tensor, Sequence[int]]:
        graph, weight = gcn_norm(block.graph)
        matrix = csr(graph, weight, torch.int32)
        return matrix, matrix @ block.x, [b - a for a, b in pairwise(block.bounds)]

    def loss(self, params: Params, task: str, h: Tensor, query: Query) -> Tensor:
        """As :func:`loss`, but nodes are mapped before pairs are made, and pools are matrices."""
        p = {k.removeprefix(f"heads.{task}."): v for k, v in params.items()}
        level = self.levels[task]
        if level == "node":
            return F.cross_entropy(F.linear(h, p["linear.weight"], p["linear.bias"])[query.index], query.target)
        q = F.linear(h, p["first.weight"], p["first.bias"]).relu()
        if level == "graph":
            pooled = self.pools[id(query.index)] @ q
            return F.cross_entropy(F.linear(pooled, p["second.weight"], p["second.bias"]), query.target)
        ends = q @ p["second.weight"].view(2, -1).t()
        score = ends[query.index[0], 0] + ends[query.index[1], 1] + p["second.bias"]
        return F.binary_cross_entropy_with_logits(score, query.target)

    def embed(self, side: str, weights: Sequence[Params]) -> list[Tensor]:
        """Embeddings by task; with one set of weights a task, its products are apart, the aggregation is not."""
        matrix, smooth, sizes = self.sides[side]
        h = None
        for layer in range(LAYERS):
            name = f"encoder.convs.{layer}"
            p = smooth if h is None else matrix @ h
            rows = [p] if len(weights) == 1 else p.split(sizes)
            parts = [
                F.linear(r, w[f"{name}.lin.weight"], w[f"{name}.bias"]) for r, w in zip(rows, weights, strict=True)
            ]
            v = torch.cat(parts).relu() if len(parts) > 1 else parts[0].relu()
            h = F.normalize(v if h is None else v + h)
        return list(h.split(sizes))

    def run(self, params: Params, adapt: str, rate: float = 0.04) -> Tensor:
        """Sum of the outer losses."""
        parts = self.episode.parts
        mine = [of_task(params, task) for task in parts]
        if adapt == "heads":
            (h,) = [torch.cat(self.embed("union", [params]))]
            sides = [[h[r] for r in rows] for rows in self.episode.union_rows.values()]
        else:
            sides = [[h] for h in self.embed("support", mine)]
        adapted = []
        for task, own, h in zip(parts, mine, sides, strict=True):
            inner = self.loss(own, task, h[0], parts[task].support_query)
            names = [k for k in own if adapt == "all" or k.startswith("heads.")]
            grads = torch.autograd.grad(inner, [own[k] for k in names], create_graph=True)
            adapted.append(own | {k: own[k] - rate * g for k, g in zip(names, grads, strict=True)})
        target = [h[1] for h in sides] if adapt == "heads" else self.embed("target", adapted)
        outer = zip(parts, adapted, target, strict=True)
        return torch.stack([self.loss(p, task, h, parts[task].target_query) for task, p, h in outer]).sum()

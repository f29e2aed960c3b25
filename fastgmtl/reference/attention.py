"""Attention over the edges of a graph in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import attend, fold_tasks, num_tasks, pair_scores, seed_tensor


def attention(
    graph: Graph,
    value: Tensor,
    *,
    score_dst: Tensor | None = None,
    score_src: Tensor | None = None,
    score_type: Tensor | None = None,
    edge_type: Tensor | None = None,
    score_edge: Tensor | None = None,
    query: Tensor | None = None,
    key: Tensor | None = None,
    att: Tensor | None = None,
    scale: float | None = None,
    negative_slope: float | None = 0.2,
    dropout: float = 0.0,
    dropout_on: str = "weights",
    training: bool = True,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax of scores over the edges of each destination, times values; see :func:`fastgmtl.ops.attention`."""
    features = (value, query, key)
    scores = (score_dst, score_src, score_type, score_edge)
    tasks = num_tasks(
        *((f, 3) for f in features), *((s, 2) for s in scores), (None if att is None else att.unsqueeze(0), 3)
    )
    folded_value, query, key = (fold_tasks(f, tasks, 3) for f in features)
    score_dst, score_src, score_type, score_edge = (fold_tasks(s, tasks, 2) for s in scores)
    slope = 1.0 if negative_slope is None else negative_slope
    if query is not None and key is not None:
        att = fold_tasks(None if att is None else att.unsqueeze(0), tasks, 3)
        scale = (query.size(-1) or 1) ** -0.5 if scale is None else scale
        pairs = pair_scores(graph, query, key, att, scale, slope)
        score_edge, slope = pairs if score_edge is None else pairs + score_edge, 1.0
    seed = seed_tensor(seed, generator, value.device) if training and dropout > 0 else None
    rest = (edge_type, seed, slope, dropout, dropout_on == "logits")
    assert folded_value is not None
    out, _, weight = attend(graph, folded_value, score_dst, score_src, score_type, score_edge, *rest)
    if tasks is not None:
        out, weight = out.unflatten(1, (tasks, -1)), weight.unflatten(1, (tasks, -1))
    return (out, weight) if return_weights else out

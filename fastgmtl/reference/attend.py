"""Plain PyTorch twins of the operators of :mod:`fastgmtl.ops.attend`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from fastgmtl.graph import Graph
from fastgmtl.reference.philox import dropout_mask


def wide(value: Tensor) -> Tensor:
    """Half precision in float32, the type in which kernels compute."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def edge_ends(graph: Graph) -> tuple[Tensor, Tensor]:
    """Source and destination of every edge, int64, in the user's order."""
    return tuple(graph.unsort_edges(end) for end in (graph.col.long(), graph.edge_rows()))  # type: ignore[return-value]


def pair_scores(
    graph: Graph, query: Tensor, key: Tensor, att: Tensor | None, scale: float, negative_slope: float
) -> Tensor:
    """``scale * <query_i, key_j>`` or, with ``att``, ``<att, leaky(query_i + key_j)>``, [E, K] in the user's order."""
    src, dst = edge_ends(graph)
    left, right = wide(query)[dst], wide(key)[src]
    if att is None:
        return (left * right).sum(-1) * scale
    return (leaky_relu(left + right, negative_slope) * wide(att)).sum(-1)


def logits(
    graph: Graph,
    score_dst: Tensor | None,
    score_src: Tensor | None,
    score_type: Tensor | None,
    score_edge: Tensor | None,
    edge_type: Tensor | None,
    negative_slope: float,
) -> Tensor:
    """leaky_relu of the sum of the scores of every edge, [E, K] in the user's order."""
    src, dst = edge_ends(graph)
    at = ((score_dst, dst), (score_src, src), (score_type, edge_type), (score_edge, None))
    terms = [wide(s) if i is None else wide(s)[i.long()] for s, i in at if s is not None]
    return leaky_relu(sum(terms[1:], terms[0]), negative_slope)


def softmax(graph: Graph, logit: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the edges of each destination, [E, K], and the log of the sum of exponentials, [num_dst, K] float64.

    -inf is as good as an absent edge; a destination without other edges has weights and a log of 0.
    """
    dst = edge_ends(graph)[1]
    shape = (graph.num_dst, *logit.shape[1:])
    index = dst.reshape(-1, *[1] * (logit.dim() - 1)).expand(logit.shape)
    top = logit.new_full(shape, -math.inf).scatter_reduce(0, index, logit.detach(), "amax")
    top = torch.where(top == -math.inf, 0, top)
    weight = (logit - top[dst]).exp()
    total = weight.new_zeros(shape).index_add(0, dst, weight)
    some = total != 0
    total = torch.where(some, total, 1)
    return weight / total[dst], torch.where(some, top.double() + total.log(), 0)


def num_tasks(*values: tuple[Tensor | None, int]) -> int | None:
    """T of the first (tensor, rank without tasks) that has a task axis, the last but rank - 1; None without any."""
    return next((v.size(-rank) for v, rank in values if v is not None and v.dim() > rank), None)


def fold_tasks(value: Tensor | None, tasks: int | None, rank: int) -> Tensor | None:
    """Tasks and heads as one axis; a tensor of ``rank`` axes, that of heads after the first, is shared by the tasks."""
    if value is None or tasks is None:
        return value
    if value.dim() == rank:
        value = value.unsqueeze(1).expand(-1, tasks, *[-1] * (rank - 1))
    return value.flatten(1, 2)


def seed_tensor(seed: int | Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed of a dropout, int64 [1]: the given one, or one drawn on the device, where nothing waits for it."""
    if seed is None:
        return torch.randint(2**62, (1,), dtype=torch.int64, device=device, generator=generator)
    if isinstance(seed, Tensor):
        return seed.reshape(1)
    return torch.tensor([seed], dtype=torch.int64, device=device)


def attend(
    graph: Graph,
    value: Tensor,
    score_dst: Tensor | None,
    score_src: Tensor | None,
    score_type: Tensor | None,
    score_edge: Tensor | None,
    edge_type: Tensor | None,
    seed: Tensor | None,
    negative_slope: float,
    dropout: float,
    drop_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums [num_dst, K, d], logs of the sums of exponentials [num_dst, K], weights [E, K]."""
    logit = logits(graph, score_dst, score_src, score_type, score_edge, edge_type, negative_slope)
    mask = None
    if seed is not None:
        mask = dropout_mask(seed, graph.num_edges, logit.size(1), dropout, logit.dtype)
    if mask is not None and drop_logits:
        logit = torch.where(mask > 0, logit * mask, 0)
    weight, lse = softmax(graph, logit)
    if mask is not None and not drop_logits:
        weight = weight * mask
    src, dst = edge_ends(graph)
    message = weight.unsqueeze(-1) * wide(value)[src]
    out = message.new_zeros(graph.num_dst, *message.shape[1:]).index_add(0, dst, message)
    return out.to(value.dtype), lse, weight.to(value.dtype)


def attend_backward(
    graph: Graph,
    g: Tensor,
    g_lse: Tensor | None,
    y: Tensor,
    lse: Tensor,
    value: Tensor,
    score_dst: Tensor | None,
    score_src: Tensor | None,
    score_type: Tensor | None,
    score_edge: Tensor | None,
    edge_type: Tensor | None,
    seed: Tensor | None,
    negative_slope: float,
    dropout: float,
    drop_logits: bool,
) -> tuple[Tensor | None, ...]:
    """Partial derivatives of ``<g, y> + <g_lse, lse>`` by value and the four scores (None for a score that is None).

    ``y`` and ``lse`` are taken as they are given: what the derivative of this by them leads on to is theirs.
    """
    src, dst = edge_ends(graph)
    logit = logits(graph, score_dst, score_src, score_type, score_edge, edge_type, negative_slope)
    slope = torch.where(logit > 0, torch.ones_like(logit), negative_slope)
    on_weight = torch.ones_like(logit)
    if seed is not None:
        mask = dropout_mask(seed, graph.num_edges, logit.size(1), dropout, logit.dtype)
        if drop_logits:
            logit, slope = torch.where(mask > 0, logit * mask, 0), slope * mask
        else:
            on_weight = mask
    weight = (logit - lse[dst]).to(logit.dtype).exp()
    back = wide(g)[dst]
    slack = (wide(g) * wide(y)).sum(-1)
    if g_lse is not None:
        slack = slack - g_lse.to(slack.dtype)
    d_score = weight * ((back * wide(value)[src]).sum(-1) * on_weight - slack[dst]) * slope
    d_value = torch.zeros_like(wide(value)).index_add(0, src, (weight * on_weight).unsqueeze(-1) * back)
    found: list[Tensor | None] = [d_value.to(value.dtype)]
    for score, at in ((score_dst, dst), (score_src, src), (score_type, edge_type)):
        if score is None or at is None:
            found.append(None)
        else:
            found.append(torch.zeros_like(wide(score)).index_add(0, at.long(), d_score).to(score.dtype))
    return *found, None if score_edge is None else d_score.to(score_edge.dtype)

"""Plain PyTorch twins of the operators of :mod:`fastgmtl.ops.trilinear`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph


def _wide(value: Tensor) -> Tensor:
    """Half precision in float32, the type in which kernels accumulate."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _edge_ids(graph: Graph) -> Tensor:
    return torch.arange(graph.num_edges, device=graph.device) if graph.edge_id is None else graph.edge_id.long()


def _taken(graph: Graph, arg: Tensor) -> Tensor:
    """Whether an edge is the one its destination names, [E, (T,) d]."""
    ids = _edge_ids(graph)
    return arg[graph.edge_rows()] == ids.reshape(-1, *[1] * (arg.dim() - 1))


def messages(graph: Graph, x: Tensor, weight: Tensor | None, node: Tensor) -> Tensor:
    """``weight[e, t] * x[node(e), t]``, [E, d] or [E, T, d], in row order."""
    out = _wide(x)[node]
    if weight is None:
        return out
    weight = _wide(graph.sort_edges(weight))
    if weight.dim() == 2 and out.dim() == 2:
        out = out.unsqueeze(1)
    return out * weight.reshape(weight.shape + (1,) * (out.dim() - weight.dim()))


def aggregate(
    graph: Graph, x: Tensor, weight: Tensor | None, arg: Tensor | None, mean: bool, transposed: bool, per_task: bool
) -> Tensor:
    """Sum of messages over the edges of each destination (``transposed``: of each source)."""
    dst, src = graph.edge_rows(), graph.col.long()
    come, go, rows = (dst, src, graph.num_src) if transposed else (src, dst, graph.num_dst)
    message = messages(graph, x, weight, come)
    if mean:
        scale = graph.inverse_degree(message.dtype)[dst]
        message = message * scale.reshape(-1, *[1] * (message.dim() - 1))
    if arg is not None:
        message = torch.where(_taken(graph, arg), message, 0)
    if message.dim() == 3 and not per_task:
        message = message.sum(1)
    return message.new_zeros(rows, *message.shape[1:]).index_add(0, go, message).to(x.dtype)


def edge_dot(graph: Graph, x_dst: Tensor, x_src: Tensor, arg: Tensor | None, mean: bool, per_task: bool) -> Tensor:
    """Dot product of both ends of every edge, in the user's order."""
    dst = graph.edge_rows()
    left, right = _wide(x_dst)[dst], _wide(x_src)[graph.col.long()]
    if left.dim() != right.dim():
        left, right = (m if m.dim() == 3 else m.unsqueeze(1) for m in (left, right))
    product = left * right
    if arg is not None:
        product = torch.where(_taken(graph, arg), product, 0)
    out = product.sum(-1) if per_task or product.dim() == 2 else product.sum((-1, -2))
    if mean:
        out = out * graph.inverse_degree(out.dtype)[dst].reshape(-1, *[1] * (out.dim() - 1))
    return graph.unsort_edges(out).to(x_dst.dtype)


def winners(graph: Graph, message: Tensor, largest: bool) -> Tensor:
    """Position in row order of the first edge that attains the extreme of its row, int64; -1 in empty rows."""
    trailing = [1] * (message.dim() - 1)
    row = graph.edge_rows().reshape(-1, *trailing).expand(message.shape)
    shape, value = (graph.num_dst, *message.shape[1:]), message.detach()
    best = value.new_zeros(shape).scatter_reduce(0, row, value, "amax" if largest else "amin", include_self=False)
    wins = (value == best.gather(0, row)) | value.isnan()
    position = torch.arange(graph.num_edges, device=row.device).reshape(-1, *trailing)
    position = torch.where(wins, position, graph.num_edges).expand(message.shape)
    first = torch.full(shape, graph.num_edges, dtype=torch.int64, device=row.device)
    first = first.scatter_reduce(0, row, position, "amin")
    return torch.where(first == graph.num_edges, -1, first)


def extreme(graph: Graph, x: Tensor, weight: Tensor | None, largest: bool) -> tuple[Tensor, Tensor]:
    """Maximum (or minimum) of the messages of each row, and the id of the edge that won, -1 in empty rows."""
    message = messages(graph, x, weight, graph.col.long())
    position = winners(graph, message, largest)
    if graph.num_edges == 0:
        nothing = message.new_zeros(position.shape) + message.sum(0)  # zeros that have a gradient
        return nothing.to(x.dtype), position.to(graph.col.dtype)
    at = position.clamp(min=0)
    value = torch.where(position >= 0, message.gather(0, at), 0).to(x.dtype)
    return value, torch.where(position >= 0, _edge_ids(graph)[at], -1).to(graph.col.dtype)

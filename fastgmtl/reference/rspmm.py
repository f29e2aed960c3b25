"""Relational sparse-dense product in plain PyTorch, and the twins of :mod:`fastgmtl.ops.relational`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import wide
from fastgmtl.reference.trilinear import winners


def rspmm(
    graph: Graph,
    x: Tensor,
    relation: Tensor,
    edge_type: Tensor,
    weight: Tensor | None = None,
    message: str = "mul",
    reduce: str = "sum",
) -> Tensor:
    """``y[i] = reduce over edges e = (j -> i) of weight[e] (x[j] o relation[r])``; see :func:`fastgmtl.ops.rspmm`."""
    left, right = wide(x)[graph.col.long()], wide(relation)[graph.sort_edges(edge_type).long()]
    if left.dim() != right.dim():
        left, right = (v if v.dim() == 3 else v.unsqueeze(1) for v in (left, right))
    values = _message(left, right, message, left.size(-1) // 2)
    if weight is not None:
        values = values * wide(graph.sort_edges(weight)).reshape(-1, *[1] * (values.dim() - 1))
    if reduce in ("max", "min"):
        return _extreme(graph, values, reduce == "max")[0].to(x.dtype)
    out = values.new_zeros(graph.num_dst, *values.shape[1:]).index_add(0, graph.edge_rows(), values)
    if reduce == "mean":
        out = out * graph.inverse_degree(out.dtype).reshape(-1, *[1] * (out.dim() - 1))
    return out.to(x.dtype)


def _message(x: Tensor, z: Tensor, message: str, half: int) -> Tensor:
    """x o z; ``rotate`` takes blocks of 2 * half columns as real and imaginary parts."""
    if message == "add":
        return x + z
    if message == "mul" or not half:
        return x * z
    (xr, xi), (zr, zi) = (v.unflatten(-1, (-1, 2, half)).unbind(-2) for v in (x, z))
    return torch.stack([xr * zr - xi * zi, xr * zi + xi * zr], -2).flatten(-3)


def _conjugate(z: Tensor, half: int) -> Tensor:
    if not half:
        return z
    re, im = z.unflatten(-1, (-1, 2, half)).unbind(-2)
    return torch.stack([re, -im], -2).flatten(-3)


def _ids(graph: Graph) -> Tensor:
    return torch.arange(graph.num_edges, device=graph.device) if graph.edge_id is None else graph.edge_id.long()


def _extreme(graph: Graph, values: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """The extreme of each row, and the id of its edge; 0 and -1 in empty rows."""
    position = winners(graph, values, largest)
    if graph.num_edges == 0:
        return values.new_zeros(position.shape) + values.sum(0), position
    at = position.clamp(min=0)
    return torch.where(position >= 0, values.gather(0, at), 0), torch.where(position >= 0, _ids(graph)[at], -1)


def extreme(
    graph: Graph, src: Tensor, rel: Tensor, weight: Tensor | None, type_dst: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    """Maximum or minimum of the messages of each row, and its edge; ``rest`` ends with message, half and largest."""
    *_, message, half, largest = rest
    assert isinstance(message, str) and isinstance(half, int)
    values = _message(wide(src)[graph.col.long()], wide(rel)[type_dst.long()], message, half)
    if weight is not None:
        values = values * wide(graph.sort_edges(weight)).unsqueeze(1)
    found, arg = _extreme(graph, values, bool(largest))
    return found.to(src.dtype), arg.to(graph.col.dtype)


def product(
    graph: Graph,
    dst: Tensor | None,
    src: Tensor | None,
    rel: Tensor | None,
    weight: Tensor | None,
    arg: Tensor | None,
    type_dst: Tensor,
    type_src: Tensor,
    rel_ptr: Tensor,
    rel_dst: Tensor,
    rel_src: Tensor,
    rel_id: Tensor | None,
    to: str,
    mean: bool,
    half: int,
) -> Tensor:
    """The derivative of the form of csrc/contract/rspmm.h by the argument that ``to`` names, which is None."""
    i, j, r = graph.edge_rows(), graph.col.long(), type_dst.long()
    rows = {"dst": (i, graph.num_dst), "src": (j, graph.num_src), "rel": (r, rel_ptr.size(0) - 1)}
    x, z, g = (None if v is None else wide(v)[at] for v, at in ((src, j), (rel, r), (dst, i)))
    taken = None if arg is None else arg[i] == _ids(graph).unsqueeze(1)
    if g is not None and taken is not None:
        g = torch.where(taken, g, 0)
    kind = "rotate" if half else "mul"
    if x is not None and z is not None:
        value = _message(x, z, kind, half)
        value = value if g is None else g * value
    else:
        other = z if x is None else x
        assert g is not None and other is not None
        value = _message(g, _conjugate(other, half), kind, half)
    if to == "edge":
        value = value.sum(1, keepdim=True)
    elif g is None and taken is not None:
        value = torch.where(taken, value, 0)
    if weight is not None:
        value = value * wide(graph.sort_edges(weight)).unsqueeze(1)
    if mean:
        value = value * graph.inverse_degree(value.dtype)[i].unsqueeze(1)
    given = src if dst is None else dst
    assert given is not None
    if to == "edge":
        return graph.unsort_edges(value.squeeze(1)).to(given.dtype)
    at, count = rows[to]
    return value.new_zeros(count, value.size(1)).index_add(0, at, value).to(given.dtype)

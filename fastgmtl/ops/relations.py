"""The relations of a graph's edges, sorted once for every way in which they are summed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastgmtl import csr
from fastgmtl.graph import Graph, _plain
from fastgmtl.ops.check import same_device
from fastgmtl.streams import is_capturing


class Relations(NamedTuple):
    """What an operator reads beside the graph, of its index type. E edges of R relations."""

    type_dst: Tensor  # [E] relation of each edge in the order of the graph
    type_src: Tensor  # [E] in the order of the transposed graph
    rel_ptr: Tensor  # [R + 1] int64: the edges sorted by relation
    rel_dst: Tensor  # [E] their destinations
    rel_src: Tensor  # [E] their sources
    rel_id: Tensor | None  # [E] their places in the user's order; None: as they are


NAMES = Relations._fields


def typed_graph(graph: Graph, plan: Relations) -> Graph:
    """The same edges, from their relations to their destinations."""
    num_relations = plan.rel_ptr.size(0) - 1
    typed = Graph(graph.row_ptr, plan.type_dst, graph.edge_id, num_relations)
    typed._lazy["transpose"] = Graph(plan.rel_ptr, plan.rel_dst, plan.rel_id, graph.num_dst)
    typed._lazy["transpose"]._lazy["transpose"] = typed
    return typed


def relations(op: str, graph: Graph, edge_type: Any, num_relations: int) -> Relations:
    """The plan of ``edge_type`` [E], in the order in which the edges were given.

    Kept with the graph as long as the tensor lives and is not changed in place. On CUDA the host waits for the GPU
    where it is made.

    Raises TypeError, ValueError or IndexError for what is not a tensor of integers in [0, num_relations).
    """
    if not isinstance(edge_type, Tensor) or edge_type.dtype not in (torch.int32, torch.int64):
        what = edge_type.dtype if isinstance(edge_type, Tensor) else type(edge_type).__name__
        raise TypeError(f"{op}: edge_type must be an int32 or int64 tensor, got {what}".replace("torch.", ""))
    if list(edge_type.shape) != [graph.num_edges]:
        raise ValueError(f"{op}: edge_type must have shape [E] = [{graph.num_edges}], got {list(edge_type.shape)}")
    same_device(op, graph, edge_type)
    if csr.is_symbolic(edge_type) or csr.is_symbolic(graph.col):
        return _plan(graph, edge_type, num_relations)
    kept: WeakIdKeyDictionary = graph._lazy.setdefault("relations", WeakIdKeyDictionary())
    # A tensor made in inference mode does not count its changes.
    stamp = None if edge_type.is_inference() else (edge_type._version, num_relations)
    known = kept.get(edge_type)
    if known is not None and known[0] == stamp is not None:
        if known[2] is not None:
            known[2].wait()
        return known[1]
    with _plain():
        _check_range(op, edge_type, num_relations)
        plan = _plan(graph, edge_type, num_relations)
    if stamp is not None and not is_capturing(graph.device_type):
        kept[edge_type] = (stamp, plan, graph._mark())
    return plan


def _check_range(op: str, edge_type: Tensor, num_relations: int) -> None:
    if edge_type.numel():
        low, high = (int(v) for v in edge_type.aminmax())
        if low < 0 or high >= num_relations:
            raise IndexError(
                f"{op}: edge_type must be in [0, R) = [0, {num_relations}), got {low if low < 0 else high}"
            )


def _plan(graph: Graph, edge_type: Tensor, num_relations: int) -> Relations:
    index = graph.col.dtype
    edge_type = edge_type.to(index)
    type_dst = graph.sort_edges(edge_type).contiguous()
    rel_ptr, rel_dst, rel_id = csr.transpose(graph.row_ptr, type_dst, graph.edge_id, num_relations)
    rel_src = graph.col if rel_id is None else graph.unsort_edges(graph.col)[rel_id.long()]
    return Relations(
        type_dst,
        graph.t().sort_edges(edge_type).contiguous(),
        rel_ptr,
        rel_dst.to(index),
        rel_src,
        None if rel_id is None else rel_id.to(index),
    )

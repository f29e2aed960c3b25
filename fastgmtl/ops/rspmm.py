"""rspmm: sums, means and extremes over edges of messages made of a node's features and the edge's relation."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.check import features, floating_tensor, graph_argument, one_of, same_device, weights
from fastgmtl.ops.relational import MESSAGES, rspmm_extreme_op, rspmm_op
from fastgmtl.ops.relations import relations, typed_graph
from fastgmtl.ops.spmm import REDUCTIONS
from fastgmtl.ops.trilinear import spmm_op


def rspmm(
    graph: Graph,
    x: Tensor,
    relation: Tensor,
    edge_type: Tensor,
    weight: Tensor | None = None,
    message: str = "mul",
    reduce: str = "sum",
) -> Tensor:
    r"""Generalised relational sparse-dense product.

    .. math:: y_i = \mathrm{reduce}_{e = (j \to i)} \; w_e \, (x_j \circ z_{r(e)})

    with the message :math:`x \circ z` of DistMult (``"mul"``: products of columns), TransE (``"add"``: sums) or RotatE
    (``"rotate"``: products of complex numbers, d / 2 real parts followed by d / 2 imaginary ones).

    Args:
        graph: the pattern; N source and M destination nodes, E edges.
        x: [N, d], or [N, B, d] for B queries over one graph. float32, float64, bfloat16 or float16.
        relation: z, an embedding of each relation, [R, d], or [R, B, d] if it depends on the query. What has no query
            axis is shared by the queries.
        edge_type: r, the relation of each edge, [E], int32 or int64 in [0, R), in the order in which the edges were
            given. Its sorted forms are kept with the graph as long as the tensor lives.
        weight: None (ones) or [E], in that order too.
        message: "mul", "add" or "rotate".
        reduce: "sum", "mean" (the sum over the number of edges into i), "max" or "min".

    Returns:
        [M, d], or [M, B, d] where x or relation has a query axis; of the promoted dtype. Sums are accumulated in
        float32 (float64 for float64), in a fixed order: bit-equal from run to run and for any number of threads. A row
        without edges gives 0. Of equal maxima (minima) the edge given first gets the gradient.

    Differentiable to any order in x, relation and weight, without atomics. Nothing of size E x d is written.

    Source: Zhu et al., Neural Bellman-Ford Networks (2021), section 3; its messages are those of Yang et al. (2015),
    Bordes et al. (2013) and Sun et al. (2019).

    Raises:
        TypeError: graph is not a Graph, a tensor is of the wrong kind.
        ValueError: a shape, a device, ``message`` or ``reduce`` does not fit.
        IndexError: a type is not in [0, R).
    """
    graph_argument("rspmm", graph)
    one_of("rspmm", "message", message, MESSAGES)
    one_of("rspmm", "reduce", reduce, REDUCTIONS)
    features("rspmm", "x", x, graph.num_src, "num_src")
    _check_relation(x, relation, message)
    same_device("rspmm", graph, x)
    same_device("rspmm", graph, relation)
    given = [x, relation]
    if weight is not None:
        weights("rspmm", weight, graph.num_edges, None)
        if weight.dim() != 1:
            raise ValueError(f"rspmm: weight must have shape [E] = [{graph.num_edges}], got {list(weight.shape)}")
        same_device("rspmm", graph, weight)
        given.append(weight)
    dtype = functools.reduce(torch.promote_types, [v.dtype for v in given])
    x, relation, weight = x.to(dtype), relation.to(dtype), None if weight is None else weight.to(dtype)
    plan = relations("rspmm", graph, edge_type, relation.size(0))
    if backend.kernels_for(x.device) is None:
        return reference.rspmm(graph, x, relation, edge_type, weight, message, reduce)
    width = x.size(-1)
    queries = x.size(1) if x.dim() == 3 else relation.size(1) if relation.dim() == 3 else None
    if queries is not None:
        x, relation = (
            (v if v.dim() == 3 else v.unsqueeze(1).expand(-1, queries, -1)).flatten(1) for v in (x, relation)
        )
    half = width // 2 if message == "rotate" else 0
    if reduce in ("max", "min"):
        kind = "mul" if message == "rotate" and not half else message
        out = rspmm_extreme_op(graph, x, relation, weight, *plan, kind, half, reduce == "max")[0]
    elif message == "add":
        options = (None, reduce == "mean", False, False, False)
        out = spmm_op(graph, x, weight, *options) + spmm_op(typed_graph(graph, plan), relation, weight, *options)
    else:
        out = rspmm_op(graph, None, x, relation, weight, None, *plan, "dst", reduce == "mean", half)
    return out if queries is None else out.unflatten(1, (queries, width))


def _check_relation(x: Tensor, relation: Tensor, message: str) -> None:
    floating_tensor("rspmm", "relation", relation)
    width = x.size(-1)
    if relation.dim() not in (2, 3) or relation.size(-1) != width:
        raise ValueError(
            f"rspmm: relation must have shape [R, d] or [R, B, d] with d = {width}, got {list(relation.shape)}"
        )
    if x.dim() == relation.dim() == 3 and x.size(1) != relation.size(1):
        raise ValueError(
            f"rspmm: x and relation must have as many queries, got {list(x.shape)} and {list(relation.shape)}"
        )
    if message == "rotate" and width % 2:
        raise ValueError(f"rspmm: rotate needs real and imaginary parts, an even number of columns, got {width}")

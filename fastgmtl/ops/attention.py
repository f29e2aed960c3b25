"""attention: softmax over the edges of each node and the weighted sum, for all heads of all tasks in one pass."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.attend import attend
from fastgmtl.ops.check import floating_tensor, graph_argument, one_of, same_device, seed_argument
from fastgmtl.ops.gatv2 import gatv2_score_op
from fastgmtl.ops.operator import is_transformed
from fastgmtl.ops.trilinear import sddmm_op
from fastgmtl.reference.attend import fold_tasks, num_tasks, seed_tensor

DROPOUT_ON = ("weights", "logits")


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
    r"""Attention of every destination over its edges, for H heads of T tasks in one pass over the edges.

    .. math::
        y_i = \sum_{e = (j \to i)} \alpha_e \, v_j, \qquad \alpha_e = \mathrm{softmax}_{e \to i} \; l_e

    for each head and task, with one of three logits:

    ============  ==========================================================================================
    additive      :math:`l_e = \mathrm{leaky}(s_i + s_j + s_{\tau(e)} + s_e)` (GAT, Velickovic et al. 2018,
                  equation 3; Simple-HGN, Lv et al. 2021, equation 6, with types)
    query, key    :math:`l_e = c \langle q_i, k_j \rangle + s_i + s_j + s_{\tau(e)} + s_e` (HGT, Hu et al. 2020)
    with att      :math:`l_e = \langle a, \mathrm{leaky}(q_i + k_j) \rangle + s_i + s_j + s_{\tau(e)} + s_e`
                  (GATv2, Brody et al. 2022, equation 7)
    ============  ==========================================================================================

    Terms that are not given are 0. A softmax over each (node, relation) is this one over a graph whose rows are those
    pairs: ``graph``, ``score_dst`` and ``query`` then have a row for each of them.

    Args:
        graph: the pattern; N source and M destination nodes, E edges.
        value: v, [N, H, d] or [N, T, H, d]; float32, float64, bfloat16 or float16.
        score_dst, score_src: s_i [M, H] or [M, T, H], s_j [N, H] or [N, T, H].
        score_type, edge_type: [R, H] or [R, T, H], and the type of each edge [E], int32 or int64 in [0, R).
        score_edge: s_e, [E, H] or [E, T, H], in the order in which the edges were given.
        query, key: q [M, H, c] or [M, T, H, c], k [N, H, c] or [N, T, H, c].
        att: a, [H, c] or [T, H, c].
        scale: c, by default 1 / sqrt(c) of the width c of query and key; without ``att`` only.
        negative_slope: of leaky; None leaves it out. Of no effect with query and key but without ``att``.
        dropout: chance in [0, 1) to drop; what is kept is divided by 1 - dropout. Only while ``training``.
        dropout_on: "weights": alpha is set to 0 after the softmax (GAT); "logits": l is set to 0 before it (StrucHIS).
        training: False turns dropout off.
        seed: of dropout, an int or an int64 tensor of one element: the same seed drops the same. By default drawn from
            ``generator`` (by default PyTorch's, of the device). A number is a function of seed, edge (in the order
            given) and head (t H + h).
        return_weights: return alpha too, as it was multiplied by.

    A tensor without the task axis is shared by the tasks. Everything is promoted to one dtype.

    Returns:
        y [M, H, d], or [M, T, H, d] where a tensor has a task axis; with ``return_weights`` also alpha [E, H] or
        [E, T, H], in the order of the edges. A row without edges gives 0. An edge with the logit -inf is as good as
        absent. Computed in float32 (float64 for float64), in a fixed order: bit-equal from run to run and for any
        number of threads.

    Differentiable to any order in every floating point argument. Forward keeps y and the log of the sum of
    exponentials of each row; backward computes weights again. Nothing of size E x d is written; with query and key the
    products [E, T H] are, and backward writes gradients of this size where scores need them.

    Raises:
        TypeError: graph is not a Graph, a tensor is of a type that does not fit.
        ValueError: a shape, a device or an option does not fit, or arguments that belong together are not all there.
        IndexError: an edge type outside of [0, R), on a CPU; on a GPU its destination's result is NaN.
    """
    op = "attention"
    graph_argument(op, graph)
    scores = {"score_dst": score_dst, "score_src": score_src, "score_type": score_type, "score_edge": score_edge}
    pairs = {"query": query, "key": key}
    _check_choice(scores, pairs, edge_type, att, scale, dropout, dropout_on)
    given: dict[str, Any] = {"value": value, **scores, **pairs, "att": att}
    dtypes = []
    for name, tensor in given.items():
        if tensor is not None or name == "value":
            floating_tensor(op, name, tensor)
            same_device(op, graph, tensor)
            dtypes.append(tensor.dtype)
    tasks, heads = _check_shapes(graph, value, scores, pairs, att)
    dtype = reduce(torch.promote_types, dtypes)
    given = {n: t if t is None or t.dtype == dtype else t.to(dtype) for n, t in given.items()}
    if edge_type is not None and score_type is not None:
        edge_type = _checked_types(graph, edge_type, score_type.size(0))
    drops = training and dropout > 0
    if drops:
        seed_argument("attention", seed)
        seed = seed_tensor(seed, generator, value.device)
    if backend.kernels_for(value.device) is None:
        return reference.attention(
            graph,
            **given,
            edge_type=edge_type,
            scale=scale,
            negative_slope=negative_slope,
            dropout=dropout,
            dropout_on=dropout_on,
            training=training,
            seed=seed,
            return_weights=return_weights,
        )
    folded_value, query, key = (fold_tasks(given[n], tasks, 3) for n in ("value", "query", "key"))
    score_dst, score_src, score_type, score_edge = (fold_tasks(given[n], tasks, 2) for n in scores)
    slope = 1.0 if negative_slope is None else float(negative_slope)
    if query is not None and key is not None:
        if att is None:
            scale = (query.size(-1) or 1) ** -0.5 if scale is None else scale
            products = sddmm_op(graph, query, key, None, False, True) * scale
        else:
            weights = fold_tasks(given["att"].unsqueeze(0), tasks, 3)
            assert weights is not None
            products = gatv2_score_op(graph, query, key, weights.squeeze(0), None, None, slope)
        score_edge, slope = products if score_edge is None else products + score_edge, 1.0
    rest = (edge_type, seed if drops else None, slope, float(dropout) if drops else 0.0, dropout_on == "logits")
    assert folded_value is not None
    scored = (score_dst, score_src, score_type, score_edge)
    y, weight = attend(graph, folded_value, *scored, *rest, with_weights=return_weights)
    if tasks is not None:
        y = y.unflatten(1, (tasks, heads))
        weight = None if weight is None else weight.unflatten(1, (tasks, heads))
    return y if weight is None else (y, weight)


def _check_choice(
    scores: dict[str, Tensor | None],
    pairs: dict[str, Tensor | None],
    edge_type: Tensor | None,
    att: Tensor | None,
    scale: float | None,
    dropout: float,
    dropout_on: str,
) -> None:
    """ValueError unless the arguments are one of the three logits, and options are in their range."""
    query, key = pairs.values()
    if (query is None) != (key is None):
        raise ValueError(f"attention: query and key go together, got {'query' if key is None else 'key'} alone")
    if att is not None and query is None:
        raise ValueError("attention: att needs query and key, the features that it scores")
    if scale is not None and (query is None or att is not None):
        raise ValueError("attention: scale is for query and key without att; multiply the scores by it instead")
    if query is None and all(score is None for score in scores.values()):
        raise ValueError(f"attention: at least one of {', '.join(scores)}, or query and key, is required")
    if (scores["score_type"] is None) != (edge_type is None):
        there = "edge_type" if edge_type is not None else "score_type"
        raise ValueError(f"attention: score_type and edge_type go together, got {there} alone")
    if not 0 <= dropout < 1:
        raise ValueError(f"attention: dropout must be in [0, 1), got {dropout}")
    one_of("attention", "dropout_on", dropout_on, DROPOUT_ON)


def _check_shapes(
    graph: Graph,
    value: Tensor,
    scores: dict[str, Tensor | None],
    pairs: dict[str, Tensor | None],
    att: Tensor | None,
) -> tuple[int | None, int]:
    """T (None without any) and H, or ValueError."""
    if value.dim() not in (3, 4):
        raise ValueError(f"attention: value must have shape [N, H, d] or [N, T, H, d], got {list(value.shape)}")
    whole = None if att is None else att.unsqueeze(0)
    features = ((value, 3), *((p, 3) for p in pairs.values()), (whole, 3))
    tasks, heads = num_tasks(*features, *((s, 2) for s in scores.values())), value.size(-2)
    query = pairs["query"]
    width = 0 if query is None or query.dim() == 0 else query.size(-1)
    types = scores["score_type"]
    sizes: dict[str, tuple[Tensor | None, list[str], list[int]]] = {
        "value": (value, ["N"], [graph.num_src, heads, value.size(-1)]),
        "score_dst": (scores["score_dst"], ["M"], [graph.num_dst, heads]),
        "score_src": (scores["score_src"], ["N"], [graph.num_src, heads]),
        "score_type": (types, ["R"], [0 if types is None or types.dim() == 0 else types.size(0), heads]),
        "score_edge": (scores["score_edge"], ["E"], [graph.num_edges, heads]),
        "query": (pairs["query"], ["M"], [graph.num_dst, heads, width]),
        "key": (pairs["key"], ["N"], [graph.num_src, heads, width]),
        "att": (att, [], [heads, width]),
    }
    for name, (tensor, rows, shape) in sizes.items():
        if tensor is None:
            continue
        at = len(rows)
        per_task = [*shape[:at], "T" if tasks is None else tasks, *shape[at:]]
        if list(tensor.shape) not in (shape, per_task):
            last = [] if len(shape) == at + 1 else ["d" if name == "value" else "c"]
            words = " or ".join(f"[{', '.join([*rows, *middle, *last])}]" for middle in (["H"], ["T", "H"]))
            wanted = " or ".join("[" + ", ".join(map(str, s)) + "]" for s in (shape, per_task))
            raise ValueError(f"attention: {name} must have shape {words} = {wanted}, got {list(tensor.shape)}")
    return tasks, heads


def _checked_types(graph: Graph, edge_type: Any, types: int) -> Tensor:
    """Edge types as kernels read them; TypeError, ValueError or IndexError where they are not one for each edge."""
    if not isinstance(edge_type, Tensor) or edge_type.dtype not in (torch.int32, torch.int64):
        what = edge_type.dtype if isinstance(edge_type, Tensor) else type(edge_type).__name__
        raise TypeError(f"attention: edge_type must be an int32 or int64 tensor, got {what}".replace("torch.", ""))
    if list(edge_type.shape) != [graph.num_edges]:
        raise ValueError(f"attention: edge_type must have shape [E] = [{graph.num_edges}], got {list(edge_type.shape)}")
    same_device("attention", graph, edge_type)
    if graph.num_edges and edge_type.device.type == "cpu" and not is_transformed():
        low, high = (int(v) for v in edge_type.aminmax())
        if low < 0 or high >= types:
            raise IndexError(f"attention: edge_type must be in [0, R) = [0, {types}), got {low if low < 0 else high}")
    return edge_type.to(graph.col.dtype)

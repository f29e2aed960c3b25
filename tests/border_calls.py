"""Right calls of every function of the compiled module, any argument of which can be changed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from cases import PATTERNS
from torch import Tensor

from fastgmtl import Graph

GRAPH = PATTERNS["bipartite"].graph()  # 7 sources, 3 destinations, 9 edges
BACK = GRAPH.t()
E, SRC, DST, T, D = 9, 7, 3, 2, 4


def spmm(kernels: ModuleType, **changes: Any) -> Tensor:
    """y [DST, T, D] of x [SRC, T, D] and w [E, T]."""
    a = {
        "pattern": GRAPH.pattern,
        "x": torch.ones(SRC, T, D),
        "w": torch.ones(E, T),
        "scale": None,
        "scale_of_cols": False,
        "arg": None,
        "arg_of": 0,
        "reduce": 0,
        "y": torch.empty(DST, T, D),
        "new_arg": None,
        "threads": 1,
    } | changes
    kernels.spmm(*a.values())
    return a["y"]


def sddmm(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "pattern": GRAPH.pattern,
        "a": torch.ones(DST, T, D),
        "b": torch.ones(SRC, T, D),
        "scale": None,
        "scale_of_cols": False,
        "arg": None,
        "arg_of": 0,
        "out": torch.empty(E, T),
        "threads": 1,
    } | changes
    kernels.sddmm(*a.values())
    return a["out"]


def spmm_backward(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "pattern": BACK.pattern,
        "a": torch.ones(SRC, T, D),
        "b": torch.ones(DST, T, D),
        "w": torch.ones(E, T),
        "scale": None,
        "scale_of_cols": True,
        "arg": None,
        "arg_of": 0,
        "y": torch.empty(SRC, T, D),
        "out": torch.empty(E, T),
        "threads": 1,
    } | changes
    kernels.spmm_backward(*a.values())
    return a["y"]


def csr(kernels: ModuleType, **changes: Any) -> Tensor:
    src, dst = PATTERNS["bipartite"].edge_index
    a = {
        "row": dst.contiguous(),
        "col": src.contiguous(),
        "edge_id": None,
        "cols": SRC,
        "row_ptr": torch.empty(DST + 1, dtype=torch.int64),
        "new_col": torch.empty(E, dtype=torch.int32),
        "new_id": torch.empty(E, dtype=torch.int32),
        "threads": 1,
    } | changes
    kernels.csr(*a.values())
    return a["new_col"]


SQUARE = PATTERNS["self_loops"].graph()


def gcn_norm(kernels: ModuleType, **changes: Any) -> Tensor:
    total = SQUARE.num_edges + SQUARE.num_dst
    a = {
        "pattern": SQUARE.pattern,
        "fill": 1.0,
        "row_ptr": torch.empty(SQUARE.num_dst + 1, dtype=torch.int64),
        "col": torch.empty(total, dtype=torch.int32),
        "weight": torch.empty(total),
        "threads": 1,
    } | changes
    kernels.gcn_norm(*a.values())
    return a["weight"]


TYPE = torch.zeros(E, dtype=torch.int32)
SCORES = {"dst": torch.ones(DST, T), "src": torch.ones(SRC, T), "type": torch.ones(2, T), "edge": torch.ones(E, T)}
GRADIENTS = ("d_value", "d_dst", "d_src", "d_type", "d_edge")
DROPPED = {"edge_type": TYPE, "seed": torch.tensor([3]), "slope": 0.2, "dropout": 0.5, "drop_logits": True}


def attention(kernels: ModuleType, **changes: Any) -> Tensor:
    """y [DST, T, D] of value [SRC, T, D]."""
    a = {"pattern": GRAPH.pattern, "value": torch.ones(SRC, T, D), **SCORES, **DROPPED}
    a |= {"y": torch.empty(DST, T, D), "lse": torch.empty(DST, T, dtype=torch.float64), "threads": 1}
    a |= changes
    kernels.attention(*a.values())
    return a["y"]


def attention_backward(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "pattern": GRAPH.pattern,
        "back": BACK.pattern,
        "g": torch.ones(DST, T, D),
        "g_lse": torch.ones(DST, T, dtype=torch.float64),
        "y": torch.ones(DST, T, D),
        "lse": torch.ones(DST, T, dtype=torch.float64),
        "value": torch.ones(SRC, T, D),
        **SCORES,
        **DROPPED,
        "d_value": torch.empty(SRC, T, D),
        "d_dst": torch.empty(DST, T),
        "d_src": torch.empty(SRC, T),
        "d_type": torch.empty(2, T),
        "d_edge": torch.empty(E, T),
        "threads": 1,
    } | changes
    kernels.attention_backward(*a.values())
    return a["d_value"]


GATV2 = {"x_dst": torch.ones(DST, T, D), "x_src": torch.ones(SRC, T, D), "att": torch.ones(T, D)}
GATV2 |= {"at_dst": torch.ones(DST, T, D), "at_src": torch.ones(SRC, T, D)}


def gatv2_score(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, **GATV2, "slope": 0.2, "out": torch.empty(E, T), "threads": 1} | changes
    kernels.gatv2_score(*a.values())
    return a["out"]


def gatv2_backward(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "back": BACK.pattern, "g": torch.ones(E, T), **GATV2, "slope": 0.2}
    a |= {"d_dst": torch.empty(DST, T, D), "d_src": torch.empty(SRC, T, D), "d_att": torch.empty(T, D), "threads": 1}
    a |= changes
    kernels.gatv2_backward(*a.values())
    return a["d_src"] if a["d_src"] is not None else a["d_att"]


ENERGY = {"a": None, "c": torch.ones(DST, D), "v": torch.ones(E), "field": torch.ones(DST, D), "weight": torch.ones(E)}
ENERGY |= {"label_src": torch.ones(SRC, D, dtype=torch.int32), "label_dst": torch.zeros(DST, D, dtype=torch.int32)}


def edge_energy(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": BACK.pattern, **ENERGY, "to": 0, "field_order": 1, "shift_order": 1, "factor": -2.0}
    a |= {"out": torch.empty(SRC, D), "threads": 1}
    a |= changes
    kernels.edge_energy(*a.values())
    return a["out"]


AT = {"at_h": torch.ones(T, D), "at_s": torch.ones(SRC, D), "at_t": torch.ones(DST, D)}


def gather_relu(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "h": torch.ones(T, D), "s": torch.ones(SRC, D), "t": torch.ones(DST, D), **AT}
    a |= {"out": torch.empty(E, T, D), "threads": 1} | changes
    kernels.gather_relu(*a.values())
    return a["out"]


def gather_relu_backward(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "back": BACK.pattern, "g": torch.ones(E, T, D), **AT}
    a |= {"d_h": torch.empty(T, D), "d_s": torch.empty(SRC, D), "d_t": torch.empty(DST, D), "threads": 1} | changes
    kernels.gather_relu_backward(*a.values())
    return a["d_s"] if a["d_s"] is not None else a["d_t"]


PAIRS = {"logits": torch.ones(E), "v": torch.ones(E), "src": torch.arange(E), "dst": torch.arange(E) + 1}


def concrete(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {**PAIRS, "seed": torch.tensor([5]), "order": 1, "temperature": 1.0, "explore": 0.1}
    a |= {"out": torch.empty(E), "threads": 1} | changes
    kernels.concrete(*a.values())
    return a["out"]


def concrete_draw(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"logits": torch.ones(SRC, SRC), "seed": torch.tensor([5]), "explore": 0.1}
    a |= {"words": torch.empty(SRC, 1, dtype=torch.int32), "row_ptr": torch.empty(SRC + 1, dtype=torch.int64)}
    a |= {"threads": 1} | changes
    kernels.concrete_draw(*a.values())
    return a["row_ptr"]


def concrete_edges(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"words": torch.ones(SRC, 1, dtype=torch.int32), "row_ptr": torch.tensor([0] + [SRC] * SRC)}
    a |= {"col": torch.empty(SRC, dtype=torch.int32), "threads": 1} | changes
    kernels.concrete_edges(*a.values())
    return a["col"]


CHAIN = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)


def gibbs(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "children": CHAIN.t().pattern,
        "field": torch.ones(3, D),
        "coupling": torch.ones(2),
        "start": torch.ones(3, D, dtype=torch.int32),
        "known": torch.zeros(3, D, dtype=torch.int32),
        "order": torch.arange(3, dtype=torch.int32).repeat(2, 1),
        "seed": torch.tensor([5]),
        "burn_in": 1,
        "normalised": True,
        "label": torch.empty(3, D, dtype=torch.int32),
        "mean": torch.empty(3, D),
        "threads": 1,
    } | changes
    kernels.gibbs(*a.values())
    return a["mean"]


def rspmm(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "pattern": GRAPH.pattern,
        "two": torch.zeros(E, dtype=GRAPH.col.dtype),
        "a": torch.ones(SRC, D),
        "b": torch.ones(2, D),
        "c": torch.ones(DST, D),
        "w": torch.ones(E),
        "scale": torch.ones(DST),
        "arg": torch.zeros(DST, D, dtype=GRAPH.col.dtype),
        "to": 3,
        "message": 0,
        "half": 0,
        "reduce": 0,
        "y": torch.empty(E),
        "new_arg": None,
        "threads": 1,
    } | changes
    kernels.rspmm(*a.values())
    return a["y"]


def block_spmm(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "blocks": torch.ones(E, T, 3), "x": torch.ones(SRC, 3, D), "transposed": False}
    a |= {"y": torch.empty(DST, T, D), "threads": 1} | changes
    kernels.block_spmm(*a.values())
    return a["y"]


def block_sddmm(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "g": torch.ones(DST, T, D), "x": torch.ones(SRC, 3, D)}
    a |= {"out": torch.empty(E, T, 3), "threads": 1} | changes
    kernels.block_sddmm(*a.values())
    return a["out"]


RELU = {"at_x": torch.ones(SRC, D), "at_e": torch.ones(E, D)}


def relu_sum(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": GRAPH.pattern, "x": torch.ones(SRC, D), "e": torch.ones(E, D), **RELU}
    a |= {"y": torch.empty(DST, D), "threads": 1} | changes
    kernels.relu_sum(*a.values())
    return a["y"]


def relu_sum_backward(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"back": BACK.pattern, "g": torch.ones(DST, D), **RELU}
    a |= {"d_x": torch.empty(SRC, D), "d_e": torch.empty(E, D), "threads": 1} | changes
    kernels.relu_sum_backward(*a.values())
    return a["d_x"] if a["d_x"] is not None else a["d_e"]


def intersect(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": CHAIN.pattern, "pairs": torch.tensor([[1, 1], [1, 2]]), "without": torch.tensor([[2, 2]])}
    a |= {"counts": torch.tensor([[0, 1, 1]]), "both": torch.empty(1, dtype=torch.int32)}
    a |= {"first": None, "second": None, "threads": 1} | changes
    kernels.intersect(*a.values())
    return a["counts"] if a["both"] is None else a["both"]


def neighbor_sample(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"pattern": CHAIN.pattern, "ends": [(0, 0)], "fanouts": [[1]], "seeds": torch.tensor([2]), "sizes": [3]}
    a |= {"replace": False, "disjoint": False, "seed": 1, "threads": 1} | changes
    sample = kernels.neighbor_sample([a.pop("pattern")], a.pop("ends"), a.pop("fanouts"), [a.pop("seeds")], *a.values())
    found = torch.empty(sum(sample.nodes_per_hop(0)), dtype=torch.int64)
    sample.copy_nodes(0, found, None)
    return found


FUNCTIONS = {
    "spmm": spmm,
    "sddmm": sddmm,
    "spmm_backward": spmm_backward,
    "attention": attention,
    "attention_backward": attention_backward,
    "gatv2_score": gatv2_score,
    "gatv2_backward": gatv2_backward,
    "edge_energy": edge_energy,
    "gibbs": gibbs,
    "concrete": concrete,
    "concrete_draw": concrete_draw,
    "concrete_edges": concrete_edges,
    "gather_relu": gather_relu,
    "gather_relu_backward": gather_relu_backward,
    "rspmm": rspmm,
    "intersect": intersect,
    "block_spmm": block_spmm,
    "block_sddmm": block_sddmm,
    "relu_sum": relu_sum,
    "relu_sum_backward": relu_sum_backward,
    "neighbor_sample": neighbor_sample,
    "csr": csr,
    "gcn_norm": gcn_norm,
}
TENSORS = {
    "spmm": ("x", "w", "scale", "arg", "y", "new_arg"),
    "sddmm": ("a", "b", "scale", "arg", "out"),
    "spmm_backward": ("a", "b", "w", "scale", "arg", "y", "out"),
    "attention": ("value", *SCORES, "edge_type", "seed", "y", "lse"),
    "attention_backward": ("g", "g_lse", "y", "lse", "value", *SCORES, "edge_type", "seed", *GRADIENTS),
    "gatv2_score": (*GATV2, "out"),
    "gatv2_backward": ("g", *GATV2, "d_dst", "d_src", "d_att"),
    "edge_energy": ("c", "v", "field", "weight", "label_src", "label_dst", "out"),
    "gibbs": ("field", "coupling", "start", "known", "order", "seed", "label", "mean"),
    "concrete": (*PAIRS, "seed", "out"),
    "concrete_draw": ("logits", "seed", "words", "row_ptr"),
    "concrete_edges": ("words", "row_ptr", "col"),
    "gather_relu": ("h", "s", "t", *AT, "out"),
    "gather_relu_backward": ("g", *AT, "d_h", "d_s", "d_t"),
    "rspmm": ("two", "a", "b", "c", "w", "scale", "arg", "y"),
    "block_spmm": ("blocks", "x", "y"),
    "block_sddmm": ("g", "x", "out"),
    "relu_sum": ("x", "e", *RELU, "y"),
    "relu_sum_backward": ("g", *RELU, "d_x", "d_e"),
    "intersect": ("pairs", "without", "counts", "both"),
    "neighbor_sample": ("seeds",),
    "csr": ("row", "col", "edge_id", "row_ptr", "new_col", "new_id"),
    "gcn_norm": ("row_ptr", "col", "weight"),
}
OPTIONAL = {
    *((f, t) for f in FUNCTIONS for t in ("w", "scale", "arg", "new_arg", "edge_id")),
    ("spmm_backward", "y"),
    *((f, t) for f in ("attention", "attention_backward") for t in ("dst", "src", "edge")),
    ("attention", "type"),
    *(("attention_backward", t) for t in ("g_lse", "d_dst", "d_src", "d_type")),
    ("edge_energy", "c"),
    ("edge_energy", "v"),
    ("gibbs", "known"),
    ("neighbor_sample", "seeds"),
    *(("intersect", t) for t in ("without", "both")),
    *(("relu_sum", t) for t in ("x", "e")),
    *(("relu_sum_backward", t) for t in ("d_x", "d_e")),
    *(("gather_relu", t) for t in ("h", "s", "t")),
    *(("gather_relu_backward", t) for t in ("d_h", "d_s", "d_t")),
    *((f, t) for f in ("gatv2_score", "gatv2_backward") for t in ("at_dst", "at_src", "d_dst", "d_src", "d_att")),
}

"""Multi-task sparse-dense product in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.trilinear import aggregate, extreme


def spmm(graph: Graph, x: Tensor, weight: Tensor | None = None, reduce: str = "sum") -> Tensor:
    """``y[i, t] = reduce over edges e = (j -> i) of weight[e, t] * x[j, t]``; see :func:`fastgmtl.ops.spmm`."""
    if reduce in ("max", "min"):
        return extreme(graph, x, weight, reduce == "max")[0]
    per_task = x.dim() == 3 or (weight is not None and weight.dim() == 2)
    return aggregate(graph, x, weight, None, reduce == "mean", False, per_task)

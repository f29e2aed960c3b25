"""edge_delta in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide
from fastgmtl.reference.edge_energy import softplus


def edge_delta(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor, present: Tensor | None = None) -> Tensor:
    """delta [E], the log-likelihood ratio of every edge; see ops.edge_delta."""
    src, dst = edge_ends(graph)
    known = (label[:, src] >= 0) & (label[:, dst] >= 0)
    child, share = label[:, dst].sign().to(wide(field).dtype), (2 * label[:, src].sign() - 1) * wide(coupling)
    without = wide(field)[:, dst]
    without = without - (share if present is None else torch.where(present, share, 0))
    ratio = child * share + softplus(without) - softplus(without + share)
    return ratio.where(known, 0).sum(0).to(torch.promote_types(field.dtype, coupling.dtype))

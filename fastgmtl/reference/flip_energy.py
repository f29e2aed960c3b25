"""flip_energy in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, wide
from fastgmtl.reference.edge_energy import softplus


def flip_energy(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor) -> Tensor:
    """D [B, T], how much worse the children of each label are explained once it is flipped; see ops.flip_energy."""
    src, dst = edge_ends(graph)
    known = (label[:, src] >= 0) & (label[:, dst] >= 0)
    dtype = torch.promote_types(field.dtype, coupling.dtype)
    field, coupling = wide(field), wide(coupling)
    sign, child = (2 * label[:, src].sign() - 1).to(field.dtype), label[:, dst].sign().to(field.dtype)
    shift = 2 * sign * coupling
    worse = child * shift + softplus(field[:, dst] - shift) - softplus(field[:, dst])
    return worse.new_zeros(field.shape).index_add(1, src, worse.where(known, 0)).to(dtype)

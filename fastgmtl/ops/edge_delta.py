"""edge_delta: the log-likelihood ratio of every edge of a task graph, summed over samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.edge_energy import edge_energy_op, samples


def edge_delta(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor, present: Tensor | None = None) -> Tensor:
    r"""How much likelier the labels are with an edge than without it, for every edge by itself.

    With the energy of :func:`flip_energy`, F^0 what label t gets without the edge from s, and
    F^1 = F^0 + J_{st} (2 y_s - 1) what it gets with it,

    .. math:: \delta_{st} = \sum_b E(y_b; A_{st} = 0) - E(y_b; A_{st} = 1)
        = \sum_b y_{bt} (F^1_{bt} - F^0_{bt}) + \mathrm{softplus}(F^0_{bt}) - \mathrm{softplus}(F^1_{bt})

    the sum over the samples in which both labels are known. With the prior log-odds of the edge added it is the
    log-odds of the edge given the data and all other edges.

    Args:
        graph: over T tasks, the edges that are asked about (as many as T x T).
        field: F [B, T], from the edges that are there.
        label: y [B, T], bool, or integers that are 0, 1, or negative where missing. Constant.
        coupling: J, [E] or [B, E], in the order in which the edges were given: what an edge has or would have.
        present: bool [E], which edges field is made with; None: all.

    Returns:
        delta [E], of the promoted dtype.

    Differentiable to the eighth order. Nothing of size E x B is written, unless coupling is.

    Source: the edge intervention of the reconstruction of GCNet, whose equations are not public.

    Raises:
        TypeError: graph is not a Graph, a tensor is of the wrong kind.
        ValueError: shapes or devices do not fit.
    """
    fields, labels, couplings = samples("edge_delta", graph, field, label, coupling)
    sign = None
    if present is not None:
        if not isinstance(present, Tensor) or present.dtype != torch.bool or present.shape != (graph.num_edges,):
            given = f"{present.dtype} {list(present.shape)}" if isinstance(present, Tensor) else type(present).__name__
            raise TypeError(f"edge_delta: present must be a tensor of bool [E] = [{graph.num_edges}], got {given}")
        sign = torch.where(present, 1, -1).to(couplings.dtype)
        couplings = couplings * (sign if couplings.dim() == 1 else sign.unsqueeze(1))
    if backend.kernels_for(field.device) is None:
        return reference.edge_delta(graph, field, label, coupling, present)
    # With the edge it is the change that taking it away would make, without it minus the change that it would make.
    delta = edge_energy_op(graph, None, None, None, fields, couplings, labels, labels, "edge", 0, 0, -1.0)
    return delta if sign is None else delta * sign

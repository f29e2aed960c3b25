"""flip_energy: for every label, how much worse its children are explained once it is flipped by intervention."""

from __future__ import annotations

from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.graph import Graph
from fastgmtl.ops.edge_energy import edge_energy_op, samples


def flip_energy(graph: Graph, field: Tensor, label: Tensor, coupling: Tensor) -> Tensor:
    r"""Energy differences of the interventions that flip each label in turn, by its children alone.

    With one logistic mechanism a label, :math:`E(y) = \sum_t \mathrm{softplus}(F_t) - y_t F_t` where
    :math:`F_t = a_t + \sum_{s \to t} J_{st} (2 y_s - 1)`, the intervention do(y_k) removes the mechanism of k, and

    .. math:: D_{bk} = E^{do\,k}(y_b \text{ with } y_{bk} \text{ flipped}) - E^{do\,k}(y_b)
        = \sum_{k \to t} \mathrm{softplus}(F_{bt} - h) - \mathrm{softplus}(F_{bt}) + y_{bt} h,
        \quad h = 2 (2 y_{bk} - 1) J_{kt}

    in which the partition function has cancelled: the log-odds of the observed against the flipped label.

    Args:
        graph: over T tasks; an edge from a label to a label that it is a cause of.
        field: F [B, T], what the mechanisms get, from parents too (:func:`spmm` of the signs and couplings);
            float32, float64, bfloat16 or float16.
        label: y [B, T], bool, or integers that are 0, 1, or negative where missing. A missing child is left out of the
            sum, and D of a missing label is 0. Constant.
        coupling: J, [E], or [B, E] for couplings of each sample; in the order in which the edges were given.

    Returns:
        D [B, T], of the promoted dtype. It depends on field and coupling as if they had nothing to do with each other;
        autograd adds what goes by way of F.

    Differentiable to the eighth order. Forward and backward write nothing larger than [B, T] and the coupling.

    Source: the closed form of intervention contrastive estimation as reconstructed for GCNet, whose equations are not
    public.

    Raises:
        TypeError: graph is not a Graph, a tensor is of the wrong kind.
        ValueError: shapes or devices do not fit.
    """
    fields, labels, couplings = samples("flip_energy", graph, field, label, coupling)
    if backend.kernels_for(field.device) is None:
        return reference.flip_energy(graph, field, label, coupling)
    return edge_energy_op(graph, None, None, None, fields, couplings, labels, labels, "src", 0, 0, -2.0).t()

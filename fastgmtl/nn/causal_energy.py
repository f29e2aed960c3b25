r"""The energy of labels that cause one another: one logistic mechanism a label, on a task graph.

.. math:: E(y) = \sum_t \mathrm{softplus}(F_t) - y_t F_t, \qquad F_t = a_t + \sum_{s \to t} J_{st} (2 y_s - 1)

On a graph without cycles exp(-E) is a probability, and so it stays when do(y_k = v) takes the mechanism of k out.
GCNet's paper names a causal energy-based model and intervention contrastive estimation; its equations are not public,
and these are a reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.graph import Graph
from fastgmtl.ops import flip_energy, spmm

# Of an inverse propensity. What is cut off is a bias: at 10, of a tenth in couplings of labels that are nearly certain.
MOST_WEIGHT = 100.0


def fields(graph: Graph, bias: Tensor, label: Tensor, coupling: Tensor) -> Tensor:
    """F [B, T], what each mechanism gets from its bias a [B, T] and its parents.

    label [B, T]: bool, or numbers: 0 and 1, in between where a parent is only guessed, negative where nothing is known
    of it; such a parent adds nothing. coupling J: [E] or [B, E].
    """
    sign = torch.where(label < 0, 0, 2 * label.to(bias.dtype) - 1) if label.dtype != torch.bool else 2 * label - 1.0
    sign = sign.to(bias.dtype).t()
    if coupling.dim() == 1:
        return bias + spmm(graph, sign, coupling).t()
    return bias + spmm(graph, sign.unsqueeze(2), coupling.t())[..., 0].t()


def mechanism_energy(field: Tensor, label: Tensor) -> Tensor:
    """-log P(y_t | parents) of every label, [B, T]; 0 where the label is negative (missing).

    Without edges it is the binary cross entropy of single-task heads, to the last bit.
    """
    known = label >= 0
    each = F.binary_cross_entropy_with_logits(field, label.to(field.dtype).clamp(min=0), reduction="none")
    return torch.where(known, each, 0)


def intervention_loss(
    graph: Graph, field: Tensor, label: Tensor, coupling: Tensor, weighted: bool = True, own: bool = False
) -> Tensor:
    r"""Intervention contrastive estimation: tell each observed label from the one that do(y_k) has flipped.

    .. math:: L = -\frac{1}{|O|} \sum_{(b,k) \in O} \omega_{bk} \log \sigma(D_{bk}), \qquad
        \omega_{bk} = \frac{1/2}{P(y_{bk} \mid \text{parents})}

    D (:func:`fastgmtl.ops.flip_energy`) is the log-odds against the flipped label, in which all partition functions
    have cancelled. The weight, a constant of at most MOST_WEIGHT, makes what was observed a draw under the intervention
    with y_k uniform; without it (``weighted=False``) the estimate of couplings is biased. With ``own`` the log-odds of
    the label's own mechanism are added to D and nothing is weighted: pseudo-likelihood.

    field F [B, T]: of :func:`fields`. label [B, T]: bool, or integers, negative where missing. O: the known labels.
    """
    gap = flip_energy(graph, field, label, coupling)
    known = label >= 0
    odds = torch.where(label > 0, field, -field)  # of the observed label, by its own mechanism
    if own:
        loss = F.softplus(-gap - odds)
    else:
        loss = F.softplus(-gap)
        if weighted:
            loss = loss * (0.5 / odds.detach().sigmoid()).clamp(max=MOST_WEIGHT)
    return torch.where(known, loss, 0).sum() / known.sum().clamp(min=1)

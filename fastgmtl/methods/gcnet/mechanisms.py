r"""The output level: one mechanism a label, given its parents, and what an intervention says of them.

Reconstructed (GCNet's equations are not public). With c_t what a label gets from the features, v_s = 2 y_s - 1 of a
label and v_s = y_s of a number,

.. math:: F_t = c_t + \sum_{s \to t} J_{st} v_s, \qquad
    E_t = \mathrm{softplus}(F_t) - y_t F_t \;\text{(label)}, \quad
    E_t = (y_t - F_t)^2 / 2 \sigma_t^2 + \log \sigma_t \;\text{(number)}

so that exp(-sum_t E_t) is a probability where the graph has no cycle. Intervention contrastive estimation compares
every label with its opposite after an intervention on it, by its children alone (:func:`fastgmtl.ops.flip_energy`):

.. math:: L = - \frac{1}{|O|} \sum_{b, k} \omega_{bk} \log \sigma(D_{bk}), \qquad
    \omega_{bk} = \tfrac12 / p(y_{bk} | y_{pa(k)}, x_b)

in [0.5, 10]: the weights turn what was observed into what an intervention by a fair coin would have shown. Without them
the estimate is biased (a test shows it).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet.samples import Labels
from fastgmtl.ops import flip_energy, spmm

LEAST, MOST = 0.5, 10.0


class Couplings(nn.Module):
    """J of edges: <G e_s, H e_t> / sqrt(d), [E]; with ``rank`` > 0 it depends on the sample besides: [B, E].

    That part is sum_c (C h_b)_c (G' e_s)_c (H' e_t)_c over ``rank`` components.
    """

    def __init__(self, hidden: int, task_hidden: int, rank: int) -> None:
        super().__init__()
        self.cause, self.effect = (nn.Linear(task_hidden, task_hidden, bias=False) for _ in range(2))
        self.rank = rank
        if rank:
            self.sample = nn.Linear(hidden, rank)
            self.sample_cause, self.sample_effect = (nn.Linear(task_hidden, rank, bias=False) for _ in range(2))

    def forward(self, e: Tensor, edges: Tensor, h: Tensor) -> Tensor:
        """e [T, task_hidden] of tasks, edges [2, E], h [B, hidden] of samples."""
        source, target = edges
        static = (self.cause(e)[source] * self.effect(e)[target]).sum(1) / math.sqrt(e.shape[1])
        if not self.rank:
            return static
        pairs = self.sample_cause(e)[source] * self.sample_effect(e)[target]
        return static + self.sample(h) @ pairs.t()


def field(labels: Labels, a: Tensor, c: Tensor, y: Tensor, graph: Graph, weight: Tensor) -> Tensor:
    """F [B, T] of c and observed y [B, T]; a missing parent counts as what a says of it. weight [E] or [B, E]."""
    guess = torch.where(labels.numbers, a, (a / 2).tanh()).detach()  # 2 sigma(a) - 1
    value = torch.where(y.isnan(), guess, torch.where(labels.numbers, y, 2 * y - 1).nan_to_num())
    if weight.dim() == 1:
        return c + spmm(graph, value.t(), weight).t()
    return c + spmm(graph, value.t()[:, :, None], weight.t())[:, :, 0].t()


def mechanism_loss(labels: Labels, f: Tensor, y: Tensor, log_sigma: Tensor) -> Tensor:
    """E_t of each entry [B, T]; 0 where y is missing."""
    known, value = ~y.isnan(), y.nan_to_num()
    binary = F.softplus(f) - value * f
    number = (value - f).square() / 2 * (-2 * log_sigma).exp() + log_sigma
    return torch.where(known, torch.where(labels.numbers, number, binary), 0)


def codes(labels: Labels, y: Tensor) -> Tensor:
    """int32 [B, T] of 0, 1 and -1: missing, or a number."""
    return torch.where(y.isnan() | labels.numbers, -1, y.nan_to_num()).to(torch.int32)


def contrast(graph: Graph, f: Tensor, code: Tensor, weight: Tensor, kind: str) -> Tensor:
    """Loss of comparing each label with its opposite, a mean over the labels that are there.

    ``ice``: by intervention, weighted; ``unweighted``: without the weights; ``pseudo``: the label's own mechanism
    counts as well, which makes it the pseudo-likelihood (Besag 1975). f, code [B, T], weight [E] or [B, E].
    """
    sign = (2 * code - 1).to(f.dtype)
    odds = flip_energy(graph, f, code, weight)
    if kind == "pseudo":
        odds = odds + sign * f
    each = -F.logsigmoid(odds)
    if kind == "ice":
        each = each * (0.5 / (sign * f).sigmoid()).clamp(LEAST, MOST).detach()
    known = code >= 0
    return torch.where(known, each, 0).sum() / known.sum().clamp(min=1)

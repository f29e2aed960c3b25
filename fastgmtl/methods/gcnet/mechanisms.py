r"""The output level: one mechanism a label, given its parents.

Reconstructed (GCNet's equations are not public). With c_t what a label gets from the features, v_s = 2 y_s - 1 of a
label and v_s = y_s of a number,

.. math:: F_t = c_t + \sum_{s \to t} J_{st} v_s, \qquad
    E_t = \mathrm{softplus}(F_t) - y_t F_t \;\text{(label)}, \quad
    E_t = (y_t - F_t)^2 / 2 \sigma_t^2 + \log \sigma_t \;\text{(number)}

so that exp(-sum_t E_t) is a probability where the graph has no cycle (:mod:`fastgmtl.nn.causal_energy`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet.samples import Labels
from fastgmtl.nn.causal_energy import mechanism_energy
from fastgmtl.ops import spmm


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

    def static(self, e: Tensor) -> Tensor:
        """Of all pairs [T, T], row the cause, without what depends on the sample."""
        found: Tensor = self.cause(e) @ self.effect(e).t() / math.sqrt(e.shape[1])
        return found

    def begin(self, e: Tensor, table: Tensor) -> None:
        """Start from couplings [T, T], exactly while there are no more labels than e is wide, else in least squares."""
        with torch.no_grad():
            inverse = torch.linalg.pinv(e.double())
            self.cause.weight.copy_((inverse @ table.double() @ inverse.t()).t() * math.sqrt(e.shape[1]))
            self.effect.weight.copy_(torch.eye(e.shape[1]))

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
    number = (y.nan_to_num() - f).square() / 2 * (-2 * log_sigma).exp() + log_sigma
    binary = mechanism_energy(f, codes(labels, y))
    return torch.where(labels.numbers, torch.where(y.isnan(), 0, number), binary)


def codes(labels: Labels, y: Tensor) -> Tensor:
    """int32 [B, T] of 0, 1 and -1: missing, or a number."""
    return torch.where(y.isnan() | labels.numbers, -1, y.nan_to_num()).to(torch.int32)

r"""The output level: one mechanism a label, given its parents.

Reconstructed (GCNet's equations are not public). With c_t what a label gets from the features, v_s = 2 y_s - 1 of a
label and v_s = y_s of a number,

.. math:: F_t = c_t + \sum_{s \to t} J_{st} v_s, \qquad
    E_t = \mathrm{softplus}(F_t) - y_t F_t \;\text{(label)}, \quad
    E_t = (y_t - F_t)^2 / 2 \sigma_t^2 + \log \sigma_t \;\text{(number)}

Of C classes v and F have C entries, v = y - 1/C of the class that is 1 in y; couplings are tables of C_s x C_t, of the
rank of the embeddings, as each class has one; and E_t = log sum exp F_t - <y_t, F_t>. All of it is so made
that exp(-sum_t E_t) is a probability where the graph has no cycle (:mod:`fastgmtl.nn.causal_energy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet import mixed
from fastgmtl.methods.gcnet.variables import Variables
from fastgmtl.ops import gibbs, spmm


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


@dataclass(frozen=True)
class Energy:
    """The mechanisms of a batch: logits a and what the features give c [B, K], a graph, couplings [E] or [B, E].

    The graph is one of columns: an edge between variables is one between each column of the one and of the other.
    """

    variables: Variables
    a: Tensor
    c: Tensor
    graph: Graph
    weight: Tensor
    log_sigma: Tensor

    def field(self, y: Tensor) -> Tensor:
        """F [B, K] of observed y [B, K]; a missing parent counts as what a says of it."""
        guess = self.variables.guesses(self.a).detach()
        value = torch.where(y.isnan(), guess, self.variables.values(y.nan_to_num()))
        if self.weight.dim() == 1:
            return self.c + spmm(self.graph, value.t(), self.weight).t()
        return self.c + spmm(self.graph, value.t()[:, :, None], self.weight.t())[:, :, 0].t()

    def mechanisms(self, f: Tensor, y: Tensor) -> Tensor:
        """E_t [..., T] of fields f [..., K]; 0 where y is missing."""
        energy = self.variables.cross_entropy(f, y)
        if self.variables.has_numbers:
            each = (y.nan_to_num() - f).square() / 2 * (-2 * self.log_sigma).exp() + self.log_sigma
            energy = energy + self.variables.pool(torch.where(self.variables.numbers & ~y.isnan(), each, 0))
        return energy

    def __call__(self, y: Tensor) -> Tensor:
        """E_t [B, T], 0 where y is missing."""
        return self.mechanisms(self.field(y), y)

    def gibbs(self, y: Tensor, fixed: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
        """Sweeps over what is not fixed [B, T], from y [B, K] (NaN: what c makes likely): last draw and mean [B, K]."""
        if self.variables.binary:
            drawn, mean = gibbs(self.graph, self.c, self.weight.detach(), codes(y), fixed, sweeps=sweeps)
            return drawn.to(y.dtype), mean
        return mixed.sweep(self, torch.where(y.isnan(), self.variables.likeliest(self.c), y), fixed, sweeps)


def codes(y: Tensor) -> Tensor:
    """int32 [B, T] of labels 0 and 1; -1 where they are missing."""
    return torch.where(y.isnan(), -1, y.nan_to_num()).to(torch.int32)

r"""Labels, classes and numbers that cause one another; where all are labels there are kernels instead.

Compositions in PyTorch on the matrix of all couplings, one variable of C values at a time, in B x C x K numbers.
With the energies E_t of the mechanisms, an intervention do(y_k = v) leaves :math:`E^{do\,k}(v) = \sum_{t \ne k} E_t` of
what it acts on, and with y_k uniform

.. math:: P(y_k = v \mid y_{-k}) = \mathrm{softmax}_v (-E^{do\,k}(v)), \qquad
    L_{ice} = -\frac{1}{|O|} \sum_{(b,k) \in O} \omega_{bk} \log P(y_{bk} \mid y_{b,-k}), \quad
    \omega_{bk} = \frac{1 / C_k}{P(y_{bk} \mid \text{parents})}

which for two values is the loss of :func:`fastgmtl.nn.causal_energy.intervention_loss`. Reconstructed, as that is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgmtl.nn.causal_energy import MOST_WEIGHT

if TYPE_CHECKING:
    from fastgmtl.methods.gcnet.mechanisms import Energy

LANGEVIN, STEP = 20, 0.2  # steps of numbers in a sweep, and their size, in units of what the curvature allows


def couplings(energy: Energy) -> Tensor:
    """J [K, K], or [B, K, K] where it depends on the sample: row the cause."""
    source, target = energy.graph.edge_index()
    width = energy.variables.width
    table = energy.weight.new_zeros(*energy.weight.shape[:-1], width * width)
    return table.index_copy(-1, source * width + target, energy.weight).unflatten(-1, (width, width))


def alternatives(energy: Energy, y: Tensor, field: Tensor, table: Tensor, k: int) -> Tensor:
    """E^{do k} [B, C] of every value of the label or class k; field F [B, K] is that of y, table of ``couplings``."""
    variables = energy.variables
    columns = variables.columns[k]
    values = _values(y, columns.stop - columns.start)
    now = _seen(energy, y)[:, columns]
    change = (values - now[:, None]) @ table[..., columns, :]  # [B, C, K]
    each = energy.mechanisms(field[:, None] + change, y[:, None])
    return each.sum(-1) - each[..., k]


def own(energy: Energy, field: Tensor, k: int) -> Tensor:
    """-log P [B, C] of every value of k by its own mechanism."""
    f = field[:, energy.variables.columns[k]]
    return -f.log_softmax(1) if f.shape[1] > 1 else -torch.nn.functional.logsigmoid(torch.cat((-f, f), 1))


def intervention_loss(energy: Energy, y: Tensor, weighted: bool, with_own: bool) -> Tensor:
    """L_ice of this module; ``with_own`` the pseudo-likelihood, which needs no weights."""
    field, table, known = energy.field(y), couplings(energy), energy.variables.known(y)
    total, count = field.new_zeros(()), known[:, energy.variables.discrete].sum()
    for k in energy.variables.choices:
        cost, by_itself = alternatives(energy, y, field, table, k), own(energy, field, k)
        seen = _place(y[:, energy.variables.columns[k]])
        log = (-cost - by_itself if with_own else -cost).log_softmax(1).gather(1, seen)[:, 0]
        if weighted and not with_own:
            propensity = by_itself.detach().gather(1, seen)[:, 0] - math.log(cost.shape[1])
            log = log * propensity.exp().clamp(max=MOST_WEIGHT)
        total = total - torch.where(known[:, k], log, 0).sum()
    return total / count.clamp(min=1)


@torch.no_grad()
def sweep(energy: Energy, y: Tensor, fixed: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Gibbs sampling of what is not fixed [B, T], from y [B, K] without gaps: the last draw, and the mean [B, K].

    The mean is that of the probabilities of labels and classes in each draw; numbers move by LANGEVIN steps of
    Langevin's dynamics a sweep, and have the mean of where one step of descent would take them from there.
    """
    table, variables = couplings(energy), energy.variables
    y, mean = y.clone(), torch.zeros_like(y)
    for _ in range(sweeps):
        field = energy.field(y)
        for place in torch.randperm(len(variables.choices)).tolist():
            k = variables.choices[place]
            columns = variables.columns[k]
            width = columns.stop - columns.start
            odds = -alternatives(energy, y, field, table, k) - own(energy, field, k)
            chance = odds.softmax(1)
            place = chance.multinomial(1)
            drawn = place.to(y.dtype) if width == 1 else torch.zeros_like(chance).scatter_(1, place, 1.0)
            new = torch.where(fixed[:, k, None], y[:, columns], drawn)
            mean[:, columns] += torch.where(fixed[:, k, None], new, chance[:, -width:])
            before = variables.values(y)[:, columns]
            y[:, columns] = new
            change = (variables.values(y)[:, columns] - before)[:, None]
            field = field + (change @ table[..., columns, :])[:, 0]
        if variables.has_numbers:
            y, better = _langevin(energy, y, fixed, _stiffness(energy, table))
            mean += torch.where(variables.numbers, better, 0)
    return y, mean / sweeps


def _langevin(energy: Energy, y: Tensor, fixed: Tensor, stiffness: Tensor) -> tuple[Tensor, Tensor]:
    """Where numbers are after LANGEVIN steps, and where one step of descent takes them from there."""
    moving = energy.variables.numbers & ~fixed[:, energy.variables.variable]

    def slope(at: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            return torch.autograd.grad(energy.mechanisms(energy.field(at), at).sum(), at)[0] / stiffness

    for _ in range(LANGEVIN):
        noise = (STEP / stiffness).sqrt() * torch.randn_like(y)
        y = torch.where(moving, y - STEP / 2 * slope(y) + noise, y)
    return y, torch.where(moving, y - slope(y), y)


def _stiffness(energy: Energy, table: Tensor) -> Tensor:
    """At least the curvature [K] or [B, K] of the energy in each number: of its own mechanism and of its effects'."""
    curvature = torch.where(energy.variables.numbers, (-2 * energy.log_sigma).exp(), 0.25)
    return (-2 * energy.log_sigma).exp() + table.square() @ curvature


@torch.no_grad()
def edge_ratios(energy: Energy, y: Tensor, every: Tensor, present: Tensor) -> Tensor:
    """Log-likelihood ratios [T, T] of every edge at its couplings ``every`` [K, K] or [B, K, K], summed over samples.

    ``present`` [T, T]: which edges the field of y counts already.
    """
    variables, field, known = energy.variables, energy.field(y), energy.variables.known(y)
    seen, found = _seen(energy, y), torch.zeros_like(present, dtype=field.dtype)
    for s, columns in enumerate(variables.columns):
        push = (seen[:, None, columns] @ every[..., columns, :])[:, 0]
        without = field - torch.where(present[s, variables.variable], push, 0)
        gained = energy.mechanisms(without, y) - energy.mechanisms(without + push, y)
        found[s] = torch.where(known & known[:, s, None], gained, 0).sum(0)
    return found.fill_diagonal_(0)


def _seen(energy: Energy, y: Tensor) -> Tensor:
    """v [B, K], of missing ones what the logits expect."""
    value = energy.variables.values(y)
    return torch.where(value.isnan(), energy.variables.guesses(energy.a).detach(), value)


def _values(y: Tensor, width: int) -> Tensor:
    """v of all values of a variable: [2, 1] of a label, [C, C] of C classes."""
    if width == 1:
        return y.new_tensor([[-1.0], [1.0]])
    return torch.eye(width, dtype=y.dtype, device=y.device) - 1 / width


def _place(y: Tensor) -> Tensor:
    """Which value [B, 1] a label or class with the columns y has; any where it is missing."""
    here = y.nan_to_num()
    return here.argmax(1, keepdim=True) if here.shape[1] > 1 else here.long()

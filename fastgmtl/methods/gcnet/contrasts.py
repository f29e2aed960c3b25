r"""What trains the energy of all labels together: observed labels against others that the model is to find less likely.

With the energies E_t of the mechanisms, E = sum_t E_t, and E^{do S} without those of the labels S that are set:

* ice: intervention contrastive estimation, every label against its opposite (:mod:`fastgmtl.nn.causal_energy`);
  unweighted: without the inverse propensities, biased; pseudo: the pseudo-likelihood (Besag 1975);
* ancestral: a coin (a die, of classes) sets one label of each sample, and the mechanisms draw its effects; those draws
  against the observed ones, weighted as in ice, by noise contrastive estimation whose noise is the model itself
  (Goodfellow 2014): the gradient of the likelihood under interventions;
* infonce: SHARE of the labels are turned over together, one Gibbs sweep draws the others; the observed labels against
  NEGATIVES such draws, by a softmax of -E^{do S}. Couplings come out too small: the draws are likely ones, which the
  softmax does not take into account;
* nce: as SGNN-EBM, against noise that the logits a draw label by label.

Reconstructed (GCNet's equations are not public); a mean over the labels that are there, or over samples.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.methods.gcnet import mixed
from fastgmtl.methods.gcnet.mechanisms import Energy, codes
from fastgmtl.nn.causal_energy import MOST_WEIGHT, intervention_loss

Contrast = Literal["ice", "unweighted", "pseudo", "ancestral", "infonce", "nce", "none"]
SHARE = 0.2
NEGATIVES = 4
ROUNDS = 16  # of drawing effects of effects; a path between labels that is longer ends there
LEAST = 1e-4  # of the noise's probabilities


def contrast(kind: Contrast, energy: Energy, y: Tensor) -> Tensor:
    """The loss of y [B, K], NaN where missing."""
    if kind in ("ice", "unweighted", "pseudo"):
        weighted, with_own = kind == "ice", kind == "pseudo"
        if not energy.variables.binary:
            return mixed.intervention_loss(energy, y, weighted, with_own)
        return intervention_loss(energy.graph, energy.field(y), codes(y), energy.weight, weighted, with_own)
    losses = {"ancestral": _ancestral, "infonce": _infonce, "nce": _nce}
    return losses[kind](energy, y, energy.variables.known(y))


def _propensity(energy: Energy, y: Tensor, chosen: Tensor) -> Tensor:
    """[B]: how much rarer the chosen [B, T] were than draws of equal chance would have them, at most MOST_WEIGHT."""
    variables = energy.variables
    values = variables.size[variables.first].clamp(min=2).to(y.dtype)
    log = variables.cross_entropy(energy.field(y).detach(), y) - values.log()
    return torch.where(chosen, log, 0).sum(1).exp().clamp(max=MOST_WEIGHT)


def _ancestral(energy: Energy, y: Tensor, known: Tensor) -> Tensor:
    variables = energy.variables
    chosen = _some(known & variables.discrete, 1)
    is_set, is_effect = chosen[:, variables.variable], (known & ~chosen)[:, variables.variable]
    with torch.no_grad():
        uniform, spread = torch.rand_like(y), torch.randn_like(y) * energy.log_sigma.exp()
        drawn = torch.where(is_set, variables.draw(torch.zeros_like(y)), y)
        for _ in range(min(variables.count, ROUNDS)):
            f = energy.field(drawn)
            effect = torch.where(variables.numbers, f + spread, variables.draw(f, uniform))
            drawn = torch.where(is_effect, effect, drawn)
    found, noise = (torch.where(chosen, 0, energy(v)).sum(1) for v in (y, drawn))
    each = F.softplus(found - found.detach()) * _propensity(energy, y, chosen) + F.softplus(noise.detach() - noise)
    return _mean(each, known & variables.discrete)


def _infonce(energy: Energy, y: Tensor, known: Tensor) -> Tensor:
    variables = energy.variables
    chosen = _some(known & variables.discrete, max(1, round(SHARE * variables.count)))
    with torch.no_grad():
        other = torch.where(variables.classes, variables.draw(torch.where(y > 0, -1e9, 0.0).to(y.dtype)), 1 - y)
        turned = torch.where(chosen[:, variables.variable], other, y)
        fixed = chosen | ~known
        drawn = [energy.gibbs(turned, fixed, 1)[0] for _ in range(NEGATIVES)]
        others = [torch.where(fixed[:, variables.variable], turned, v) for v in drawn]
    scores = torch.stack([-torch.where(chosen, 0, energy(v)).sum(1) for v in (y, *others)], 1)
    return _mean(-scores.log_softmax(1)[:, 0] * _propensity(energy, y, chosen), known & variables.discrete)


def _nce(energy: Energy, y: Tensor, known: Tensor) -> Tensor:
    variables, a = energy.variables, energy.a.detach()
    least = math.log(LEAST)
    a = torch.where(variables.classes, variables.log_softmax(a).clamp(min=least), a.clamp(least, -least))
    noise = torch.where((known & variables.discrete)[:, variables.variable], variables.draw(a), y)

    def gap(v: Tensor) -> Tensor:
        return -energy(v).sum(1) + variables.cross_entropy(a, v).sum(1)

    return _mean(F.softplus(-gap(y)) + F.softplus(gap(noise)), known & variables.discrete)


def _some(known: Tensor, count: int) -> Tensor:
    """At most ``count`` of the variables of each sample that are there, at random, bool [B, T]."""
    key = torch.rand(known.shape, device=known.device).masked_fill(~known, 2.0)
    chosen = torch.zeros_like(known).scatter_(1, key.topk(min(count, known.shape[1]), 1, largest=False).indices, True)
    return chosen & known


def _mean(each: Tensor, known: Tensor) -> Tensor:
    """Over the samples that have a label."""
    there = known.any(1)
    return torch.where(there, each, 0).sum() / there.sum().clamp(min=1)

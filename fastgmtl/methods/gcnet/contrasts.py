r"""What trains the energy of all labels together: observed labels against others that the model is to find less likely.

With the energies E_t of the mechanisms, E = sum_t E_t, and E^{do S} without those of the labels S that are set:

* ice: intervention contrastive estimation, every label against its opposite (:mod:`fastgmtl.nn.causal_energy`);
  unweighted: without the inverse propensities, biased; pseudo: the pseudo-likelihood (Besag 1975);
* ancestral: a coin sets one label of each sample, and the mechanisms draw its effects; those draws against the observed
  ones, weighted as in ice, by noise contrastive estimation whose noise is the model itself (Goodfellow 2014): the
  gradient of the likelihood under interventions;
* infonce: SHARE of the labels are turned over together, one Gibbs sweep draws the others; the observed labels against
  NEGATIVES such draws, by a softmax of -E^{do S}. Couplings come out too small: the draws are likely ones, which the
  softmax does not take into account;
* nce: as SGNN-EBM, against noise that the logits a draw label by label.

Reconstructed (GCNet's equations are not public); a mean over the labels that are there, or over samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet.mechanisms import codes, field, mechanism_loss
from fastgmtl.methods.gcnet.samples import Labels
from fastgmtl.nn.causal_energy import MOST_WEIGHT, intervention_loss
from fastgmtl.ops import gibbs

Contrast = Literal["ice", "unweighted", "pseudo", "ancestral", "infonce", "nce", "none"]
SHARE = 0.2
NEGATIVES = 4
ROUNDS = 16  # of drawing effects of effects; a path between labels that is longer ends there
LEAST = 1e-4  # of the noise's probabilities


@dataclass(frozen=True)
class Energy:
    """The mechanisms of a batch: logits a and what the features give c [B, T], a graph, couplings [E] or [B, E]."""

    labels: Labels
    a: Tensor
    c: Tensor
    graph: Graph
    weight: Tensor
    log_sigma: Tensor

    def field(self, y: Tensor) -> Tensor:
        """F [B, T] of labels y [B, T]."""
        return field(self.labels, self.a, self.c, y, self.graph, self.weight)

    def __call__(self, y: Tensor) -> Tensor:
        """E_t [B, T], 0 where y is missing."""
        return mechanism_loss(self.labels, self.field(y), y, self.log_sigma)


def contrast(kind: Contrast, energy: Energy, y: Tensor) -> Tensor:
    """The loss of labels y [B, T], NaN where missing."""
    if kind in ("ice", "unweighted", "pseudo"):
        code = codes(energy.labels, y)
        options = {"weighted": kind == "ice", "own": kind == "pseudo"}
        return intervention_loss(energy.graph, energy.field(y), code, energy.weight, **options)
    binary = ~y.isnan() & ~energy.labels.numbers
    losses = {"ancestral": _ancestral, "infonce": _infonce, "nce": _nce}
    return losses[kind](energy, y, binary)


def _propensity(energy: Energy, y: Tensor, chosen: Tensor) -> Tensor:
    """[B]: how much rarer the chosen labels [B, T] were than coins would have them, at most MOST_WEIGHT."""
    f = energy.field(y).detach()
    log = F.logsigmoid(torch.where(y > 0, f, -f)) + torch.full_like(f, 2.0).log()
    return (-torch.where(chosen, log, 0).sum(1)).exp().clamp(max=MOST_WEIGHT)


def _ancestral(energy: Energy, y: Tensor, binary: Tensor) -> Tensor:
    chosen = _some(binary, 1)
    with torch.no_grad():
        coin = (torch.rand_like(y) < 0.5).to(y.dtype)
        uniform, drawn = torch.rand_like(y), torch.where(chosen, coin, y)
        for _ in range(min(y.shape[1], ROUNDS)):
            effect = (uniform < energy.field(drawn).sigmoid()).to(y.dtype)
            drawn = torch.where(binary & ~chosen, effect, drawn)
    found, noise = (torch.where(chosen, 0, energy(v)).sum(1) for v in (y, drawn))
    each = F.softplus(found - found.detach()) * _propensity(energy, y, chosen) + F.softplus(noise.detach() - noise)
    return _mean(each, binary)


def _infonce(energy: Energy, y: Tensor, binary: Tensor) -> Tensor:
    chosen = _some(binary, max(1, round(SHARE * y.shape[1])))
    with torch.no_grad():
        turned = torch.where(chosen, 1 - y, y)
        fixed = chosen | ~binary
        weight = energy.weight.detach()
        start = codes(energy.labels, turned)
        drawn = [gibbs(energy.graph, energy.c, weight, start, fixed, sweeps=1)[0] for _ in range(NEGATIVES)]
        others = [torch.where(fixed, turned, v.to(y.dtype)) for v in drawn]
    scores = torch.stack([-torch.where(chosen, 0, energy(v)).sum(1) for v in (y, *others)], 1)
    return _mean(-scores.log_softmax(1)[:, 0] * _propensity(energy, y, chosen), binary)


def _nce(energy: Energy, y: Tensor, binary: Tensor) -> Tensor:
    q = energy.a.detach().sigmoid().clamp(LEAST, 1 - LEAST)
    noise = torch.where(binary, (torch.rand_like(q) < q).to(y.dtype), y)

    def gap(v: Tensor) -> Tensor:
        chance = torch.where(binary, torch.where(v > 0, q, 1 - q).log(), 0).sum(1)
        return -energy(v).sum(1) - chance

    return _mean(F.softplus(-gap(y)) + F.softplus(gap(noise)), binary)


def _some(binary: Tensor, count: int) -> Tensor:
    """At most ``count`` of the labels of each sample that are there, at random, bool [B, T]."""
    key = torch.rand(binary.shape, device=binary.device).masked_fill(~binary, 2.0)
    chosen = torch.zeros_like(binary).scatter_(1, key.topk(min(count, binary.shape[1]), 1, largest=False).indices, True)
    return chosen & binary


def _mean(each: Tensor, binary: Tensor) -> Tensor:
    """Over the samples that have a label."""
    there = binary.any(1)
    return torch.where(there, each, 0).sum() / there.sum().clamp(min=1)

r"""The graph between the labels as random variables: a prior from features of the tasks, a posterior refined by data.

Reconstructed (GCNet's equations are not public; its abstract says that a feature-level generator makes a prior of the
structure, which an output-level one refines): edges s -> t are independent, with log-odds

.. math:: l_{st} = l_0 + 4 \tanh \tfrac14 (\langle P u_s, Q u_t \rangle / \sqrt{d} + b) \quad\text{(prior)}, \qquad
    r_{st} \leftarrow (1 - \eta) r_{st} + \eta \, (l_{st} + \kappa \, \delta_{st}) \quad\text{(posterior)}

where u_t is made of the task's embedding and of the difference between the mean embeddings of samples that have the
label and of those that do not, and delta is the log-likelihood ratio of the edge over the training set
(:func:`fastgmtl.ops.edge_delta`), less half the logarithm of the number of samples: what a coupling that was fitted
costs (Schwarz's criterion). l_0 is the log-odds of an edge where a label has PARENTS parents, or half of all. The bound
on what the prior adds leaves the last word to the data: what is gained by messages alone would drive it to certainty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.ops import concrete

MOMENTUM = 0.9
BOUND = 4.0  # of what the prior's log-odds are from those of a graph of which nothing is known
PARENTS = 4  # of a label in such a graph
NEVER = -1e4  # the log-odds of an edge that cannot be


class Structure(nn.Module):
    """Prior and posterior of the edges between T labels.

    Buffers: ``signature`` [2, K, hidden] (mean embeddings without and with the label), ``posterior`` [T, T]. Log-odds
    are [T, T], row the cause; those of an edge from a label to itself are NEVER. ``variable`` [K]: the label that each
    column is a class of; u_t is the mean over its classes.
    """

    variable: Tensor
    size: Tensor
    signature: Tensor
    posterior: Tensor
    refined: Tensor

    def __init__(self, variable: Tensor, hidden: int, task_hidden: int) -> None:
        super().__init__()
        size = variable.bincount()
        count = len(size)
        self.register_buffer("variable", variable)
        self.register_buffer("size", size)
        self.feature = nn.Sequential(
            nn.Linear(task_hidden + hidden, task_hidden), nn.ReLU(), nn.Linear(task_hidden, task_hidden)
        )
        self.cause = nn.Linear(task_hidden, task_hidden, bias=False)
        self.effect = nn.Linear(task_hidden, task_hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(()))
        likely = min(0.5, PARENTS / max(1, count - 1))
        self.unknown = math.log(likely / (1 - likely))
        self.register_buffer("signature", torch.zeros(2, len(variable), hidden))
        self.register_buffer("posterior", torch.zeros(count, count))
        self.register_buffer("refined", torch.tensor(False))

    def observe(self, h: Tensor, y: Tensor) -> None:
        """Follow the mean embeddings of samples h [B, hidden] by label y [B, K], NaN where missing."""
        with torch.no_grad():
            for side, has in enumerate((y <= 0, y > 0)):
                count = has.sum(0)
                mean = has.to(h.dtype).t() @ h / count.clamp(min=1)[:, None]
                kept = torch.where(count[:, None] > 0, MOMENTUM, 1.0)
                self.signature[side].mul_(kept).add_(mean * (1 - kept))

    def prior(self, e: Tensor) -> Tensor:
        """l [T, T] of embeddings e [K, task_hidden] of the tasks."""
        u = self.pool(self.feature(torch.cat((e, self.signature[1] - self.signature[0]), 1)))
        logits = self.cause(u) @ self.effect(u).t() / math.sqrt(u.shape[1]) + self.bias
        logits = self.unknown + BOUND * (logits / BOUND).tanh()
        return logits.masked_fill(torch.eye(len(u), dtype=torch.bool, device=e.device), NEVER)

    def pool(self, e: Tensor) -> Tensor:
        """Means [T, ...] over the classes of each label of e [K, ...]."""
        if len(self.size) == len(e):
            return e
        return e.new_zeros(len(self.size), *e.shape[1:]).index_add(0, self.variable, e) / self.size[:, None]

    def refine(self, prior: Tensor, delta: Tensor, rate: float, acyclic: bool) -> None:
        """A step of the posterior; delta [T, T] is added to the prior's log-odds, both without gradients.

        ``acyclic``: an edge that closes a cycle with better ones cannot be.
        """
        with torch.no_grad():
            wanted = prior + delta
            if acyclic:
                wanted = wanted.masked_fill(closes_cycle(wanted), NEVER)
            start = self.posterior if bool(self.refined) else prior
            self.posterior.copy_(torch.lerp(start, wanted, rate).clamp(min=NEVER))
            self.refined.fill_(True)


def closes_cycle(logits: Tensor) -> Tensor:
    """Which edges [T, T] close a cycle with edges of greater log-odds, from the greatest down to 0."""
    count = len(logits)
    reaches = torch.eye(count, dtype=torch.bool)  # [from, to]
    closed = torch.zeros(count, count, dtype=torch.bool)
    order = logits.flatten().argsort(descending=True).tolist()
    for place, value in zip(order, logits.flatten()[order].tolist(), strict=True):
        if value <= 0:
            break
        source, target = divmod(place, count)
        if reaches[target, source]:
            closed[source, target] = True
        elif not reaches[source, target]:
            reaches |= reaches[:, source][:, None] & reaches[target]
    return closed.to(logits.device)


def sample(logits: Tensor, temperature: float, explore: float, generator: torch.Generator) -> Tensor:
    """A graph [T, T] of zeros and ones with the gradient of the soft one; see :func:`fastgmtl.ops.concrete`.

    ``generator`` may be on another device.
    """
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device).to(logits.device)
    return concrete(logits, temperature, explore, seed, dense=True)


def divergence(logits: Tensor, prior: Tensor) -> Tensor:
    """Mean over edges of KL(Bern(sigma(logits)) || Bern(sigma(prior)))."""
    p = logits.sigmoid()
    each = p * (F.logsigmoid(logits) - F.logsigmoid(prior)) + (1 - p) * (F.logsigmoid(-logits) - F.logsigmoid(-prior))
    off = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return each[off].mean() if off.any() else each.sum() * 0


def cyclicity(probability: Tensor) -> Tensor:
    r"""tr(exp(A \circ A)) - T of probabilities A [T, T]: 0 where no cycle is possible (NOTEARS, Zheng et al. 2018).

    Above 200 labels tr((I + A \circ A / T)^T) - T instead (DAGMA's predecessor, Yu et al. 2019).
    """
    count, squared = len(probability), probability.square()
    if count <= 200:
        return torch.linalg.matrix_exp(squared).trace() - count
    eye = torch.eye(count, dtype=squared.dtype, device=squared.device)
    return torch.linalg.matrix_power(eye + squared / count, count).trace() - count

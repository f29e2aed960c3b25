r"""SGNN-EBM: an energy of all labels of a sample together, on a given task graph.

Source: S. Liu, M. Qu, Z. Zhang, H. Cai and J. Tang, Structured multi-task learning for molecular property prediction,
AISTATS 2022. With scores f_1 of the states of each task and f_2 of the states of each edge, both normalised over the
states, of the network of :mod:`fastgmtl.methods.gcnet.sgnn`,

.. math:: \log \tilde p(y) = \sum_t \log f_1[y_t] + \lambda \sum_{m = (s, t)} \log f_2[y_s, y_t], \qquad
    L = -\log \frac{\tilde p(y)}{\tilde p(y) + q(y)} - \log \frac{q(y')}{\tilde p(y') + q(y')}

is noise contrastive estimation: y are the labels, y' is drawn from q, which has the marginals of Gibbs sampling from
p~, label by label. Labels that are missing are filled by SGNN, which learns first (the warm epochs), stays as it is
then, and gives the energy its parameters to begin with. Predictions are the probabilities of the last Gibbs sweep,
begun at SGNN's. The released sampler's tilting by a prior is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet import sgnn
from fastgmtl.methods.gcnet.samples import Batch
from fastgmtl.methods.training import require
from fastgmtl.ops import gibbs

LEAST = 1e-4  # of the noise's probabilities


@dataclass(frozen=True)
class Config(sgnn.Config):
    """As SGNN's. warm: share of the epochs in which SGNN learns. strength: lambda. sweeps: of Gibbs sampling."""

    warm: float = 0.5
    strength: float = 0.1
    sweeps: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.warm < 1, "warm", "between 0 and 1", self.warm)
        require(self.strength >= 0, "strength", "at least 0", self.strength)
        require(self.sweeps >= 1, "sweeps", "at least 1", self.sweeps)


class SGNNEBM(sgnn.SGNN):
    """Probabilities of all labels by Gibbs sampling from a learned energy."""

    config_type = Config
    states = 2
    epoch: Tensor

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        if self.labels.numbers.any():
            number = self.labels.names[int(self.labels.numbers.nonzero()[0])]
            raise ValueError(f"tasks: sgnn_ebm requires labels of 0 and 1, {number} is a number; take sgnn or gcnet")
        self.settings = config
        self.energy = copy.deepcopy(torch.nn.ModuleList((self.embedding, self.network)))
        self.register_buffer("epoch", torch.tensor(0))

    @property
    def warming(self) -> bool:
        """Whether SGNN learns yet."""
        return int(self.epoch) <= max(1, round(self.settings.warm * self.settings.epochs))

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Batch]:
        """As those of any samples; the first epoch after the warm ones begins with a copy of SGNN."""
        before = self.warming
        self.epoch += 1
        if before and not self.warming:
            for mine, learned in zip(self.energy, (self.embedding, self.network), strict=True):
                mine.load_state_dict(learned.state_dict())
        return super().batches(dataset, generator)

    def odds(self, h: Tensor) -> Tensor:
        """SGNN's logits [B, T]: the difference of the scores of the two states."""
        score = self.network(h, self.embedding(self.graph), self.graph)[0].transpose(0, 1)
        return score[..., 1] - score[..., 0]

    def states_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """log f_1 [B, T, 2] and lambda log f_2 [B, M, 4]."""
        embedding, network = self.energy
        own, pair = network(h, embedding(self.graph), self.graph)
        own, pair = own.transpose(0, 1).log_softmax(2), pair.transpose(0, 1).log_softmax(2)
        return own, self.settings.strength * pair

    def marginals(self, own: Tensor, pair: Tensor, start: Tensor, burn_in: int) -> Tensor:
        """Probabilities of 1 [B, T]: the mean over the sweeps after ``burn_in``."""
        bias, coupling = as_field(self.graph, own.detach(), pair.detach())
        sweeps = self.settings.sweeps
        return gibbs(self.graph, bias, coupling, start, sweeps=sweeps, burn_in=burn_in, normalised=False)[1]

    def predict(self, samples: Tensor | Dataset) -> Tensor:
        """SGNN's logits in the warm epochs, then those of the probabilities of the last sweep."""
        h = self.encoder(samples)
        odds = self.odds(h)
        if self.warming:
            return odds
        last = self.marginals(*self.states_of(h), odds > 0, self.settings.sweeps - 1)
        return last.clamp(1e-6, 1 - 1e-6).logit()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """SGNN's losses by task in the warm epochs; then the contrast, ``nce``, beside which tasks have none."""
        if self.warming:
            z = self.odds(self.encoder(batch.samples))
            return self.labels.by_task(self.labels.loss(z, batch.y), self.labels.known(batch.y))
        # SGNN fills gaps with the encoder that it has learned with: that one stays as it is, too.
        with torch.no_grad():
            h = self.encoder(batch.samples)
            guess = self.odds(h) > 0
        y = torch.where(batch.y.isnan(), guess, batch.y > 0).long()
        own, pair = self.states_of(h)
        q = self.marginals(own, pair, guess, 0).clamp(LEAST, 1 - LEAST)
        noise = (torch.rand_like(q) < q).long()
        gap = [log_weight(self.graph, own, pair, v) - torch.where(v > 0, q, 1 - q).log().sum(1) for v in (y, noise)]
        loss = (F.softplus(-gap[0]) + F.softplus(gap[1])).mean()
        return {**dict.fromkeys(self.labels.tasks, 0 * loss), "nce": loss}


def as_field(graph: Graph, own: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Bias a [B, T] and couplings J [B, M] of the pairwise energy that log-probabilities of states make.

    sum_t own[t, y_t] + sum_m pair[m, (y_s, y_t)] is, but for a constant, sum_t y_t F_t with
    F_t = a_t + sum over edges s -> t of J (2 y_s - 1): what :func:`fastgmtl.ops.gibbs` takes, not normalised.
    own [B, T, 2]; pair [B, M, 4], states 00, 01, 10, 11 of source and destination.
    """
    none, of_target, of_source, of_both = pair.unbind(2)
    coupling = (of_both - of_source - of_target + none) / 2
    source, target = graph.edge_index()
    bias = own[..., 1] - own[..., 0]
    bias = bias.index_add(1, target, of_target - none + coupling).index_add(1, source, of_source - none)
    return bias, coupling


def log_weight(graph: Graph, own: Tensor, pair: Tensor, y: Tensor) -> Tensor:
    """sum_t own[t, y_t] + sum_m pair[m, (y_s, y_t)] of labels y int64 [B, T]: [B]."""
    source, target = graph.edge_index()
    of_tasks = own.gather(2, y[:, :, None])[..., 0].sum(1)
    return of_tasks + pair.gather(2, (2 * y[:, source] + y[:, target])[:, :, None])[..., 0].sum(1)

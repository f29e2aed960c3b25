r"""GCNet: tasks exchange messages along a causal graph that is learned with them.

Source: Lin et al., GCNet: generative causality-driven network for graph multi-task learning. Only its abstract is
public: a feature-level generator makes a prior of the graph's structure, an output-level generator (a causal energy
model of the labels) refines it, and intervention contrastive estimation trains that one. All equations here and in
:mod:`fastgmtl.methods.gcnet.structure` and :mod:`~fastgmtl.methods.gcnet.mechanisms` are a reconstruction.

With the embedding h_b of a sample and e_t of a task, a graph A drawn from the prior or the posterior, and
Abar = A / max(1, parents),

.. math::
    z_{bt}^0 &= \mathrm{relu}(W_h h_b + W_e e_t + c), \qquad
    z_{bt}^{l+1} = \mathrm{relu}(W_0 z_{bt}^l + W_1 \textstyle\sum_s \bar A_{st} z_{bs}^l) + z_{bt}^l, \\
    a_{bt} &= \langle w_t, z_{bt}^L \rangle + b_t, \qquad c_{bt} = \langle w'_t, x_b \rangle + b'_t

a are logits that need no other label, c what the mechanisms of the labels get besides their parents. c is linear, in
the features of a table or in h_b of other samples: the joint distribution of two labels can be written with either as
the cause, and what tells them apart is that in one of the ways the features act linearly. The loss is

.. math:: L_{sup} + L_{mech} + \lambda_{ice} L_{ice} + \beta \, KL(\rho \| \pi) + \lambda_1 \bar\pi
    + \lambda_{dag} h(\pi) + \lambda_2 \|J\|^2

in three stages: a fifth of the epochs on graphs of the prior pi, as long again with the contrast, then on graphs of the
posterior rho, which the log-likelihood ratios of the edges refine before every epoch. Without cycles and up to SEARCHED
labels (and COEFFICIENTS, where there are classes) they are those of mechanisms that are fitted for the purpose, once,
when the stage begins (:mod:`fastgmtl.methods.gcnet.search`), and c and the couplings go on from there; else those of
the couplings that have been learned so far (:func:`fastgmtl.ops.edge_delta`, :mod:`fastgmtl.methods.gcnet.mixed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph
from fastgmtl.methods.gcnet import mixed, pictures
from fastgmtl.methods.gcnet.contrasts import Contrast, contrast
from fastgmtl.methods.gcnet.given import Given, given_graph
from fastgmtl.methods.gcnet.mechanisms import Couplings, Energy, codes
from fastgmtl.methods.gcnet.samples import Batch, SampleMethod, SamplesConfig
from fastgmtl.methods.gcnet.search import search
from fastgmtl.methods.gcnet.structure import NEVER, Structure, cyclicity, divergence, sample
from fastgmtl.methods.panel import Network, Panel, Plot
from fastgmtl.methods.training import require
from fastgmtl.ops import edge_delta, spmm

ALL_PAIRS = 64  # labels up to which every pair has a gradient in every step
SEARCHED = 64  # labels up to which the graph is searched for, in SEARCHED_SAMPLES at most
SEARCHED_SAMPLES = 32768
COEFFICIENTS = 512  # of the features for one variable of many classes, up to which there is a search
REFINED = 8192  # samples, at most, whose likelihood refines the posterior


@dataclass(frozen=True)
class Config(SamplesConfig):
    """graph: learned, or a given one (correlation, known, full, empty). task_hidden: width of the tasks' embeddings.
    depth: layers of messages between tasks.

    contrast: of :mod:`fastgmtl.methods.gcnet.contrasts`, or none. rank: of what in the couplings depends on the sample;
    0: nothing. predictions: amortised (the logits a), or gibbs (sweeps over the
    energy model, begun there).

    prior: learned, or uniform (without the feature-level generator). refine: whether there is a posterior. acyclic:
    whether it has no cycle. shared_structure: whether messages follow the graph too, or only the couplings do.

    contrast_weight, prior_weight, sparsity, dag, ridge: lambda_ice, beta, lambda_1, lambda_dag and lambda_2.
    """

    graph: Literal["learned", Given] = "learned"
    task_hidden: int = 32
    depth: int = 2
    contrast: Contrast = "ice"
    rank: int = 0
    predictions: Literal["amortised", "gibbs"] = "amortised"
    sweeps: int = 4
    prior: Literal["learned", "uniform"] = "learned"
    refine: bool = True
    acyclic: bool = True
    shared_structure: bool = True
    contrast_weight: float = 1.0
    prior_weight: float = 1e-2
    sparsity: float = 1e-3
    dag: float = 0.0
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, choices in (
            ("graph", ("learned", *get_args(Given))),
            ("contrast", get_args(Contrast)),
            ("predictions", ("amortised", "gibbs")),
            ("prior", ("learned", "uniform")),
        ):
            require(getattr(self, key) in choices, key, ", ".join(choices), getattr(self, key))
        for key in ("task_hidden", "depth", "sweeps"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        require(self.rank >= 0, "rank", "at least 0", self.rank)
        for key in ("contrast_weight", "prior_weight", "sparsity", "dag", "ridge"):
            require(0 <= getattr(self, key) < math.inf, key, "at least 0", getattr(self, key))


class TaskNetwork(nn.Module):
    """Logits a [B, K] of samples and tasks, by messages between tasks (the equations of this module)."""

    def __init__(self, width: int, hidden: int, task_hidden: int, depth: int) -> None:
        super().__init__()
        self.of_samples, self.of_tasks = nn.Linear(hidden, hidden), nn.Linear(task_hidden, hidden, bias=False)
        self.own, self.other = (
            nn.ModuleList(nn.Linear(hidden, hidden, bias=own) for _ in range(depth)) for own in (True, False)
        )
        self.weight, self.bias = nn.Parameter(torch.empty(width, hidden)), nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.weight, std=hidden**-0.5)

    def forward(self, h: Tensor, e: Tensor, graph: Graph, weight: Tensor, task: Tensor | None) -> Tensor:
        """h [B, hidden], e [T, task_hidden], and the weights [E] of the edges of the task graph.

        task [K]: of each column; None: each task has one.
        """
        z = (self.of_samples(h) + self.of_tasks(e)[:, None]).relu()  # [T, B, hidden]
        for own, other in zip(self.own, self.other, strict=True):
            message = spmm(graph, z.flatten(1), weight).view_as(z)
            z = (own(z) + other(message)).relu() + z
        z = z if task is None else z[task]
        return torch.einsum("kbd,kd->bk", z, self.weight) + self.bias


class GCNet(SampleMethod):
    """Logits of all tasks, a causal graph between them and the couplings on its edges."""

    config_type = Config
    takes_classes = True
    epoch: Tensor
    edges: Tensor
    gain: Tensor
    watched: Tensor

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        count, width = self.labels.count, self.labels.width
        self.settings = config
        self.tasks = nn.Embedding(width, config.task_hidden)
        self.network = TaskNetwork(width, config.hidden, config.task_hidden, config.depth)
        self.own = nn.Linear(self.encoder.width, width)
        self.couplings = Couplings(config.hidden, config.task_hidden, config.rank)
        self.log_sigma = nn.Parameter(torch.zeros(width))
        self.structure = Structure(self.labels.variable, config.hidden, config.task_hidden)
        self.register_buffer("epoch", torch.tensor(0))
        edges = torch.zeros(2, 0, dtype=torch.int64)
        if config.graph != "learned":
            y = self.labels.of(dataset, "train")
            edges = given_graph(config.graph, dataset, y, self.labels.variable, directed=True).edge_index()
        self.register_buffer("edges", edges)
        self.register_buffer("gain", torch.full((count, count), torch.nan))
        self.truth = dataset.task_graph
        # A row for each epoch, so that a resumed run draws the whole curve.
        self.register_buffer("watched", torch.full((config.epochs, len(pictures.METRICS)), torch.nan))

    # ---------------------------------------------------------------------------------------------- structure

    @property
    def learned(self) -> bool:
        """Whether the graph is."""
        return self.settings.graph == "learned"

    @property
    def stage(self) -> int:
        """1: prior, 2: prior and contrast, 3: posterior."""
        done = (int(self.epoch) - 1) / self.settings.epochs
        return 1 if done < 0.2 else 2 if done < 0.4 or not self.settings.refine else 3

    def log_odds(self) -> tuple[Tensor, Tensor]:
        """Of edges [T, T], row the cause: of the prior, and of the posterior (the prior, before there is one)."""
        prior = self.structure.prior(self.tasks.weight)
        if self.settings.prior == "uniform":
            prior = torch.where(prior.detach() > -1e3, self.structure.unknown, prior.detach())
        return prior, self.structure.posterior if bool(self.structure.refined) else prior

    def strength(self) -> Tensor:
        """Couplings [T, T] of all pairs, without what depends on the sample; of classes their size."""
        return self.labels.blocks(self.couplings.static(self.tasks.weight))

    def probability(self) -> Tensor:
        """Of every edge [T, T], row the cause: the posterior's, or 0 and 1 of a given graph."""
        count = self.labels.count
        if not self.learned:
            return torch.zeros(count, count, device=self.edges.device).index_put_(
                tuple(self.edges), torch.ones((), device=self.edges.device)
            )
        return self.log_odds()[1].sigmoid()

    def draw(self) -> tuple[Graph, Tensor, Tensor]:
        """A graph, its edges [2, E] and whether each is there: 0 or 1, float [E], with the gradient of the log-odds."""
        count = self.labels.count
        if not self.learned:
            edges, there = self.edges, torch.ones(self.edges.shape[1], device=self.edges.device)
        else:
            odds = self.log_odds()[1 if self.stage == 3 else 0]
            if self.training:
                fraction = min(1.0, int(self.epoch) / self.settings.epochs)
                # The couplings of the posterior's edges are those of a graph that is there: nothing to explore.
                explore = 0.0 if self.stage == 3 else min(0.05, 1 / count)
                drawn = sample(odds, 1.0 - 0.7 * fraction, explore, self.generator)
            else:
                drawn = (odds > 0).to(odds.dtype)
            edges = _pairs(drawn, self.training)
            there = drawn[edges[0], edges[1]]
        return Graph.from_edge_index(edges, count, count), edges, there

    # ----------------------------------------------------------------------------------------------- training

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Batch]:
        """As those of any samples; the posterior is refined before them."""
        self.epoch += 1
        if self.learned and self.stage == 3:
            self._refine(dataset, generator)
        with torch.no_grad():
            row = pictures.metrics(self.probability(), self.truth)
            self.watched[min(int(self.epoch), len(self.watched)) - 1] = torch.tensor(row)
        return super().batches(dataset, generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """L_sup by task, and what is minimised besides: mechanisms, contrast, structure."""
        config, y = self.settings, batch.y
        h = self.encoder(batch.samples)
        self.structure.observe(h, y)
        graph, edges, there = self.draw()
        a, known = self._logits(h, graph, there), self.labels.known(y)
        energy = self._energy(batch.samples, h, a, graph, edges, there)
        losses = self.labels.by_task(self.labels.loss(a, y), known)
        losses["mechanisms"] = energy(y).sum() / known.sum().clamp(min=1)
        if config.contrast != "none" and self.stage > 1:
            losses["contrast"] = config.contrast_weight * contrast(config.contrast, energy, y)
        losses["structure"] = self._structure_loss()
        return losses

    def _structure_loss(self) -> Tensor:
        config = self.settings
        total = config.ridge * self.couplings.static(self.tasks.weight).square().sum()
        if not self.learned:
            return total
        prior, posterior = self.log_odds()
        probability = prior.sigmoid()
        total = total + config.sparsity * probability.mean()
        if config.dag > 0:
            total = total + config.dag * int(self.epoch) / config.epochs * cyclicity(probability)
        return total + config.prior_weight * divergence(posterior.detach(), prior)

    def _logits(self, h: Tensor, graph: Graph, there: Tensor) -> Tensor:
        if not self.settings.shared_structure:
            there = torch.zeros_like(there)
        parents = spmm(graph, torch.ones(graph.num_src, 1, device=there.device), there)
        share = there / parents[:, 0].clamp(min=1)[graph.edge_index()[1]]
        task = None if self.labels.plain else self.labels.variable
        found: Tensor = self.network(h, self.structure.pool(self.tasks.weight), graph, share, task)
        return found

    def _energy(
        self, samples: Tensor | Dataset, h: Tensor, a: Tensor, graph: Graph, edges: Tensor, there: Tensor
    ) -> Energy:
        """Of samples with embeddings h and logits a, on edges [2, E] of which ``there`` [E] are there."""
        c = self.own(self.encoder.features(samples, h))
        if not self.labels.plain:
            edges, owner = self.labels.expand(edges)
            there, graph = there[owner], Graph.from_edge_index(edges, self.labels.width, self.labels.width)
        weight = there * self.couplings(self.tasks.weight, edges, h)
        return Energy(self.labels, a, c, graph, weight, self.log_sigma)

    @torch.no_grad()
    def _refine(self, dataset: Dataset, generator: torch.Generator) -> None:
        """A step of the posterior towards what the training samples say of every edge."""
        training = self.training
        self.eval()
        try:
            if not self._searchable:
                evidence = self._ratios(dataset, generator)
            else:
                if self.gain.isnan().any():
                    self._search(dataset, generator)
                evidence = self.gain
        finally:
            self.train(training)
        begun = max(1, round(0.4 * self.settings.epochs))
        kappa = min(1.0, (int(self.epoch) - begun) / max(1, 0.3 * self.settings.epochs))
        self.structure.refine(self.log_odds()[0], kappa * evidence, 0.3, self.settings.acyclic)

    @property
    def _searchable(self) -> bool:
        coefficients = (self.labels.size.max() - 1) * (self.encoder.width + 1)  # at least, of one mechanism
        return self.settings.acyclic and self.labels.count <= SEARCHED and int(coefficients) <= COEFFICIENTS

    def _search(self, dataset: Dataset, generator: torch.Generator) -> None:
        """What each edge gains, by up to SEARCHED_SAMPLES; the mechanisms go on from those that were fitted."""
        features, y = [], []
        for batch in super().batches(dataset, generator):
            h = self.encoder(batch.samples)
            features.append(self.encoder.features(batch.samples, h))
            y.append(batch.y)
            if sum(map(len, y)) >= SEARCHED_SAMPLES:
                break
        found = search(torch.cat(features), torch.cat(y), self.labels)
        self.gain.copy_(found.gain.clamp(min=NEVER))
        self.own.weight.copy_(found.weight)
        self.own.bias.copy_(found.bias)
        self.couplings.begin(self.tasks.weight, found.coupling)

    def _ratios(self, dataset: Dataset, generator: torch.Generator) -> Tensor:
        """Log-likelihood ratio of each edge [T, T] at its coupling, less its cost, by up to REFINED samples."""
        count = self.labels.count
        graph, edges, there = self.draw()
        pairs = (~torch.eye(count, dtype=torch.bool, device=edges.device)).nonzero().t()
        columns = self.labels.expand(pairs)[0]
        every = Graph.from_edge_index(columns, self.labels.width, self.labels.width)
        present = torch.zeros(count, count, dtype=torch.bool, device=edges.device)
        present[edges[0], edges[1]] = there > 0
        total, seen = torch.zeros(count, count, device=edges.device), 0
        both = torch.zeros_like(present, dtype=torch.float64)
        size = int(self.labels.known(self.labels.of(dataset, "train")).any(1).sum())
        for batch in super().batches(dataset, generator):
            h, y = self.encoder(batch.samples), batch.y
            energy = self._energy(batch.samples, h, self._logits(h, graph, there), graph, edges, there)
            coupling = self.couplings(self.tasks.weight, columns, h)
            if self.labels.binary:
                found = edge_delta(every, energy.field(y), codes(y), coupling, present[pairs[0], pairs[1]])
                total[pairs[0], pairs[1]] += found
            else:
                table = mixed.couplings(replace(energy, graph=every, weight=coupling))
                total += mixed.edge_ratios(energy, y, table, present)
            has = self.labels.known(y).double()
            both += has.t() @ has
            seen += len(y)
            if seen >= REFINED:
                break
        scale = size / max(1, seen)
        sizes = (self.labels.size[self.labels.first] - 1).clamp(min=1)  # numbers that a coupling has
        cost = sizes[:, None] * sizes * (both * scale).clamp(min=1).log() / 2
        return total * scale - cost.to(total.dtype)

    # --------------------------------------------------------------------------------------------- prediction

    def predict(self, samples: Tensor | Dataset, given: Tensor | None = None) -> Tensor:
        """z [B, K], as the config says. ``given`` [B, K] are labels that are known, NaN where not: then by Gibbs."""
        h = self.encoder(samples)
        graph, edges, there = self.draw()
        a = self._logits(h, graph, there)
        if self.settings.predictions == "amortised" and given is None:
            return a
        energy = self._energy(samples, h, a, graph, edges, there)
        start = torch.full_like(a, torch.nan) if given is None else given
        _, mean = energy.gibbs(start, self.labels.known(start), self.settings.sweeps)
        chance = mean.clamp(1e-6, 1 - 1e-6)
        return torch.where(self.labels.numbers, mean, torch.where(self.labels.classes, chance.log(), chance.logit()))

    # ----------------------------------------------------------------------------------------------- pictures

    def panels(self, batch: Dataset) -> Mapping[str, Sequence[Panel]]:
        """Edges and couplings as matrices."""
        return pictures.matrices(self.labels.names, self.probability(), self.strength())

    def networks(self, batch: Dataset) -> Mapping[str, Sequence[Network]]:
        """The task graph."""
        known = (batch.task_graph, batch.coupling)
        return pictures.networks(self.labels.names, self.probability(), self.strength(), *known)

    def history(self) -> Mapping[str, Sequence[Panel | Plot]]:
        """How the structure became what it is."""
        return pictures.curves(self.watched) if self.learned else {}


def _pairs(drawn: Tensor, training: bool) -> Tensor:
    """Edges [2, E] of a graph [T, T] of zeros and ones that a step is about.

    In training, up to ALL_PAIRS labels, all pairs: so an edge that is not there has a gradient; of more labels those
    that are there and as many others, drawn at random.
    """
    count = len(drawn)
    there = drawn > 0.5
    if training:
        own = torch.eye(count, dtype=torch.bool, device=drawn.device)
        others = (
            torch.rand_like(drawn) * (~own & ~there).sum() < there.sum() if count > ALL_PAIRS else torch.ones_like(own)
        )
        there = (there | others) & ~own
    return there.nonzero().t()

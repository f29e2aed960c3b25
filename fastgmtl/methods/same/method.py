"""SAME as methods of the training loop: iSAME, eSAME and the ablation with concurrent adaptation.

Source: D. Buffelli and F. Vandin, Graph representation learning for multi-task settings: a meta-learning approach,
IJCNN 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fastgmtl.data import Dataset, Task
from fastgmtl.methods.panel import Plot
from fastgmtl.methods.same import pictures
from fastgmtl.methods.same.episodes import Episode, Graphs, Kind, Variant, episodes, graph_split, tasks_of
from fastgmtl.methods.same.fused import embed
from fastgmtl.methods.same.inner import Adapt
from fastgmtl.methods.same.meta import meta_step
from fastgmtl.methods.same.model import Encoder, Model
from fastgmtl.methods.same.probes import Probes, ridge
from fastgmtl.methods.training import Best, Epoch, Method, TrainConfig, require

if TYPE_CHECKING:
    from typing import Self

TEST_BATCH = 6  # graphs of an episode of val and test


@dataclass(frozen=True)
class EncoderConfig(TrainConfig):
    """tasks: names, comma-separated, or all. hidden, layers: of the GCN. residual, normalize, batch_norm: its layers.

    batch: graphs of a step. variant: as the paper describes it (random splits and negatives, relu in the link head,
    mean of nodes, queried edges not in the message graph, ROC-AUC of links), or as its code does it (the first ones, a
    double logistic instead, sum of nodes, all edges, accuracy).
    """

    epochs: int = 200
    patience: int = 200
    lr: float = 5e-4
    weight_decay: float = 0.0
    evaluate_every: int = 5
    tasks: str = "all"
    hidden: int = 256
    layers: int = 3
    residual: bool = True
    normalize: bool = True
    batch_norm: bool = False
    batch: int = 16
    variant: Variant = "as_described"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(self.batch >= 2, "batch", "at least 2", self.batch)
        require(self.variant in ("as_described", "as_released"), "variant", "as_described or as_released", self.variant)

    def encoder(self, features: int) -> Encoder:
        """A fresh one."""
        return Encoder(features, self.hidden, self.layers, self.residual, self.normalize, self.batch_norm)

    def names(self) -> list[str] | None:
        """The tasks; None for all."""
        return None if self.tasks == "all" else [name.strip() for name in self.tasks.split(",")]


@dataclass(frozen=True)
class Config(EncoderConfig):
    """inner_lr, inner_steps: of the adaptation. first_order: without second derivatives. meta_batch: episodes of a
    meta-step, whose gradient is the mean of theirs.

    episodes: each task on graphs of its own (multi), all on the same (concurrent), or one task an episode (single).
    uncertainty: learned weights exp(-s) of the losses of the inner steps (then alpha exp(-s)) or of the outer ones
    (then exp(-s) O + s).
    """

    inner_lr: float = 0.04
    inner_steps: int = 1
    first_order: bool = False
    meta_batch: int = 1
    episodes: Kind = "multi"
    uncertainty: Literal["none", "inner", "outer"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.inner_lr < math.inf, "inner_lr", "positive", self.inner_lr)
        require(self.inner_steps >= 1, "inner_steps", "at least 1", self.inner_steps)
        require(self.meta_batch >= 1, "meta_batch", "at least 1", self.meta_batch)
        for key, choices in (("episodes", get_args(Kind)), ("uncertainty", ("none", "inner", "outer"))):
            require(getattr(self, key) in choices, key, " or ".join(choices), getattr(self, key))


@dataclass(frozen=True)
class ConcurrentConfig(Config):
    """As Config; ``adapt``: heads (eSAME) or all (iSAME)."""

    episodes: Kind = "concurrent"
    adapt: Adapt = "heads"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.adapt in ("heads", "all"), "adapt", "heads or all", self.adapt)


@dataclass(frozen=True, eq=False)
class MetaBatch:
    """Episodes of one meta-step: those of one process, of the ``count`` of all."""

    episodes: Sequence[Episode]
    count: int

    def share(self, rank: int, size: int) -> MetaBatch:
        """Those of one of several processes."""
        return MetaBatch(self.episodes[rank::size], self.count)


class Embedder(Method):
    """A method that has a :class:`Model`; what it is worth are linear probes on the frozen embeddings of all tasks."""

    config_type = EncoderConfig

    def __init__(self, dataset: Dataset, config: EncoderConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.tasks = tasks_of(dataset, config.names())
        self.graphs = Graphs(dataset)
        train = graph_split(dataset)["train"].nonzero()[:, 0]
        require(train.numel() >= 2, "data", "at least 2 graphs in train", train.numel())
        self.order: list[int] = train[torch.randperm(train.numel(), generator=generator)].tolist()
        self.generator = generator
        self.device = dataset.x.device
        self.probes = Probes.of(self.graphs, self.order, config.variant, generator)

    def improves(self, epoch: Epoch, best: Best) -> bool:
        """By the mean val score of the tasks that are trained: the others are unseen."""
        return self._mean(epoch.score) > self._mean(best.score)

    def _mean(self, score: Mapping[str, float]) -> float:
        values = [v for task in self.watched() if not math.isnan(v := score[task.name])]
        return sum(values) / len(values) if values else math.nan

    def watched(self) -> Sequence[Task]:
        """The tasks whose scores say which weights are best."""
        return self.tasks


class ISame(Embedder):
    """iSAME: every task adapts encoder and head."""

    config_type = Config
    modes = frozenset({"episodes"})
    adapt: ClassVar[Adapt] = "all"

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self.config: Config = config
        self.model = Model.of(config.encoder(dataset.num_features), self.tasks, config.hidden, config.variant)
        self.log_variance = torch.nn.Parameter(torch.zeros(len(self.tasks)))
        made = episodes(self.graphs, self.tasks, self.order, config.batch, config.episodes, config.variant, generator)
        self.episodes = [episode.to(self.device) for episode in made]

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights; the episodes are made here, once: they are the same in every epoch."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterable[MetaBatch]:
        """The episodes, ``meta_batch`` at a time."""
        size = self.config.meta_batch
        groups = [self.episodes[k : k + size] for k in range(0, len(self.episodes), size)]
        return [MetaBatch(group, len(group)) for group in groups]

    def step(self, batch: MetaBatch) -> dict[str, Tensor]:
        """Outer loss of each task, the mean over the episodes of the meta-batch."""
        if batch.count == 1 and batch.episodes:
            return self._losses(batch.episodes[0])
        losses: dict[str, Tensor] = {}
        for episode in batch.episodes:
            for name, loss in self._losses(episode).items():
                losses[name] = losses.get(name, 0) + loss / batch.count
        return losses

    def _losses(self, batch: Episode) -> dict[str, Tensor]:
        config, rates = self.config, dict.fromkeys(batch.parts, torch.tensor(self.config.inner_lr))
        s = dict(zip([task.name for task in self.tasks], self.log_variance.unbind(), strict=True))
        if config.uncertainty == "inner":
            rates = {name: config.inner_lr * s[name].neg().exp() for name in rates}
        losses = meta_step(
            self.model, batch, rates, adapt=self.how, inner_steps=config.inner_steps, first_order=config.first_order
        )
        if config.uncertainty == "outer":
            losses = {name: s[name].neg().exp() * loss + s[name] for name, loss in losses.items()}
        return losses

    @property
    def how(self) -> Adapt:
        """What the inner steps change."""
        return self.adapt

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """Linear probes, fit by ridge regression to the training graphs, of all tasks of the data: seen or not."""
        return self.probes.scores(lambda block: embed(self.model.encoder, block), batch, split, ridge)

    def plots(self, batch: Dataset) -> Mapping[str, Sequence[Plot]]:
        """Target loss on val episodes by the number of steps; the two main axes of the embeddings."""
        order = graph_split(batch)["val"].nonzero()[:, 0].tolist()
        config, generator = self.config, torch.Generator().manual_seed(0)
        val = episodes(self.graphs, self.tasks, order, TEST_BATCH, config.episodes, config.variant, generator)
        found = [episode.to(self.device) for episode in val]
        return {
            "adaptation": pictures.adaptation(self.model, found, config.inner_lr, self.how),
            "embeddings": pictures.embeddings(self.model.encoder(batch.x, batch.graph), batch),
        }


class ESame(ISame):
    """eSAME: every task adapts its head alone; the encoder learns to be of use to heads after one step."""

    adapt = "heads"


class SameConcurrent(ISame):
    """The ablation: all tasks adapt on the same graphs."""

    config_type = ConcurrentConfig

    @property
    def how(self) -> Adapt:
        """As the configuration says."""
        assert isinstance(self.config, ConcurrentConfig)
        return self.config.adapt

"""What SAME is compared with: training end to end, of single tasks, of all together, and fine-tuned to some.

Source: the baselines of Buffelli and Vandin (IJCNN 2022), with the same encoder and heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset, Task
from fastgmtl.graph import Graph
from fastgmtl.methods.same.episodes import Block, Maker, Query, batches
from fastgmtl.methods.same.fused import embed
from fastgmtl.methods.same.method import Embedder, EncoderConfig
from fastgmtl.methods.same.model import head
from fastgmtl.methods.training import require

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(EncoderConfig):
    """As EncoderConfig."""

    lr: float = 1e-3
    batch: int = 64


@dataclass(frozen=True)
class FinetuneConfig(Config):
    """As Config; tasks: those that are tuned to, all: the first two. pretrain: share of the epochs for all tasks."""

    pretrain: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.pretrain <= 1, "pretrain", "in [0, 1]", self.pretrain)


Batch = dict[str, tuple[Block, Query]]


class Single(Embedder):
    """One encoder and one head for every task, trained apart: no task helps or disturbs another."""

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        count = len(self.tasks) if self.apart else 1
        self.encoders = nn.ModuleList(config.encoder(dataset.num_features) for _ in range(count))
        self.heads = nn.ModuleDict({t.name: head(t, config.hidden, config.variant) for t in self.tasks})
        maker = Maker(self.graphs, generator if config.variant == "as_described" else None)
        self.made: list[Batch] = []
        for graphs in batches(self.order, config.batch):
            sides = {task.name: maker.side(task, graphs) for task in self.tasks}
            self.made.append({k: (block.to(self.device), query.to(self.device)) for k, (block, query) in sides.items()})

    apart = True

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights; the batches are made here, once."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def encoder(self, task: Task) -> nn.Module:
        """The task's encoder."""
        return self.encoders[self.tasks.index(task) if self.apart else 0]

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterable[Batch]:
        """Block and query of every task, batch by batch."""
        return self.made

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss by task."""
        return {
            task.name: self.heads[task.name](embed(self.encoder(task), batch[task.name][0]), batch[task.name][1])
            for task in self.trained()
        }

    def trained(self) -> Iterable[Task]:
        """The tasks of this epoch."""
        return self.tasks

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """Scores of the heads; NaN for tasks that are not trained."""
        whole = Block(batch.x, batch.graph, (0, batch.num_nodes))
        scores = dict.fromkeys(batch.tasks, float("nan"))
        embedded = [embed(encoder, whole) for encoder in self.encoders]
        for place, task in enumerate(self.tasks):
            h = embedded[place if self.apart else 0]
            scores[task.name] = self._score(batch.tasks[task.name], h, batch, split)
        return scores

    def _score(self, task: Task, h: Tensor, batch: Dataset, split: str) -> float:
        head: Any = self.heads[task.name]
        scores = head.scores
        if task.kind == "link":
            pairs = task.positives(split), task.negatives(split)
            out = (scores(h, Query(p[0], p)) for p in pairs)
            return task.score((next(out), next(out)), split)
        nodes = torch.arange(batch.num_nodes, device=h.device)
        if task.level == "node":
            return task.score(scores(h, Query(task.target, nodes)), split)
        assert batch.node_graph is not None
        pool = Graph.from_edge_index(torch.stack((nodes, batch.node_graph)), batch.num_nodes, batch.num_graphs)
        return task.score(scores(h, Query(task.target, pool)), split)


class Classical(Single):
    """One encoder for all tasks, the sum of their losses."""

    apart = False


class FinetuneMulti(Classical):
    """As Classical for a share of the epochs, on all tasks; after that on the chosen tasks alone."""

    config_type = FinetuneConfig
    epoch: Tensor

    def __init__(self, dataset: Dataset, config: FinetuneConfig, generator: torch.Generator) -> None:
        whole = FinetuneConfig(**{**vars(config), "tasks": "all"})
        super().__init__(dataset, whole, generator)
        chosen = config.names() or [task.name for task in self.tasks[:2]]
        self.chosen = [task for task in self.tasks if task.name in chosen]
        require(len(self.chosen) == len(chosen), "tasks", f"among {', '.join(dataset.tasks)}", config.tasks)
        self.first = round(config.pretrain * config.epochs)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterable[Batch]:
        """As of Single; the epochs are counted."""
        self.epoch += 1
        return self.made

    def trained(self) -> Iterable[Task]:
        """All tasks, then the chosen ones."""
        return self.tasks if int(self.epoch) <= self.first else self.chosen

    def watched(self) -> Sequence[Task]:
        """The chosen ones."""
        return self.chosen

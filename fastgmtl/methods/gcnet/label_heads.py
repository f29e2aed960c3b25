"""Labels side by side without a graph between them: an encoder, a linear head for each, and what balances their losses.

The baselines of methods with a task graph, on the same samples, encoder and batches. A task with several outputs (the
assays of Tox21) counts as so many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastgmtl import gradients
from fastgmtl.data import Dataset
from fastgmtl.distributed import World, all_reduce
from fastgmtl.methods.gcnet.samples import Batch, SampleMethod, SamplesConfig
from fastgmtl.methods.training import require

Balance = Literal["sum", "uw", "pcgrad", "upgrad"]


@dataclass(frozen=True)
class Config(SamplesConfig):
    """balance: sum of the mean losses; uw (uncertainty weighting, Kendall et al. 2018); pcgrad (Yu et al. 2020) or
    upgrad (Quinton and Rey 2024) on the gradients at the shared representation.
    """

    balance: Balance = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.balance in get_args(Balance), "balance", ", ".join(get_args(Balance)), self.balance)


class LabelHeads(SampleMethod):
    """Logits <w_t, h_b> + b_t of all labels."""

    config_type = Config
    takes_classes = True
    modes = frozenset({"ddp"})

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self.heads = nn.Linear(config.hidden, self.labels.width)
        self.weighting = gradients.UW(self.labels.count) if config.balance == "uw" else None
        self.aggregator = {"pcgrad": gradients.PCGrad, "upgrad": gradients.UPGrad}.get(config.balance, lambda: None)()
        self._means: list[Tensor | None] = []
        self._shared: Tensor | None = None
        self._world = World()

    def share_batches(self, dataset: Dataset, world: World) -> None:
        """Several processes have a share of each batch. Raises ValueError where samples cannot be apart."""
        if not self._divisible(dataset):
            raise ValueError("--dist ddp: the data must be many samples, such as molecules; nodes of a graph are one")
        if self.weighting is not None:
            raise ValueError("balance: must be sum, pcgrad or upgrad for --dist ddp, got 'uw'")
        self._world = world

    @property
    def adds_up(self) -> bool:
        """Where gradients are aggregated."""
        return self.aggregator is not None

    def predict(self, samples: Tensor | Dataset) -> Tensor:
        """The logits."""
        found: Tensor = self.heads(self.encoder(samples))
        return found

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy, or half the squared error, by task."""
        h = self.encoder(batch.samples)
        value, known = self.labels.loss(self.heads(h), batch.y), self.labels.known(batch.y)
        counts = known.sum(0)
        if self._world.size > 1:
            counts = all_reduce(counts, self._world.group)
        self._shared = h
        # A label that nobody in the batch has is missing in this step.
        means = zip(value.sum(0).unbind(), counts.tolist(), strict=True)
        self._means = [total / count if count else None for total, count in means]
        return self.labels.by_task(value, known, counts)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Of the labels' losses, as they are balanced."""
        columns, self._means = self._means, []
        shared, self._shared = self._shared, None
        if self.aggregator is not None:
            ranks: Any = {}
            if self._world.size > 1:
                ranks = {"process_group": self._world.group, "sync": "auto"}
            gradients.backward(columns, self, self.aggregator, features=shared, **ranks)
        elif self.weighting is not None:
            zero = self.weighting.log_var.sum() * 0
            self.weighting(torch.stack([zero if v is None else v for v in columns])).backward()
        else:
            torch.stack([v for v in columns if v is not None]).sum().backward()

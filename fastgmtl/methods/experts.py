"""Experts over Simple-HGN layers: MMoE, PLE, and MultiSFS, which selects features for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl import nn as layers
from fastgmtl.data import Dataset
from fastgmtl.methods import hgb
from fastgmtl.methods.heads import Heads
from fastgmtl.methods.training import require
from fastgmtl.methods.typed import TypedInput, of_x, typed

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(hgb.Config):
    """experts: of MMoE; of PLE that many shared ones and one of each task."""

    experts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.experts >= 1, "experts", "at least 1", self.experts)


class MMoE(Heads):
    """Simple-HGN encoders as experts, in one pass over the edges, and a gate for each task that sees the node's input.

    Source: see :class:`fastgmtl.nn.MMoE`.
    """

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config.hidden, generator)
        self.input = TypedInput(dataset, config.hidden)
        self.mixture = layers.MMoE(
            hgb.HGB(dataset, config, config.experts), config.hidden, config.experts, len(dataset.tasks)
        )

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Mixed experts, by task."""
        h = of_x(batch, self.mixture(self.input(batch), batch))
        return {name: h[:, t] for t, name in enumerate(batch.tasks)}


class PLE(Heads):
    """Levels of Simple-HGN layers as experts: one of each task's own, and shared ones.

    Source: see :class:`fastgmtl.nn.PLE`.
    """

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config.hidden, generator)
        tasks = len(dataset.tasks)
        self.input = TypedInput(dataset, config.hidden)
        levels = [_Level(dataset, config, tasks + config.experts) for _ in range(config.layers)]
        self.extraction = layers.PLE(levels, [config.hidden] * config.layers, tasks, 1, config.experts)

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """A task's state after the last level."""
        h = of_x(batch, self.extraction(self.input(batch), batch))
        return {name: h[:, t] for t, name in enumerate(batch.tasks)}


class _Level(nn.Module):
    """One Simple-HGN layer of S sets of weights, with dropout before and elu after it."""

    def __init__(self, dataset: Dataset, config: Config, sets: int) -> None:
        super().__init__()
        self.conv, self.dropout = hgb.conv(dataset, config, sets), config.dropout

    def forward(self, h: Tensor, batch: Dataset) -> Tensor:
        given = typed(batch)
        return F.elu(self.conv(F.dropout(h, self.dropout, self.training), given.graph, given.edge_type))


@dataclass(frozen=True)
class SelectionConfig(hgb.Config):
    """keep: share of the features of a node type that a task keeps."""

    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.keep <= 1, "keep", "in (0, 1]", self.keep)


class MultiSFS(Heads):
    r"""Simple-HGN shared by all tasks, each of which sees the features it has selected.

    Before training every feature (column of a node type) of every task has a mask of 1; its saliency is
    :math:`|\partial L_t / \partial m|` on the training labels at the initial weights. A task keeps the ``keep`` share
    of the features with the largest. Then the tasks share one encoder, which runs once for each task's input. Built
    from the description of the method (multi-task single-shot feature selection), whose code is not public.
    """

    config_type = SelectionConfig

    def __init__(self, dataset: Dataset, config: SelectionConfig, generator: torch.Generator) -> None:
        super().__init__(dataset, config.hidden, generator)
        self.input = TypedInput(dataset, config.hidden)
        self.encoder = hgb.HGB(dataset, config, 1)
        self.masks = nn.ParameterDict(
            {
                name: nn.Parameter(torch.ones(len(dataset.tasks), given.in_features), requires_grad=False)
                for name, given in self.input.maps.items()
                if isinstance(given, nn.Linear)
            }
        )

    @classmethod
    def build(cls, dataset: Dataset, config: SelectionConfig, generator: torch.Generator) -> Self:
        """Fresh weights and the selection of features for the data set; it fits any."""
        method = cls(dataset, config, generator).to(dataset.x.device).eval()
        method._select(dataset, config.keep)
        return method.train()

    def _select(self, dataset: Dataset, keep: float) -> None:
        masks = list(self.masks.values())
        for mask in masks:
            mask.requires_grad_()
        # Task t's loss depends on row t of the masks alone.
        saliency: Any = torch.autograd.grad(list(self.step(dataset).values()), masks, allow_unused=True)
        for mask, found in zip(masks, saliency, strict=True):
            mask.requires_grad_(False)
            if found is not None and mask.size(1):
                number = max(1, round(keep * mask.size(1)))
                mask.zero_().scatter_(1, found.abs().topk(number, 1).indices, 1)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Of the shared encoder, for the features that a task has selected."""
        found = {}
        for t, name in enumerate(batch.tasks):
            masks = {kind: mask[t] for kind, mask in self.masks.items()}
            found[name] = of_x(batch, self.encoder(self.input(batch, masks), batch))[:, 0]
        return found

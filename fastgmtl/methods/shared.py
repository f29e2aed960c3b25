"""Hard sharing: one encoder for all tasks, one head a task, the sum of the mean losses.

Source: R. Caruana, Multitask Learning, Machine Learning 28 (1997); the baseline of every later method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph
from fastgmtl.methods.heads import Heads, standard
from fastgmtl.methods.training import TrainConfig, require
from fastgmtl.nn import GCNConv, GINConv, SAGEConv

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(TrainConfig):
    """conv: the layer of the encoder. hidden: its width. layers: how many. dropout: after each layer.

    residual: whether a layer adds to what it was given instead of replacing it.
    """

    conv: Literal["gcn", "sage", "gin"] = "sage"
    hidden: int = 96
    layers: int = 3
    dropout: float = 0.4
    residual: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.conv in ("gcn", "sage", "gin"), "conv", "gcn, sage or gin", self.conv)
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)


class Encoder(nn.Module):
    """x [N, F] to h [N, hidden]: a linear map and relu, then layers of conv, batch norm, relu, dropout (and residual).

    Features are brought to mean 0 and deviation 1 first, by the nodes of ``x``; those that are 0 or 1 everywhere
    (words of a text, classes) and constant ones are left as they are.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, x: Tensor, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden
        self.input = nn.Linear(x.shape[1], width)
        self.convs = nn.ModuleList(_conv(config.conv, width) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(config.layers))
        shift, scale = standard(x, ((x == 0) | (x == 1)).all(0))
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """h [N, hidden] of features x [N, F] on a graph."""
        # W ((x - shift) / scale) + b, folded into W and b: the features are not written a second time.
        weight = self.input.weight / self.scale
        h = F.linear(x, weight, self.input.bias - weight @ self.shift).relu()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            new = F.dropout(norm(conv(h, graph)).relu(), self.config.dropout, self.training)
            h = h + new if self.config.residual else new
        return h


class Shared(Heads):
    """Shared encoder, one head a task, trained on the sum over tasks of the mean loss."""

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        encoder = Encoder(dataset.x, config)
        super().__init__(dataset, config.hidden, generator)
        self.encoder = encoder

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """The same for all tasks."""
        return dict.fromkeys(batch.tasks, self.encoder(batch.x, batch.graph))


def _conv(kind: str, width: int) -> nn.Module:
    if kind == "gcn":
        return GCNConv(width, width)
    if kind == "sage":
        return SAGEConv(width, width)
    return GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))

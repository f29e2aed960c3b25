"""Simple-HGN with one encoder for each task (single) or for all of them (shared)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.methods.heads import Heads
from fastgmtl.methods.training import TrainConfig, require
from fastgmtl.methods.typed import TypedInput, edge_types
from fastgmtl.nn import SimpleHGNConv

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(TrainConfig):
    """hidden: width of the encoder. layers: how many. heads: of each layer. dropout: of features and attention.

    beta: share of the attention of the layer before.
    """

    lr: float = 5e-3
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    dropout: float = 0.5
    beta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(self.heads >= 1 and self.hidden % self.heads == 0, "heads", "a divisor of hidden", self.heads)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        require(0 <= self.beta < 1, "beta", "in [0, 1)", self.beta)


def conv(dataset: Dataset, config: Config, sets: int) -> SimpleHGNConv:
    """One layer with ``sets`` sets of weights."""
    return SimpleHGNConv(
        config.hidden,
        config.hidden // config.heads,
        edge_types(dataset)[1],
        heads=config.heads,
        dropout=config.dropout,
        residual=True,
        beta=config.beta,
        num_tasks=sets,
    )


class HGB(nn.Module):
    """S Simple-HGN encoders side by side, in one pass over the edges: h [N, hidden] or [N, S, hidden].

    Layers of attention with residuals and elu; after the last one rows have length 1, times a learned factor (the
    published code ends in unit rows; the factor lets a head choose how sure it is).
    """

    def __init__(self, dataset: Dataset, config: Config, sets: int) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList(conv(dataset, config, sets) for _ in range(config.layers))
        self.sharpness = nn.Parameter(torch.full((sets, 1), 4.0))

    def forward(self, h: Tensor, batch: Dataset) -> Tensor:
        """The embeddings of the S encoders, [N, S, hidden]."""
        kinds, attention, last = edge_types(batch)[0], None, len(self.convs) - 1
        if h.dim() == 2:
            h = h.unsqueeze(1).expand(-1, self.sharpness.size(0), -1)
        for i, conv in enumerate(self.convs):
            given = F.dropout(h, self.config.dropout, self.training)
            if self.config.beta and i < last:
                h, attention = conv(given, batch.graph, kinds, attention, return_attention_weights=True)
            else:
                h = conv(given, batch.graph, kinds, attention)
            h = F.elu(h)
        return F.normalize(h, dim=-1) * self.sharpness


class SingleHGB(Heads):
    """Simple-HGN for each task by itself: T encoders that share nothing, in one pass over the edges.

    The tasks are trained at the same time, and stop at the same epoch: that with the best mean val score.
    """

    config_type = Config
    shares: ClassVar[bool] = False

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config.hidden, generator)
        sets = 1 if self.shares else len(dataset.tasks)
        self.inputs = nn.ModuleList(TypedInput(dataset, config.hidden) for _ in range(sets))
        self.encoder = HGB(dataset, config, sets)

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Of a task's own encoder, or of that of all tasks."""
        h = self.encoder(torch.stack([given(batch) for given in self.inputs], 1), batch)
        return {name: h[:, 0 if self.shares else t] for t, name in enumerate(batch.tasks)}


class SharedHGB(SingleHGB):
    """Simple-HGN shared by all tasks, one head a task."""

    shares = True

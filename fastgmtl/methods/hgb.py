"""Simple-HGN with one encoder for each task (single) or for all of them (shared)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.methods.encoders import EncoderConfig, SingleEncoder
from fastgmtl.methods.training import require
from fastgmtl.methods.typed import typed
from fastgmtl.nn import SimpleHGNConv


@dataclass(frozen=True)
class Config(EncoderConfig):
    """dropout: of features and attention. beta: share of the attention of the layer before."""

    beta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta < 1, "beta", "in [0, 1)", self.beta)


def conv(dataset: Dataset, config: Config, sets: int) -> SimpleHGNConv:
    """One layer with ``sets`` sets of weights."""
    return SimpleHGNConv(
        config.hidden,
        config.hidden // config.heads,
        len(typed(dataset).hetero.relations),
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
        given, attention, last = typed(batch), None, len(self.convs) - 1
        if h.dim() == 2:
            h = h.unsqueeze(1).expand(-1, self.sharpness.size(0), -1)
        for i, conv in enumerate(self.convs):
            x = F.dropout(h, self.config.dropout, self.training)
            if self.config.beta and i < last:
                h, attention = conv(x, given.graph, given.edge_type, attention, return_attention_weights=True)
            else:
                h = conv(x, given.graph, given.edge_type, attention)
            h = F.elu(h)
        return F.normalize(h, dim=-1) * self.sharpness


class SingleHGB(SingleEncoder):
    """Simple-HGN for each task by itself. Source: see :class:`fastgmtl.nn.SimpleHGNConv`."""

    config_type = Config
    encoder_type = HGB


class SharedHGB(SingleHGB):
    """Simple-HGN shared by all tasks, one head a task."""

    shares = True

"""Star multi-task learning: a shared encoder, a virtual node for each task, and a last layer of each task's own.

Source: the virtual nodes of Cao, Zhuang, Zhao and Wang, arXiv 2501.10048, one for each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.methods import shared
from fastgmtl.methods.heads import Heads
from fastgmtl.methods.training import require
from fastgmtl.nn import GCNConv, SAGEConv, VirtualNodes

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(shared.Config):
    """conv: gcn or sage. layers: with the last one. embedding: width of the tables by which nodes choose among tasks.

    With an embedding of 0 every node writes to, and reads from, the virtual nodes of all tasks alike; tables are for
    graphs with labels enough to learn them from.
    """

    embedding: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.conv in ("gcn", "sage"), "conv", "gcn or sage", self.conv)
        require(self.layers >= 2, "layers", "at least 2", self.layers)
        require(self.embedding >= 0, "embedding", "0 or more", self.embedding)


class Star(Heads):
    """The encoder of ``shared``, then :class:`fastgmtl.nn.VirtualNodes`, one for each task, then a layer of each task.

    What its virtual node says makes the state of the nodes the task's own; the layers of all tasks take one pass over
    the edges.
    """

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        below = shared.Config(
            conv=config.conv,
            hidden=config.hidden,
            layers=config.layers - 1,
            dropout=config.dropout,
            residual=config.residual,
        )
        encoder, width, tasks = shared.Encoder(dataset.x, below), config.hidden, len(dataset.tasks)
        super().__init__(dataset, width, generator)
        self.config = config
        self.encoder = encoder
        if config.embedding:
            count, size = dataset.num_nodes, config.embedding
            self.star = VirtualNodes(width, num_nodes=count, embedding_dim=size, num_tasks=tasks)
        else:
            self.star = VirtualNodes(width, num_tasks=tasks)
        self.conv = (GCNConv if config.conv == "gcn" else SAGEConv)(width, width, num_tasks=tasks)
        self.norm = nn.BatchNorm1d(tasks * width)

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Each task's own."""
        h = self.star(self.encoder(batch.x, batch.graph), batch.node_graph, batch.num_graphs)
        new = self.norm(self.conv(h, batch.graph).flatten(1)).unflatten(1, h.shape[1:])
        new = F.dropout(new.relu(), self.config.dropout, self.training)
        h = h + new if self.config.residual else new
        return {name: h[:, t] for t, name in enumerate(batch.tasks)}

"""Hard sharing: one encoder for all tasks, one head a task, the sum of the mean losses.

On the whole graph, or on sampled neighbourhoods of its nodes (``batch_size``).

Source: R. Caruana, Multitask Learning, Machine Learning 28 (1997); the baseline of every later method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.data.batches import check_node_batches, node_batches
from fastgmtl.graph import Graph
from fastgmtl.methods.heads import LINK_HEADS, ROWS, Heads, standard
from fastgmtl.methods.training import TrainConfig, require
from fastgmtl.nn import GCNConv, GINConv, SAGEConv, layerwise, recompute

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(TrainConfig):
    """conv: the layer of the encoder. hidden: its width. layers: how many. dropout: after each layer.

    residual: whether a layer adds to what it was given instead of replacing it. link_head: what scores links:
    dot products, common neighbours (ncn), or those and likely ones (ncnc).
    recompute: keep the input of each layer only, the backward computes the rest again.
    batch_size: of nodes whose neighbourhoods are sampled for a step; 0 for steps over the whole graph. neighbors: how
    many each node draws at each hop, as 10,10; -1 for all.
    """

    conv: Literal["gcn", "sage", "gin"] = "sage"
    hidden: int = 96
    layers: int = 3
    dropout: float = 0.4
    residual: bool = True
    link_head: Literal["products", "ncn", "ncnc"] = "products"
    recompute: bool = False
    batch_size: int = 0
    neighbors: str = "10,10,10"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.conv in ("gcn", "sage", "gin"), "conv", "gcn, sage or gin", self.conv)
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        require(self.link_head in LINK_HEADS, "link_head", ", ".join(LINK_HEADS), self.link_head)
        require(self.batch_size >= 0, "batch_size", "0 or more", self.batch_size)
        hops = self.neighbors.split(",")
        whole = all(hop.strip().lstrip("-").isdecimal() and int(hop) >= -1 for hop in hops)
        require(whole, "neighbors", "numbers of 0 or more, or -1 for all, as 10,10", self.neighbors)

    @property
    def fanouts(self) -> list[int]:
        """The numbers of ``neighbors``."""
        return [int(hop) for hop in self.neighbors.split(",")]


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
        self.dropout = nn.Dropout(config.dropout)
        # By blocks of rows: features may be mapped, and more than fit in memory.
        plain = torch.stack([((part == 0) | (part == 1)).all(0) for part in x.split(ROWS)]).all(0)
        shift, scale = standard(x, plain)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """h [N, hidden] of features x [N, F] on a graph."""
        again = self.config.recompute and self.training
        h = recompute(self._enter, x) if again else self._enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = (
                recompute(self._layer, conv, norm, h, graph, norms=(norm,))
                if again
                else self._layer(conv, norm, h, graph)
            )
        return h

    def inference(self, x: Tensor, graph: Graph) -> Tensor:
        """The same without gradients, in blocks of rows; see :func:`fastgmtl.nn.layerwise`."""
        layers = [lambda pair, block: self._enter(pair[1])]
        layers += [partial(self._layer, conv, norm) for conv, norm in zip(self.convs, self.norms, strict=True)]
        return layerwise(layers, x, graph)

    def _enter(self, x: Tensor) -> Tensor:
        # W ((x - shift) / scale) + b, folded into W and b: the features are not written a second time.
        weight = self.input.weight / self.scale
        return F.linear(x.to(weight.dtype), weight, self.input.bias - weight @ self.shift).relu_()

    def _layer(self, conv: nn.Module, norm: nn.Module, h: Tensor | tuple[Tensor, Tensor], graph: Graph) -> Tensor:
        """The next h, of all nodes or, of a pair (h of all, h of some), of some."""
        new = self.dropout(norm(conv(h, graph)).relu_())
        return new + (h[1] if isinstance(h, tuple) else h) if self.config.residual else new


class Shared(Heads):
    """Shared encoder, one head a task, trained on the sum over tasks of the mean loss."""

    config_type = Config
    widens = True
    modes = frozenset({"partition"})

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        if config.batch_size:
            check_node_batches("batch_size", dataset)
        encoder = Encoder(dataset.x, config)
        super().__init__(dataset, config.hidden, generator, config.link_head)
        self.encoder = encoder
        self.config = config

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterable[Dataset]:
        """The whole data set, or sampled neighbourhoods, drawn while the step before runs."""
        if not self.config.batch_size:
            return [dataset]
        return node_batches(dataset, self.config.batch_size, self.config.fanouts, generator)

    def settle(self) -> None:
        """The biases before batch norm, which takes them away. Raises ValueError for sampled batches."""
        if self.config.batch_size:
            raise ValueError(
                f"batch_size: parts of a graph are trained on as a whole, 0 is required, got {self.config.batch_size}"
            )
        for conv in self.encoder.convs:
            network: Any = conv.nn if isinstance(conv, GINConv) else (conv,)
            last: Any = network[-1].lin_l if isinstance(conv, SAGEConv) else network[-1]
            last.bias.requires_grad_(False)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """The same for all tasks."""
        # Who trains on parts of a graph may have no room for a pass over all of it. GCNConv has no blocks.
        by_blocks = self.config.batch_size and not self.training and self.config.conv != "gcn"
        encode = self.encoder.inference if by_blocks else self.encoder
        return dict.fromkeys(batch.tasks, encode(batch.x, batch.graph))


def _conv(kind: str, width: int) -> nn.Module:
    if kind == "gcn":
        return GCNConv(width, width)
    if kind == "sage":
        return SAGEConv(width, width)
    return GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))

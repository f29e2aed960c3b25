"""Hard sharing: one encoder for all tasks, one head a task, the sum of the mean losses.

Source: R. Caruana, Multitask Learning, Machine Learning 28 (1997); the baseline of every later method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset, Task
from fastgmtl.graph import Graph
from fastgmtl.methods.training import Method, TrainConfig, require
from fastgmtl.nn import GCNConv, GINConv, SAGEConv
from fastgmtl.ops import sddmm, spmm

if TYPE_CHECKING:
    from typing import Self

Output = Tensor | tuple[Tensor, Tensor]


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
        shift, scale = _standard(x, ((x == 0) | (x == 1)).all(0))
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


class Head(nn.Module):
    """The output of one task from h [N, hidden]: a linear map, [N, num_outputs].

    Graph tasks: of the mean of h over each graph's nodes, [num_graphs, num_outputs]. Regression: in units of the
    target; the map learns (y - mean) / deviation of the training labels.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, task: Task, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, task.num_outputs)
        numbers = task.kind == "regression"
        seen = task.target[task.split["train"] & ~task.target.isnan()] if numbers else torch.zeros(0)
        shift, scale = _standard(seen[:, None])
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, task: Task, h: Tensor, batch: Dataset) -> Tensor:
        """What the task's loss and score take."""
        out = self.linear(_pooled(h, batch) if task.level == "graph" else h[batch.rows(task)])
        return out * self.scale + self.shift if task.kind == "regression" else out


class LinkHead(nn.Module):
    """The score of pairs of nodes from h [N, hidden]: PRODUCTS dot products of maps of both, then a small network.

    Symmetric in the two nodes. Of the pairs only the PRODUCTS numbers each are written, never their features.
    """

    PRODUCTS = 8

    def __init__(self, hidden: int) -> None:
        super().__init__()
        each = max(1, hidden // self.PRODUCTS)
        self.linear = nn.Linear(hidden, self.PRODUCTS * each)
        self.network = nn.Sequential(
            nn.Linear(self.PRODUCTS, 2 * self.PRODUCTS), nn.ReLU(), nn.Linear(2 * self.PRODUCTS, 1)
        )

    def forward(self, h: Tensor, *pairs: Tensor) -> tuple[Tensor, ...]:
        """Scores [P] for each ``pairs`` int64 [2, P]."""
        z = self.linear(h).unflatten(1, (self.PRODUCTS, -1))
        graphs = [Graph.from_edge_index(p, h.shape[0], h.shape[0]) for p in pairs]
        return tuple(self.network(sddmm(graph, z, z))[:, 0] for graph in graphs)


class Shared(Method):
    """Shared encoder, one head a task, trained on the sum over tasks of the mean loss."""

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        self.encoder = Encoder(dataset.x, config)
        self.heads = nn.ModuleList(
            LinkHead(config.hidden) if task.kind == "link" else Head(task, config.hidden)
            for task in dataset.tasks.values()
        )

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        """Mean loss by task. Squared errors are in units of the variance of the training labels."""
        losses, outputs = {}, self.outputs(batch, "train")
        for task, head in zip(batch.tasks.values(), self.heads, strict=True):
            total, count = task.loss(outputs[task.name], "train")
            loss = total / count.clamp(min=1)
            # So no task outweighs the others by the unit that it is measured in.
            losses[task.name] = loss / head.scale.square().sum() if isinstance(head, Head) else loss
        return losses

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """Score by task."""
        outputs = self.outputs(batch, split)
        return {name: task.score(outputs[name], split) for name, task in batch.tasks.items()}

    def outputs(self, batch: Dataset, split: str) -> dict[str, Output]:
        """What each task's loss and score take. The split only matters to links: whose pairs are scored."""
        h = self.encoder(batch.x, batch.graph)
        outputs: dict[str, Output] = {}
        for task, head in zip(batch.tasks.values(), self.heads, strict=True):
            if task.kind == "link":
                outputs[task.name] = head(h, task.positives(split), task.negatives(split, self.generator))
            else:
                outputs[task.name] = head(task, h, batch)
        return outputs


def _conv(kind: str, width: int) -> nn.Module:
    if kind == "gcn":
        return GCNConv(width, width)
    if kind == "sage":
        return SAGEConv(width, width)
    return GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))


def _pooled(h: Tensor, batch: Dataset) -> Tensor:
    """Mean of h [N, d] over the nodes of each graph: [num_graphs, d]; 0 for a graph without nodes."""
    nodes = torch.arange(batch.num_nodes, device=h.device)
    owner = torch.zeros_like(nodes) if batch.node_graph is None else batch.node_graph
    graph = Graph.from_edge_index(torch.stack((nodes, owner)), batch.num_nodes, batch.num_graphs)
    return spmm(graph, h, reduce="mean")


def _standard(values: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and deviation [F] of the rows of values [n, F]; 0 and 1 where there is nothing to scale, or ``keep`` [F]."""
    if not values.shape[0]:
        return values.new_zeros(values.shape[1]), values.new_ones(values.shape[1])
    scale, shift = torch.std_mean(values, 0, correction=0)
    constant = scale <= 1e-6 * shift.abs()
    keep = constant if keep is None else keep | constant
    return shift.masked_fill(keep, 0), scale.masked_fill(keep, 1)

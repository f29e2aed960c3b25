"""From embeddings of nodes to losses and scores: one head for each task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset, Task
from fastgmtl.graph import Graph
from fastgmtl.methods.training import Method
from fastgmtl.nn import NCN, NCNC
from fastgmtl.ops import sddmm, spmm

Output = Tensor | tuple[Tensor, Tensor]
ROWS = 1 << 18  # of features that are looked at in one go


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
        shift, scale = standard(seen[:, None])
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, task: Task, h: Tensor, batch: Dataset) -> Tensor:
        """What the task's loss and score take."""
        if task.level == "graph":
            h = _pooled(h, batch)
        elif batch.hetero is not None:
            h = h[batch.rows(task)]  # also of all rows, a slice's backward writes as much as h is once more
        out = self.linear(h)
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

    def forward(self, h: Tensor, _: Graph, *pairs: Tensor) -> tuple[Tensor, ...]:
        """Scores [P] for each ``pairs`` int64 [2, P]."""
        z = self.linear(h).unflatten(1, (self.PRODUCTS, -1))
        graphs = [Graph.from_edge_index(p, h.shape[0], h.shape[0]) for p in pairs]
        return tuple(self.network(sddmm(graph, z, z))[:, 0] for graph in graphs)


class NCNHead(nn.Module):
    """The score of pairs by the neighbours that both nodes have in the message graph; see :class:`fastgmtl.nn.NCN`."""

    predictor: type[NCN] = NCN

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.network = self.predictor(hidden, hidden)

    def forward(self, h: Tensor, graph: Graph, *pairs: Tensor) -> tuple[Tensor, ...]:
        """Scores [P] for each ``pairs`` int64 [2, P]."""
        return tuple(self.network(h, graph, p) for p in pairs)


class NCNCHead(NCNHead):
    """The same with completion; see :class:`fastgmtl.nn.NCNC`."""

    predictor = NCNC


LINK_HEADS: dict[str, type[nn.Module]] = {"products": LinkHead, "ncn": NCNHead, "ncnc": NCNCHead}


class Heads(Method):
    """A method that embeds the nodes, for all tasks or for each, and puts a head for each task on top.

    ``link_head``: which of LINK_HEADS links get.
    """

    def __init__(self, dataset: Dataset, hidden: int, generator: torch.Generator, link_head: str = "products") -> None:
        super().__init__()
        self.generator = generator
        self.link_head = LINK_HEADS[link_head]
        self.heads = nn.ModuleList(self.head(task, hidden) for task in dataset.tasks.values())

    def head(self, task: Task, hidden: int) -> nn.Module:
        """A fresh head for embeddings [N, hidden]."""
        return self.link_head(hidden) if task.kind == "link" else Head(task, hidden)

    @abstractmethod
    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """h [N, hidden] for each task, of the nodes of ``batch.x``."""

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
        embedded = self.embed(batch)
        outputs: dict[str, Output] = {}
        for task, head in zip(batch.tasks.values(), self.heads, strict=True):
            h = embedded[task.name]
            if task.kind == "link":
                pairs = task.positives(split), task.negatives(split, self.generator)
                outputs[task.name] = head(h, batch.graph, *pairs)
            else:
                outputs[task.name] = head(task, h, batch)
        return outputs


def _pooled(h: Tensor, batch: Dataset) -> Tensor:
    """Mean of h [N, d] over the nodes of each graph: [num_graphs, d]; 0 for a graph without nodes."""
    nodes = torch.arange(batch.num_nodes, device=h.device)
    owner = torch.zeros_like(nodes) if batch.node_graph is None else batch.node_graph
    graph = Graph.from_edge_index(torch.stack((nodes, owner)), batch.num_nodes, batch.num_graphs)
    return spmm(graph, h, reduce="mean")


def standard(values: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and deviation [F] of the rows of values [n, F]; 0 and 1 where there is nothing to scale, or ``keep`` [F].

    Those of half precision are float32.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    if not values.shape[0]:
        return values.new_zeros(values.shape[1], dtype=dtype), values.new_ones(values.shape[1], dtype=dtype)
    scale, shift = _deviation_and_mean(values)
    constant = scale <= 1e-6 * shift.abs()
    keep = constant if keep is None else keep | constant
    return shift.masked_fill(keep, 0).to(dtype), scale.masked_fill(keep, 1).to(dtype)


def _deviation_and_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """In one go where rows are few; else of blocks of rows, put together in float64."""
    if len(values) <= ROWS and values.dtype in (torch.float32, torch.float64):
        return torch.std_mean(values, 0, correction=0)
    total = sum(part.double().sum(0) for part in values.split(ROWS))
    mean = torch.as_tensor(total / len(values))
    square = sum((part.double() - mean).square().sum(0) for part in values.split(ROWS))
    return torch.as_tensor(square / len(values)).sqrt(), mean

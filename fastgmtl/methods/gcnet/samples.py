"""Samples with T labels each, of which many may be missing: what methods with a graph between the labels train on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset, Task
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import shared
from fastgmtl.methods.auxiliary_tasks import mean_by
from fastgmtl.methods.gcnet.variables import Variables
from fastgmtl.methods.heads import standard
from fastgmtl.methods.training import Method, TrainConfig, require
from fastgmtl.nn import MoleculeEncoder

if TYPE_CHECKING:
    from typing import Self

EVALUATED = 1024  # samples at once, at most
ELEMENTS = 2**22  # of features of all labels of the samples at once


@dataclass(frozen=True)
class SamplesConfig(TrainConfig):
    """tasks: names, comma-separated, or all. hidden, layers, dropout: of the encoder. batch: samples of a step.

    Nodes of a graph are one batch: they need each other.
    """

    epochs: int = 100
    patience: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    tasks: str = "all"
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.0
    batch: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("hidden", "layers"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        require(self.batch >= 2, "batch", "at least 2", self.batch)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)

    def names(self, dataset: Dataset) -> list[str]:
        """The tasks. Raises ValueError for one that the data set lacks."""
        names = list(dataset.tasks) if self.tasks == "all" else [name.strip() for name in self.tasks.split(",")]
        known = all(name in dataset.tasks for name in names) and len(set(names)) == len(names)
        require(known and bool(names), "tasks", f"some of {', '.join(dataset.tasks)}, each once", self.tasks)
        return names


class Labels(Variables):
    """The labels of the tasks side by side: y [n, K] with NaN for what is missing.

    A variable for each output of a multilabel task, 0 or 1; one for a regression task, in units of the deviation of its
    training labels from their mean; one for a task with classes, of a column each. ``names`` are those of the T
    variables. Raises ValueError for links, and when not all are about the same nodes, or all about graphs.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dataset: Dataset, tasks: Sequence[str]) -> None:
        chosen = [dataset.tasks[name] for name in tasks]
        for task in chosen:
            if task.kind == "link":
                raise ValueError(
                    f"tasks: labels of 0 and 1, classes or numbers are required, {task.name} is of kind {task.kind}; "
                    "choose others by their names"
                )
            if (task.level, task.node_type) != (chosen[0].level, chosen[0].node_type):
                raise ValueError(
                    f"tasks: all must be about the same samples, {chosen[0].name} is about each {chosen[0].level} and "
                    f"{task.name} about each {task.level}"
                )
        widths = [[1] * t.num_outputs if t.kind == "multilabel" else [t.num_outputs] for t in chosen]
        numbers = [[task.kind == "regression"] * len(of_task) for task, of_task in zip(chosen, widths, strict=True)]
        super().__init__(list(chain.from_iterable(widths)), list(chain.from_iterable(numbers)))
        self.tasks = list(tasks)
        self.counts, self.widths = [len(of_task) for of_task in widths], [sum(of_task) for of_task in widths]
        self.names = [name for task in chosen for name in _names(task)]
        scales = [_standard(task) for task, width in zip(chosen, self.widths, strict=True) for _ in range(width)]
        for key, values in zip(("shift", "scale"), zip(*scales, strict=True), strict=True):
            self.register_buffer(key, torch.tensor(values))

    def of(self, dataset: Dataset, split: str) -> Tensor:
        """y [n, K] of a split; NaN for what is missing or in another one."""
        columns = []
        for name in self.tasks:
            task = dataset.tasks[name]
            target = task.target if task.target.dim() == 2 else task.target[:, None]
            if task.kind == "class":
                of_class = (target == torch.arange(task.num_outputs, device=target.device)).to(dataset.x.dtype)
                target = of_class.masked_fill(target < 0, torch.nan)
            columns.append(torch.where(task.split[split][:, None], target, torch.nan))
        return (torch.cat(columns, 1) - self.shift) / self.scale

    def outputs(self, z: Tensor) -> dict[str, Tensor]:
        """What each task's loss and score take, of z [n, K]: logits, and numbers in units of y."""
        parts = (z * self.scale + self.shift).split(self.widths, 1)
        return dict(zip(self.tasks, parts, strict=True))

    def by_task(self, value: Tensor, known: Tensor, counts: Tensor | None = None) -> dict[str, Tensor]:
        """The mean of value [B, T] over each task's known [B, T] entries; 0 for a task without any.

        ``counts`` [T]: how many are known of each variable, where this is not all of the batch.
        """
        counts = known.sum(0) if counts is None else counts
        parts = zip(*(v.split(self.counts, -1) for v in (value, known, counts)), strict=True)
        means = [torch.where(k, v, 0).sum() / n.sum().clamp(min=1) for v, k, n in parts]
        return dict(zip(self.tasks, means, strict=True))

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Of each, [B, T]: cross entropy of logits z [B, K], half the squared error of numbers; 0 where missing."""
        each = torch.where(self.numbers & ~y.isnan(), (z - y.nan_to_num()).square() / 2, 0)
        return self.cross_entropy(z, y) + self.pool(each)


def _names(task: Task) -> list[str]:
    many = task.kind == "multilabel" and task.num_outputs > 1
    return [f"{task.name} {column}" for column in range(task.num_outputs)] if many else [task.name]


def _standard(task: Task) -> tuple[float, float]:
    if task.kind != "regression":
        return 0.0, 1.0
    shift, scale = standard(task.target[task.split["train"] & ~task.target.isnan()][:, None])
    return shift.item(), scale.item()


class SampleEncoder(nn.Module):
    """h [B, hidden] of samples.

    Molecules: MoleculeEncoder (GIN), mean of the atoms. Nodes of a graph: the encoder of method ``shared``, for graphs
    the mean of their nodes. Nodes without any edge: a network of ``layers`` linear maps with relu, of features brought
    to mean 0 and deviation 1.
    """

    def __init__(self, dataset: Dataset, config: SamplesConfig, task: Task) -> None:
        super().__init__()
        self.level, self.rows = task.level, slice(None)
        self.width = dataset.num_features if is_table(dataset) else config.hidden
        self.network: nn.Module
        if isinstance(dataset, Molecules):
            self.network = MoleculeEncoder("gin", config.hidden, config.layers, config.dropout)
        elif is_table(dataset):
            self.network = _Table(dataset.x, config)
        else:
            self.rows = dataset.rows(task) if task.level == "node" else self.rows
            same = {key: getattr(config, key) for key in ("hidden", "layers", "dropout")}
            self.network = shared.Encoder(dataset.x, shared.Config(**same))

    def features(self, samples: Tensor | Dataset, h: Tensor) -> Tensor:
        """What a linear map may take, [B, width]: the scaled features of a table, of other samples h."""
        if not isinstance(samples, Tensor):
            return h
        assert isinstance(self.network, _Table)
        return (samples - self.network.shift) / self.network.scale

    def forward(self, samples: Tensor | Dataset) -> Tensor:
        """Features [B, F] of samples that are a table, or a data set with the samples."""
        if isinstance(samples, Tensor):
            found: Tensor = self.network(samples)
            return found
        if isinstance(samples, Molecules):
            assert samples.edge_type is not None and isinstance(self.network, MoleculeEncoder)
            h = self.network(samples.x.long(), self.network.bonds(samples.graph, samples.edge_type))
        else:
            h = self.network(samples.x, samples.graph)
        if self.level != "graph":
            return h[self.rows]
        owner = samples.node_graph
        return mean_by(
            torch.zeros_like(samples.x[:, 0], dtype=torch.int64) if owner is None else owner, h, samples.num_graphs
        )


class _Table(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self, x: Tensor, config: SamplesConfig) -> None:
        super().__init__()
        shift, scale = standard(x)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        widths = [x.shape[1], *[config.hidden] * config.layers]
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        h = (x - self.shift) / self.scale
        for linear in self.maps:
            h = F.dropout(linear(h).relu(), self.dropout, self.training)
        return h


def is_table(dataset: Dataset) -> bool:
    """Whether the samples are nodes without any edge, so that any of them are a batch."""
    return dataset.graph.num_edges == 0 and dataset.num_graphs == 1 and dataset.hetero is None


class Batch(NamedTuple):
    """Samples as the encoder takes them, and their labels [B, K]."""

    samples: Tensor | Dataset
    y: Tensor

    def share(self, rank: int, size: int) -> Batch:
        """Every ``size``-th sample; all of them for every process where they are fewer than the processes."""
        if len(self.y) < size:
            return self
        rows = torch.arange(rank, len(self.y), size, device=self.y.device)
        samples = self.samples
        taken = samples[rows] if isinstance(samples, Tensor) else cast(Molecules, samples).take(rows)
        return Batch(taken, self.y[rows])


class SampleMethod(Method):
    """A method that predicts z [B, K] (logits, or standardised numbers) of samples; losses are means by task.

    What is minimised is the mean over the tasks of their losses, and the sum of what a method has besides.
    """

    config_type = SamplesConfig
    takes_classes: ClassVar[bool] = False

    def __init__(self, dataset: Dataset, config: SamplesConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.generator = config, generator
        self.labels = Labels(dataset, config.names(dataset))
        if not self.labels.plain and not self.takes_classes:
            name = self.labels.names[int(self.labels.variable[self.labels.classes][0])]
            raise ValueError(
                f"tasks: labels of 0 and 1 or numbers are required, {name} is of kind class; choose others by their "
                "names, or method gcnet or labels"
            )
        self.encoder = SampleEncoder(dataset, config, dataset.tasks[self.labels.tasks[0]])

    @classmethod
    def build(cls, dataset: Dataset, config: Any, generator: torch.Generator) -> Self:
        """For data whose tasks (those that are asked for) are labels of 0 and 1 or numbers, of the same samples."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Batch]:
        """The samples with a training label in a random order, ``batch`` at a time; none is alone in the last one."""
        y = self.labels.of(dataset, "train")
        if not self._divisible(dataset):
            yield Batch(dataset, y)
            return
        known = (~y.isnan()).any(1).nonzero()[:, 0]
        order = known[torch.randperm(len(known), generator=generator).to(known.device)]
        parts = list(order.split(self.config.batch))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield Batch(_take(dataset, part), y[part])

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Of the mean over the tasks, and the sum of the rest."""
        scale = 1 / len(self.labels.tasks)
        torch.stack([v * scale if k in self.labels.tasks else v for k, v in losses.items()]).sum().backward()

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """Score by task; NaN for tasks that were not asked for."""
        outputs = self.labels.outputs(self.predictions(batch))
        scores = {name: batch.tasks[name].score(output, split) for name, output in outputs.items()}
        return {name: scores.get(name, torch.nan) for name in batch.tasks}

    def predictions(self, dataset: Dataset) -> Tensor:
        """z [n, K] of all samples, some at a time."""
        if not self._divisible(dataset):
            return self.predict(dataset)
        count = len(dataset.tasks[self.labels.tasks[0]].target)
        size = max(1, min(EVALUATED, ELEMENTS // (self.labels.count * self.config.hidden)))
        # Into one tensor: results that are kept between the temporaries of the parts would scatter these over the heap.
        found = self.labels.shift.new_empty(count, self.labels.width)
        for part in torch.arange(count, device=dataset.x.device).split(size):
            found[part] = self.predict(_take(dataset, part)).detach()
        return found

    @abstractmethod
    def predict(self, samples: Tensor | Dataset) -> Tensor:
        """z [B, K] of samples."""

    def _divisible(self, dataset: Dataset) -> bool:
        return isinstance(dataset, Molecules) or is_table(dataset)


def _take(dataset: Dataset, rows: Tensor) -> Tensor | Dataset:
    return dataset.take(rows) if isinstance(dataset, Molecules) else dataset.x[rows]

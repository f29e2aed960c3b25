"""A data set of which every rank has some nodes: losses over all labels, scores of all predictions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.data.metrics import METRICS
from fastgmtl.data.tasks import Output
from fastgmtl.distributed.part import Part


@dataclass(frozen=True, eq=False)
class PartTask(Task):
    """A node task of which this rank has the labels of its own nodes; ``total`` [] says how many all ranks have.

    The losses of the ranks add up to that of one process, and the scores are those of one process.
    """

    part: Part | None = None
    total: Mapping[str, Tensor] = field(default_factory=dict)

    def loss(self, output: Output, split: str) -> tuple[Tensor, Tensor]:
        """The sum of the losses of this rank's labelled entries, and how many all ranks have."""
        mine, _ = super().loss(output, split)
        return mine, self.total[split]

    def count(self, split: str) -> int:
        """Labelled entries of all ranks."""
        self._mask(split)
        return int(self.total[split])

    def score(self, output: Output, split: str) -> float:
        """The metric of the predictions of all ranks, on each: they are brought to rank 0."""
        assert self.part is not None
        rows, truth, _ = self._labelled(split)
        found = self.part.collect(rows, self._checked(output).detach().index_select(0, rows), truth)
        score = torch.full((1,), math.nan, dtype=torch.float64, device=rows.device)
        if found is not None and found[0].size(0):
            score.fill_(METRICS[self.metric](*found))
        world = self.part.world
        if world.size > 1:
            dist.broadcast(score, dist.get_global_rank(world.group, 0) if world.group else 0, group=world.group)
        return score.item()


def share(dataset: Dataset, part: Part) -> Dataset:
    """What the rank of a part has of a data set: its nodes, their features and labels, and the part as graph.

    A task about the nodes of one type has no labels for the others. Raises ValueError for tasks that are not about
    nodes.
    """
    for task in dataset.tasks.values():
        if task.level != "node":
            what = "pairs of nodes" if task.level == "edge" else "whole graphs"
            raise ValueError(f"task {task.name} is about {what}; a graph in parts can have tasks about nodes alone")
    part = part.to(dataset.x.device)
    return Dataset(
        name=dataset.name,
        graph=part,
        x=dataset.x[part.nodes],
        tasks=TaskSet(_share(dataset, task, part) for task in dataset.tasks.values()),
        source=dataset.source,
    )


def _share(dataset: Dataset, task: Task, part: Part) -> PartTask:
    missing = -1 if task.kind == "class" else math.nan
    target = task.target.new_full((dataset.num_nodes, *task.target.shape[1:]), missing)
    rows = dataset.rows(task)
    target[rows] = task.target
    split = {}
    for name, mask in task.split.items():
        whole = mask.new_zeros(dataset.num_nodes)
        whole[rows] = mask
        split[name] = whole[part.nodes]
    given = {f.name: getattr(task, f.name) for f in dataclasses.fields(Task)}
    total = {name: torch.tensor(task.count(name), device=target.device) for name in task.split}
    return PartTask(**{**given, "target": target[part.nodes], "split": split}, part=part, total=total)

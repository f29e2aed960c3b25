"""How the processes of a run share the work of training: what each has of the data, and what they add up.

The loss of a step is the sum of what the ranks' steps return, so that every mode has the gradients of one process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset
from fastgmtl.distributed import Part, World, convert, partition, share
from fastgmtl.gradients.ranks import add_up_grads, check_same

Check = Callable[[Mapping[str, Tensor]], dict[str, float]]


class Mode(ABC):
    """One of the ways of sharing; ``name`` is what ``Method.modes`` calls it.

    Every rank builds the same method from the same data and seed; then the mode takes this rank's share.
    """

    name: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: tuple[str, ...] = ()  # of losses, where the steps of some ranks may lack some

    @abstractmethod
    def take(self, method: Any, dataset: Dataset) -> Dataset:
        """This rank's share of the data set; changes the method's layers where they have to know of other ranks."""

    def batches(self, made: Iterable[Any]) -> Iterable[Any]:
        """This rank's batches, as many as those of every other."""
        return made

    def backward(self, method: Any, losses: Mapping[str, Tensor], check: Check) -> dict[str, float]:
        """Fill the gradients with those of the sum of all ranks' losses; these sums. One message for each dtype."""
        if self.world.size == 1:
            values = check(losses)
            method.backward(losses)
            return values
        if losses:
            method.backward(losses)
        parameters = list(method.parameters())
        names = list(dict.fromkeys([*self.names, *losses]))
        like = parameters[0]
        mine = [losses[name].detach().to(like) if name in losses else like.new_zeros(()) for name in names]
        there = [like.new_tensor(float(name in losses)) for name in names]
        with torch.no_grad():
            sums, seen = add_up_grads(parameters, self.world.group, torch.stack([*mine, *there])).chunk(2)
        return check({name: v for name, v, some in zip(names, sums, seen.tolist(), strict=True) if some})

    def check(self, method: nn.Module) -> None:
        """RuntimeError that names the ranks whose weights are not those of rank 0."""
        if self.world.size == 1:
            return
        sums = torch.stack([v.detach().sum(dtype=torch.float64) for v in method.state_dict().values()])
        check_same("training", {"weights": sums}, self.world.group)


class Partition(Mode):
    """One graph in parts: every rank has the nodes of a part, and fetches the rows of neighbours elsewhere.

    Dropout depends on the node, batch norm is over all nodes, scores are of the predictions for all nodes: the result
    is that of one process up to the order in which numbers are added.
    """

    name = "partition"

    def take(self, method: Any, dataset: Dataset) -> Dataset:
        """The nodes of this rank's part, which METIS finds, or runs of nodes without pymetis."""
        for task in dataset.tasks.values():
            if task.level != "node":
                what = "pairs of nodes" if task.level == "edge" else "whole graphs"
                raise ValueError(f"--dist partition: all tasks must be about nodes, task {task.name} is about {what}")
        method.settle()
        owner = self.world.lead(lambda: partition(dataset.graph, self.world.size))
        part = Part.of(dataset.graph, owner, self.world)
        convert(method, part)
        return share(dataset, part)


MODES: dict[str, type[Mode]] = {mode.name: mode for mode in (Partition,)}

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
from fastgmtl.distributed import Part, World, convert, convert_batch_norm, partition, share
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
        # A method that aggregates gradients of tasks has added them up to do so.
        left = [] if method.adds_up else parameters
        sums, seen = add_up_grads(left, self.world.group, torch.stack([*mine, *there])).chunk(2)
        return check({name: v for name, v, some in zip(names, sums, seen.tolist(), strict=True) if some})

    def agree(self, scores: dict[str, float]) -> dict[str, float]:
        """The scores of rank 0, by which all decide when to stop."""
        return self.world.lead(lambda: scores)

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


class Episodes(Mode):
    """Whole episodes of SAME for every rank: inner steps are its own, one message a step adds the meta-gradients up.

    The result is that of one process with the same ``meta_batch``.
    """

    name = "episodes"

    def take(self, method: Any, dataset: Dataset) -> Dataset:
        """All of the data: the episodes are shared."""
        if method.config.meta_batch < self.world.size:
            raise ValueError(
                f"meta_batch: must be at least the number of processes, {self.world.size}, for --dist episodes, got "
                f"{method.config.meta_batch}"
            )
        if method.config.batch_norm:
            raise ValueError("batch_norm: must be false for --dist episodes: its statistics are of one episode each")
        self.names = tuple(dataset.tasks)
        return dataset

    def batches(self, made: Iterable[Any]) -> Iterable[Any]:
        """Of each meta-batch every W-th episode."""
        return (batch.share(self.world.rank, self.world.size) for batch in made)


class Ddp(Mode):
    """The same graph or samples on every rank, and of each batch of samples a share.

    Batch norm is over the batch of all ranks, losses are divided by its labels: the result is that of one process with
    the same ``batch``, but for dropout, which every rank draws for its own samples.
    """

    name = "ddp"

    def take(self, method: Any, dataset: Dataset) -> Dataset:
        """All of the data: the batches are shared."""
        method.share_batches(dataset, self.world)
        convert_batch_norm(method, self.world)
        return dataset

    def batches(self, made: Iterable[Any]) -> Iterable[Any]:
        """Of each batch every W-th sample. The ranks' generators part here, and meet again at the end of the epoch."""
        seed = int(torch.randint(2**62, ()))
        torch.manual_seed(seed + 1 + self.world.rank)
        for batch in made:
            yield batch.share(self.world.rank, self.world.size)
        torch.manual_seed(seed)


MODES: dict[str, type[Mode]] = {mode.name: mode for mode in (Ddp, Partition, Episodes)}

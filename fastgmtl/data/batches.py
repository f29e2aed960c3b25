"""Sampled batches of nodes, made ahead of the step that uses them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.tasks import Task, TaskSet
from fastgmtl.ops import neighbor_sample

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 2) -> Iterator[Made]:
    """``make(item)`` of each item in turn, made in a background thread, at most ``ahead`` before they are asked for.

    What ``make`` raises is raised where its result is due. Whoever stops asking (``close()``, an exception, the end of
    a loop) waits for no more than the item that is being made.
    """
    pool, waiting = ThreadPoolExecutor(1, "prefetch"), deque[Future[Made]]()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_node_batches(who: str, dataset: Dataset) -> None:
    """ValueError unless the data set can be trained on neighbourhoods of its nodes."""
    other = [task.name for task in dataset.tasks.values() if task.level != "node"]
    if other or dataset.num_graphs > 1 or dataset.hetero is not None:
        what = f"task {other[0]} is of another level" if other else "it has many graphs or typed nodes"
        raise ValueError(f"{who}: batches of nodes need one graph without types and node tasks only; {what}")
    if dataset.x.device.type != "cpu":
        raise ValueError(f"{who}: batches of nodes are drawn on the CPU, the data is on {dataset.x.device}")


def node_batches(
    dataset: Dataset, size: int, fanouts: Sequence[int], generator: torch.Generator, ahead: int = 2
) -> Iterator[Dataset]:
    """One epoch over the nodes that have a training label, in random order, ``size`` at a time, with what they reach.

    A batch is a data set: the nodes first, then the neighbours drawn hop by hop (see
    :func:`fastgmtl.ops.neighbor_sample`); only the former count in the tasks' losses. Features are float32. Batches
    depend on ``generator`` alone, which is drawn from at the beginning: neither on timing nor on the number of threads.
    """
    known = torch.zeros(dataset.num_nodes, dtype=torch.bool)
    for task in dataset.tasks.values():
        known[task.labelled("train")] = True
    seeds = known.nonzero()[:, 0]
    parts = seeds[torch.randperm(len(seeds), generator=generator)].split(size)
    keys = torch.randint(2**62, (len(parts),), generator=generator).tolist()

    def make(item: tuple[Tensor, int]) -> Dataset:
        return sampled(dataset, item[0], fanouts, item[1])

    return prefetch(make, zip(parts, keys, strict=True), ahead)


def sampled(dataset: Dataset, seeds: Tensor, fanouts: Sequence[int], seed: int) -> Dataset:
    """The sampled neighbourhoods of some nodes as a data set, in which only these nodes have training labels."""
    found = neighbor_sample(dataset.graph, seeds, fanouts, seed=seed)
    graph = found.graph
    graph.t()  # the backward's, made here and not while the step waits
    return Dataset(
        name=dataset.name,
        graph=graph,
        x=dataset.x.index_select(0, found.node).float(),
        tasks=TaskSet(_part(task, found.node, len(seeds)) for task in dataset.tasks.values()),
    )


def _part(task: Task, node: Tensor, seeds: int) -> Task:
    split = {name: torch.zeros(len(node), dtype=torch.bool) for name in task.split}
    split["train"][:seeds] = task.split["train"].index_select(0, node[:seeds])
    return dataclasses.replace(task, target=task.target.index_select(0, node), split=split)

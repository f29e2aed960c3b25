"""A stored graph as a data set: its features mapped, a task for each of its labels."""

from __future__ import annotations

from pathlib import Path

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.splits import degree_features, random_split
from fastgmtl.data.store import open_stored, verify_index
from fastgmtl.data.tasks import SPLITS, Task, TaskSet


def load_stored(folder: Path, seed: int = 0) -> Dataset:
    """The data set of a folder that :func:`fastgmtl.data.build.build` has made.

    Graph, features and targets are the pages of their files; columns are read once, to see that all are nodes. Features
    keep the dtype they are stored in; a graph without features has 1 and log(1 + degree). Without a stored split nodes
    are split 60/20/20 at random by ``seed``.
    """
    stored = open_stored(folder)
    verify_index(stored)
    graph, kept = stored.graph, stored.arrays.get("split")
    if kept is None:
        split = random_split(graph.num_dst, (0.6, 0.2), seed)
    else:
        split = {name: kept == place for place, name in enumerate(SPLITS)}
    tasks = [
        Task(
            name=entry["name"],
            kind=entry["kind"],
            level="node",
            target=stored.arrays[entry["array"]],
            split=split,
            metric=entry["metric"],
            num_outputs=entry["num_outputs"],
        )
        for entry in stored.tasks
    ]
    return Dataset(
        name=folder.resolve().name,
        graph=graph,
        x=degree_features(graph) if stored.x is None else stored.x,
        tasks=TaskSet(tasks),
        source=stored.source or f"stored graph {folder.resolve().name}",
    )

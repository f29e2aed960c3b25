"""Training by several processes is training by one: the same losses, scores and weights, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from checks_partition import F, N, random_graph

from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.distributed import World
from fastgmtl.methods import MODES, Epoch, Shared, Trainer
from fastgmtl.methods.shared import Config

EPOCHS = 12


def data() -> Dataset:
    """Nodes with classes, labels and numbers that can be learned, all with gaps; the numbers on few nodes."""
    g = torch.Generator().manual_seed(3)
    graph, x = random_graph(), torch.randn(N, F, generator=g, dtype=torch.float64)
    where = torch.rand(N, generator=g)
    split = {"train": where < 0.6, "val": (where >= 0.6) & (where < 0.8), "test": where >= 0.8}
    labels = (x[:, :2] > 0).float()
    labels[torch.rand(N, 2, generator=g) < 0.3] = torch.nan
    number = (x[:, 0] - x[:, 1]).float().masked_fill(torch.arange(N) >= 50, torch.nan)
    tasks = [
        Task("class", "class", "node", x[:, :3].argmax(1), split, "accuracy", num_outputs=3),
        Task("labels", "multilabel", "node", labels, split, "roc_auc", num_outputs=2),
        Task("number", "regression", "node", number, split, "mae"),
    ]
    return Dataset("learnable", graph, x, TaskSet(tasks))


def trainer(world: World | None, mode: str = "partition", **changes: Any) -> Trainer:
    """Of method shared, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    config = Config(**{"hidden": 8, "layers": 2, "epochs": EPOCHS, **changes})
    try:
        return Trainer(Shared, data(), config, 5, None if world is None else MODES[mode](world))
    finally:
        torch.set_default_dtype(before)


def same(found: list[Epoch], expected: list[Epoch]) -> None:
    """Losses to 1e-9, scores of classes and labels exactly."""
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.epoch == b.epoch and a.best == b.best
        for name in b.loss:
            assert abs(a.loss[name] - b.loss[name]) < 1e-9, (a.epoch, name)
            assert abs(a.score[name] - b.score[name]) < (1e-9 if name == "number" else 1e-15), (a.epoch, name)


def weights(found: Trainer, expected: Trainer) -> None:
    """To 1e-9."""
    other = expected.method.state_dict()
    for name, value in found.method.state_dict().items():
        assert (value - other[name]).abs().max() < 1e-9, name


def check_partition(world: World) -> None:
    for conv in ("sage", "gcn", "gin"):
        one, several = trainer(World(), conv=conv), trainer(world, conv=conv)
        same(list(several), list(one))
        if conv != "gin":  # batch norm takes away the biases of units of its network that are open at all nodes
            weights(several, one)
        assert several.evaluate_best("test") == pytest.approx(one.evaluate_best("test"), abs=1e-9)


def check_without_dropout_it_is_the_ordinary_run(world: World) -> None:
    """In training mode: in eval mode the ordinary run has biases that rounding has moved."""
    plain, several = list(trainer(None, dropout=0.0)), list(trainer(world, dropout=0.0))
    for a, b in zip(several, plain, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-9)


def check_going_on_with_another_number_of_ranks(world: World) -> None:
    whole = list(trainer(World()))
    first = trainer(World())
    head = [first.run_epoch() for _ in range(4)]
    state = first.state_dict()
    then = trainer(world)
    then.load_state_dict(state)
    for _ in range(4):
        head.append(then.run_epoch())  # noqa: PERF401
    last = trainer(World())
    last.load_state_dict(then.state_dict())
    same([*head, *last], whole)


def check_what_a_mode_cannot_train(world: World) -> None:
    pairs = torch.tensor([[0, 1, 2], [3, 4, 5]])
    split = {name: torch.arange(3) == k for k, name in enumerate(("train", "val", "test"))}
    from fastgmtl.data.tasks import NegativeSampler

    sampler = NegativeSampler(torch.tensor([3]), torch.tensor([0, N]), N)
    link = Task("link", "link", "edge", pairs, split, "roc_auc", sampler=sampler)
    linked = dataclasses.replace(data(), tasks=TaskSet([*data().tasks.values(), link]))
    config = Config(hidden=4, layers=1, epochs=1)
    with pytest.raises(ValueError, match="--dist partition: all tasks must be about nodes, task link is about pairs"):
        Trainer(Shared, linked, config, 0, MODES["partition"](world))


def check_a_rank_that_begins_with_other_weights_is_named(world: World) -> None:
    last = world.size - 1
    with pytest.raises(RuntimeError, match=f"^training: weights of rank {last} differ from those of rank 0"):
        Trainer(Shared, data(), Config(hidden=4, layers=1), world.rank // last, MODES["partition"](world))

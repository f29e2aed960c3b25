from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data import Dataset, Task, TaskSet, synthetic
from fastgmtl.methods import METHODS, Diverged, Epoch, Shared, TrainConfig, Trainer, constant_score
from fastgmtl.methods.shared import Config

SMALL = Config(hidden=16, layers=2, dropout=0.4, epochs=12, patience=12)


def _trainer(data: Dataset, seed: int = 0, **changes: Any) -> Trainer:
    return Trainer(Shared, data, Config(**{**vars(SMALL), **changes}), seed)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a state by its path."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in pairs for k, v in _flat(part, f"{name}/{key}").items()}


def _assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    left, right = _flat(one), _flat(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, right[name]), name
        else:
            assert value == right[name], name


def _through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_learns_and_beats_constants() -> None:
    data = synthetic(num_nodes=400, seed=1)
    trainer = _trainer(data, epochs=60, patience=60, dropout=0.1)
    records = list(trainer)
    scores = trainer.evaluate_best("test")
    for name, task in data.tasks.items():
        assert records[-1].loss[name] < 0.6 * records[0].loss[name]
        assert scores[name] > constant_score(task, "test") + 0.15


def test_learns_every_kind_of_task(mixed: Dataset) -> None:
    trainer = _trainer(mixed, epochs=80, patience=80, dropout=0.0)
    records = list(trainer)
    for name in mixed.tasks:
        assert math.isfinite(records[-1].loss[name])
        assert records[-1].loss[name] < 0.7 * records[0].loss[name], name
    fit = trainer.evaluate("train")
    for name, task in mixed.tasks.items():
        gain = fit[name] - constant_score(task, "train")
        assert gain > 0.15 if task.higher_is_better else gain < -0.5, name


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resume_is_exact(mixed: Dataset, stop: int) -> None:
    whole = _trainer(mixed)
    expected = list(whole)
    first = _trainer(mixed)
    records = [first.run_epoch() for _ in range(stop)]
    state = _through_file(first.state_dict())
    torch.rand(17)  # what others draw in between must not matter
    second = _trainer(mixed, seed=5)
    second.load_state_dict(state)
    records += list(second)
    _assert_same(second.state_dict(), whole.state_dict())

    def numbers(epochs: list[Epoch]) -> list[Any]:
        return [(e.epoch, e.loss, e.score, e.rank, e.best) for e in epochs]

    assert numbers(records) == numbers(expected)


class Halves(Shared):
    """Two steps an epoch: at features that are drawn anew, and at the given ones."""

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Dataset]:
        yield dataclasses.replace(dataset, x=dataset.x + torch.randn(dataset.x.shape, generator=generator))
        yield dataset

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        losses = super().step(batch)
        return {**losses, "besides": 0.1 * losses["class"]}


def test_an_epoch_steps_over_the_batches_of_the_method(mixed: Dataset) -> None:
    """The loss of an epoch is the mean over its steps; resuming is exact; a loss may be no task's."""
    seen: list[dict[str, Tensor]] = []

    class Watched(Halves):
        def backward(self, losses: Any) -> None:
            seen.append({name: loss.detach() for name, loss in losses.items()})
            super().backward(losses)

    whole = Trainer(Watched, mixed, SMALL, 0)
    records = [whole.run_epoch() for _ in range(3)]
    assert len(seen) == 6
    for name, loss in records[1].loss.items():
        assert loss == pytest.approx(float(seen[2][name] + seen[3][name]) / 2, rel=1e-6)
    assert records[1].loss.keys() == {*mixed.tasks, "besides"}
    first = Trainer(Halves, mixed, SMALL, 0)
    first.run_epoch()
    second = Trainer(Halves, mixed, SMALL, 1)
    second.load_state_dict(_through_file(first.state_dict()))
    second.run_epoch()
    second.run_epoch()
    _assert_same(second.state_dict(), whole.state_dict())


def test_negatives_and_dropout_are_drawn_anew(mixed: Dataset) -> None:
    """Otherwise the exactness of resuming would say nothing about random numbers."""
    trainer = _trainer(mixed)
    before = trainer.state_dict()["random"]
    trainer.run_epoch()
    after = trainer.state_dict()["random"]
    assert before.keys() == after.keys() == {"generator", "cpu"}
    assert not any(torch.equal(before[key], after[key]) for key in before)


def test_seed_decides(mixed: Dataset) -> None:
    torch.manual_seed(1)
    one = _trainer(mixed, seed=3)
    list(one)
    torch.manual_seed(2)
    two = _trainer(mixed, seed=3)
    list(two)
    _assert_same(one.state_dict(), two.state_dict())
    other = _trainer(mixed, seed=4)
    assert not torch.equal(
        one.method.encoder.input.weight,
        other.method.encoder.input.weight,  # type: ignore[union-attr]
    )


def test_random_numbers_of_the_caller_are_left_alone(mixed: Dataset) -> None:
    before = torch.get_rng_state()
    trainer = _trainer(mixed)
    trainer.run_epoch()
    trainer.evaluate_best("test")
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_leaves_the_run_as_it_was(mixed: Dataset) -> None:
    one, two = _trainer(mixed), _trainer(mixed)
    for _ in range(4):
        one.run_epoch()
        two.run_epoch()
        two.evaluate("train")
        two.evaluate_best("test")
    _assert_same(one.state_dict(), two.state_dict())


def _script(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """The val scores of the epochs to come."""
    scores = iter(values)

    def evaluate(batch: Dataset, split: str) -> dict[str, float]:
        return {"class": next(scores)}

    monkeypatch.setattr(trainer.method, "evaluate", evaluate)


def test_best_weights_are_kept(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer(mixed, epochs=6)
    _script(trainer, monkeypatch, [0.1, 0.3, 0.7, 0.7, 0.5, math.nan])
    weights, bests = [], []
    for epoch in trainer:
        weights.append({k: v.clone() for k, v in trainer.method.state_dict().items()})
        bests.append(epoch.best)
    assert bests == [True, True, True, False, False, False]
    assert trainer.best is not None
    assert (trainer.best.epoch, trainer.best.rank, trainer.best.score) == (3, 0.7, {"class": 0.7})
    _assert_same(trainer.best.model, weights[2])
    monkeypatch.undo()
    at_best = trainer.evaluate_best("test")
    _assert_same(dict(trainer.method.state_dict()), weights[-1])
    trainer.method.load_state_dict(weights[2])
    assert trainer.evaluate("test") == at_best


def test_patience_ends_training(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer(mixed, epochs=500, patience=3)
    _script(trainer, monkeypatch, [0.5, 0.4, 0.3, 0.6, 0.6, 0.5, 0.4, 0.9])
    assert [epoch.epoch for epoch in trainer] == [1, 2, 3, 4, 5, 6, 7]
    assert trainer.done
    assert list(trainer) == []


def test_rank_counts_mae_negative_and_ignores_nan(make_mixed: Callable[..., Dataset]) -> None:
    data = make_mixed(unlabelled=True)
    silent = data.tasks["labels"]
    silent = Task("labels", "multilabel", "node", silent.target.clone(), silent.split, "roc_auc", num_outputs=3)
    silent.target[silent.split["val"]] = math.nan
    tasks = [silent if name == "labels" else task for name, task in data.tasks.items()]
    trainer = _trainer(Dataset("d", data.graph, data.x, TaskSet(tasks), data.node_graph, data.num_graphs))
    record = trainer.run_epoch()
    score = record.score
    assert math.isnan(score["labels"])
    assert not math.isnan(score["unlabelled"])
    used = [score["class"], -score["number"], score["link"], score["graph"]]
    assert record.rank == pytest.approx(sum(used) / 4)


def test_task_without_training_labels(make_mixed: Callable[..., Dataset]) -> None:
    """It gets no gradient, has no loss, and does not disturb the others."""
    trainer = _trainer(make_mixed(unlabelled=True), weight_decay=0.0)
    head = trainer.method.heads[-1]  # type: ignore[index]
    before = head.linear.weight.clone()
    record = trainer.run_epoch()
    assert math.isnan(record.loss["unlabelled"])
    assert all(math.isfinite(v) for k, v in record.loss.items() if k != "unlabelled")
    assert torch.equal(head.linear.weight, before)


def _masked(data: Dataset, *splits: str) -> Dataset:
    """The node class task alone, without the labels of some splits."""
    task = data.tasks["class"]
    target = task.target.clone()
    for split in splits:
        target[task.split[split]] = -1
    only = Task("class", "class", "node", target, task.split, "accuracy", num_outputs=3)
    return Dataset("masked", data.graph, data.x, TaskSet([only]))


def test_without_val_labels_the_last_weights_are_the_best(mixed: Dataset) -> None:
    trainer = _trainer(_masked(mixed, "val"), patience=2)
    records = list(trainer)
    assert len(records) == SMALL.epochs
    assert trainer.best is not None and trainer.best.epoch == SMALL.epochs
    assert all(math.isnan(r.rank) for r in records)


def test_nothing_to_train_on(mixed: Dataset) -> None:
    with pytest.raises(ValueError, match=r"^data set masked: no task has a label in train$"):
        _trainer(_masked(mixed, "train"))


def test_missing_labels_do_not_matter(make_mixed: Callable[..., Dataset]) -> None:
    """A label that is missing in train gives the same weights as one whose node is in no split."""
    one = make_mixed()
    task = one.tasks["number"]
    split = {k: v & ~task.target.isnan() for k, v in task.split.items()}
    zeroed = Task("number", "regression", "node", task.target.nan_to_num(), split, task.metric)
    tasks = TaskSet(zeroed if name == "number" else t for name, t in one.tasks.items())
    two = Dataset(one.name, one.graph, one.x, tasks, one.node_graph, one.num_graphs)
    left, right = _trainer(one), _trainer(two)
    for _ in range(3):
        left.run_epoch()
        right.run_epoch()
    _assert_same(dict(left.method.state_dict()), dict(right.method.state_dict()))


def test_divergence_names_the_task_and_spoils_nothing(mixed: Dataset) -> None:
    trainer = _trainer(mixed)
    trainer.run_epoch()
    mixed.x[3, 2] = math.inf
    before = {k: v.clone() for k, v in trainer.method.state_dict().items() if k.endswith(("weight", "bias"))}
    with pytest.raises(
        Diverged, match=r"^training diverged in epoch 2: the loss of task class is nan; try a smaller lr"
    ):
        trainer.run_epoch()
    after = trainer.method.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"patience": 0}, "patience: must be at least 1, got 0"),
        ({"lr": 0.0}, "lr: must be positive, got 0.0"),
        ({"lr": math.nan}, "lr: must be positive, got nan"),
        ({"weight_decay": -1.0}, "weight_decay: must be 0 or more, got -1.0"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        TrainConfig(**changes)
    assert str(error.value) == message


def test_every_method_is_registered_with_its_config() -> None:
    assert METHODS["shared"] is Shared
    for method in METHODS.values():
        assert isinstance(method.config_type(), TrainConfig)

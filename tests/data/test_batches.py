from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fastgmtl.data import Dataset, synthetic
from fastgmtl.data.batches import node_batches, prefetch, sampled


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture
def data() -> Dataset:
    return synthetic(num_nodes=400, num_tasks=3, seed=1)


@pytest.mark.parametrize("slow", ["maker", "user", "none"])
def test_items_come_in_turn_and_not_too_early(slow: str) -> None:
    made: list[int] = []

    def make(item: int) -> int:
        time.sleep(0.002 if slow == "maker" else 0)
        made.append(item)
        return item * item

    for number, value in enumerate(prefetch(make, range(30), ahead=2)):
        time.sleep(0.002 if slow == "user" else 0)
        assert value == number**2 and len(made) <= number + 1 + 3
    assert number == 29 and not _names()


def test_an_item_is_made_while_another_is_used() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make(item: int) -> int:
        if item == 1:
            begun.set()
            go_on.wait(10)
        return item

    batches = prefetch(make, range(3))
    assert next(batches) == 0 and begun.wait(10)
    go_on.set()
    assert list(batches) == [1, 2]


def test_errors_come_where_their_item_is_due() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    seen = []
    with pytest.raises(ValueError, match="item 3"):
        for value in prefetch(make, range(10)):
            seen.append(value)  # noqa: PERF402
    assert seen == [0, 1, 2] and not _names()


def test_errors_of_the_items_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(prefetch(lambda item: item, items()))
    assert not _names()


def test_who_stops_asking_leaves_no_thread() -> None:
    made: list[int] = []
    batches = prefetch(made.append, range(1000), ahead=3)
    next(batches)
    batches.close()
    assert len(made) <= 5 and not _names()


def test_batches_are_neighbourhoods(data: Dataset) -> None:
    batches = list(node_batches(data, 64, [5, 5], torch.Generator().manual_seed(0)))
    trained = torch.zeros(data.num_nodes, dtype=torch.bool)
    for task in data.tasks.values():
        trained[task.labelled("train")] = True
    total = dict.fromkeys(data.tasks, 0)
    for batch in batches:
        for name, task in batch.tasks.items():
            assert not task.split["train"][64:].any() and not task.split["val"].any()
            total[name] += task.count("train")
        assert batch.x.shape[0] > 64 and batch.graph.num_edges > 64
    assert total == data.tasks.counts("train")
    assert len(batches) == -(-int(trained.sum()) // 64)


def test_a_batch_with_all_neighbours_is_a_part_of_the_data(data: Dataset) -> None:
    seeds = torch.tensor([7, 300, 12])
    batch = sampled(data, seeds, [-1], 0)
    assert torch.equal(batch.x[:3], data.x[seeds])
    assert torch.equal(batch.graph.in_degree()[:3], data.graph.in_degree()[seeds])
    for name, task in batch.tasks.items():
        assert torch.equal(task.target[:3].nan_to_num(), data.tasks[name].target[seeds].nan_to_num())
        assert torch.equal(task.split["train"][:3], data.tasks[name].split["train"][seeds])


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_batches_depend_on_the_generator_alone(data: Dataset, ahead: int, threads: None) -> None:
    def drawn(seed: int, ahead: int) -> list[torch.Tensor]:
        torch.rand(1)  # PyTorch's own numbers do not matter
        return [b.x for b in node_batches(data, 50, [4, 3], torch.Generator().manual_seed(seed), ahead)]

    one = drawn(0, 2)
    torch.set_num_threads(2)
    other, third = drawn(0, ahead), drawn(1, ahead)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, third, strict=True))


def test_half_precision_is_widened_in_the_batch(data: Dataset) -> None:
    half = dataclasses.replace(data, x=data.x.bfloat16())
    batch = sampled(half, torch.arange(5), [2], 0)
    assert batch.x.dtype == torch.float32 and torch.equal(batch.x[:5], half.x[:5].float())

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgmtl.data import Dataset, Task
from fastgmtl.methods import constant_score

SPLIT = {
    "train": torch.tensor([1, 1, 1, 0, 0, 0]).bool(),
    "val": torch.tensor([0, 0, 0, 1, 0, 0]).bool(),
    "test": torch.tensor([0, 0, 0, 0, 1, 1]).bool(),
}
NAN = math.nan


@pytest.mark.parametrize(
    ("kind", "metric", "target", "expected"),
    [
        ("class", "accuracy", torch.tensor([1, 1, 0, 0, 1, 0]), 0.5),
        ("class", "accuracy", torch.tensor([-1, -1, 0, 0, 0, 0]), 1.0),
        ("multilabel", "roc_auc", torch.tensor([[1.0], [NAN], [0.0], [1.0], [1.0], [0.0]]), 0.5),
        ("regression", "mae", torch.tensor([0.0, 1.0, 9.0, 0.0, 1.0, 3.0]), 1.0),
        ("regression", "r2", torch.tensor([1.0, NAN, 3.0, 0.0, 1.0, 3.0]), 0.0),
    ],
)
def test_constant_score(kind: str, metric: str, target: Tensor, expected: float) -> None:
    width = 2 if kind == "class" else 1
    task = Task("t", kind, "node", target, SPLIT, metric, num_outputs=width)
    assert constant_score(task, "test") == pytest.approx(expected)


def test_link(mixed: Dataset) -> None:
    assert constant_score(mixed.tasks["link"], "test") == 0.5


def test_nothing_to_choose_from() -> None:
    target = torch.tensor([-1, -1, -1, 0, 1, 1])
    task = Task("t", "class", "node", target, SPLIT, "accuracy", num_outputs=2)
    assert math.isnan(constant_score(task, "test"))

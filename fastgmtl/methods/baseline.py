"""What a model must beat: the best constant prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgmtl.data import Task


def constant_score(task: Task, split: str) -> float:
    """The task's score on a split when every entry gets the same prediction, chosen from the training labels.

    Classes: the most frequent one; labels and links: no preference; regression: the median for mae, else the mean.
    NaN when the split has no labels, or training has none to choose from.
    """
    if not task.count("train"):
        return math.nan
    if task.kind == "link":
        pairs = task.positives(split), task.negatives(split)
        return task.score((torch.zeros(pairs[0].shape[1]), torch.zeros(pairs[1].shape[1])), split)
    rows = task.split["train"]
    return task.score(_constant(task, task.target[rows]), split)


def _constant(task: Task, seen: Tensor) -> Tensor:
    n = task.target.shape[0]
    if task.kind == "class":
        count = torch.bincount(seen[seen >= 0], minlength=task.num_outputs)
        return count.float().expand(n, -1)
    if task.kind == "multilabel":
        return torch.zeros(n, task.num_outputs, device=seen.device)
    seen = seen[~seen.isnan()]
    return (seen.median() if task.metric == "mae" else seen.mean()).expand(n)

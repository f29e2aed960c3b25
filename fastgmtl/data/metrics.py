"""Metrics that ignore missing labels.

Every function takes raw model outputs (logits or scores, any float dtype) and targets, and returns a Python float.
Missing labels are -1 (classes) or NaN (everything else) and take no part. A metric of nothing is NaN, and so is
a metric of outputs that are NaN where a label exists: a diverged model has no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], float]


def accuracy(output: Tensor, target: Tensor) -> float:
    """Fraction of rows whose largest output is the label.

    output [n, C], target int64 [n] with -1 missing. In [0, 1].
    """
    output, target = _labelled_rows(output, target)
    if not target.numel() or bool(output.isnan().any()):
        return math.nan
    return float((output.argmax(1) == target).double().mean())


def macro_f1(output: Tensor, target: Tensor) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN), prediction = largest output.

    output [n, C], target int64 [n] with -1 missing. The mean is over the classes that occur among labels or
    predictions, as scikit-learn's ``f1_score(average="macro")``. In [0, 1].
    """
    output, target = _labelled_rows(output, target)
    if not target.numel() or bool(output.isnan().any()):
        return math.nan
    predicted, classes = output.argmax(1), output.shape[1]
    true = torch.bincount(target, minlength=classes).double()
    guess = torch.bincount(predicted, minlength=classes).double()
    hit = torch.bincount(target[predicted == target], minlength=classes).double()
    seen = true + guess > 0
    return float((2 * hit[seen] / (true + guess)[seen]).mean())


def roc_auc(output: Tensor, target: Tensor) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count one half.

    output and target [n] or [n, L], target 0, 1 or NaN (missing). The mean is over the labels for which both
    classes are present among the labelled entries. In [0, 1].
    """
    score, positive, negative, usable = _columns(output, target)
    if not score.shape[0]:
        return math.nan
    order = score.argsort(1)
    score, positive, negative = (v.gather(1, order) for v in (score, positive, negative))
    # Negatives strictly below, and at most at, each entry's score: the two ends of its run of ties.
    below = _running(negative).gather(1, torch.searchsorted(score, score))
    upto = _running(negative).gather(1, torch.searchsorted(score, score, right=True))
    wins = (positive * (below + upto)).sum(1) / 2
    return _mean(wins / (positive.sum(1) * negative.sum(1)), usable)


def average_precision(output: Tensor, target: Tensor) -> float:
    """Mean over positives of the precision at that positive's score: sum_k (R_k - R_{k-1}) P_k.

    output and target [n] or [n, L], target 0, 1 or NaN (missing). The mean is over the labels for which both
    classes are present among the labelled entries. In [0, 1].
    """
    score, positive, negative, usable = _columns(output, target)
    if not score.shape[0]:
        return math.nan
    order = (-score).argsort(1)
    score, positive, negative = (v.gather(1, order) for v in (score, positive, negative))
    last = torch.searchsorted(-score, -score, right=True)
    true, false = _running(positive).gather(1, last), _running(negative).gather(1, last)
    precision = true / (true + false).clamp(min=1)
    return _mean((positive * precision).sum(1) / positive.sum(1), usable)


def mae(output: Tensor, target: Tensor) -> float:
    """Mean absolute error, in units of the target. output [n] or [n, 1], target [n] with NaN missing."""
    output, target = _labelled_values(output, target)
    return float((output - target).abs().mean()) if target.numel() else math.nan


def r2(output: Tensor, target: Tensor) -> float:
    """1 - sum (y - o)^2 / sum (y - mean y)^2. output [n] or [n, 1], target [n] with NaN missing.

    At most 1; 0 for the mean of the labels. NaN for fewer than two labels or constant labels.
    """
    output, target = _labelled_values(output, target)
    if target.numel() < 2 or bool((target == target[0]).all()):
        return math.nan
    total = (target - target.mean()).square().sum()
    return float(1 - (output - target).square().sum() / total)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "mae": mae,
    "r2": r2,
}
LOWER_IS_BETTER = frozenset({"mae"})


def _labelled_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if output.dim() != 2 or target.shape != output.shape[:1]:
        raise ValueError(
            f"metric: output [n, C] and target [n] are required, got {list(output.shape)} and {list(target.shape)}"
        )
    keep = target >= 0
    return output.detach()[keep], target[keep]


def _labelled_values(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    output = output.detach().double()
    if output.dim() == 2 and output.shape[1] == 1:
        output = output[:, 0]
    if output.shape != target.shape:
        raise ValueError(
            f"metric: output and target must have the same shape, got {list(output.shape)} and {list(target.shape)}"
        )
    keep = ~target.isnan()
    return output[keep], target[keep].double()


def _columns(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, 0/1 weights of positives and negatives as [labels with both classes, n], and which are NaN-free.

    A missing entry has weight 0 in both, so it needs no removing: it adds nothing to any count.
    """
    if output.shape != target.shape or output.dim() not in (1, 2):
        raise ValueError(
            f"metric: output and target must both be [n] or [n, L], got {list(output.shape)} and {list(target.shape)}"
        )
    rows = (-1, 1) if output.dim() == 1 else output.shape
    score, target = output.detach().reshape(rows).t(), target.reshape(rows).t()
    positive, negative = target == 1, target == 0
    both = positive.any(1) & negative.any(1)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    score, positive, negative = score[both], positive[both], negative[both]
    clean = ~(score.isnan() & (positive | negative)).any(1)
    return score.nan_to_num(nan=0.0).contiguous(), positive.double(), negative.double(), clean


def _running(weight: Tensor) -> Tensor:
    """Exclusive running sums: [L, n] to [L, n + 1] with a leading zero."""
    return torch.nn.functional.pad(weight.cumsum(1), (1, 0))


def _mean(value: Tensor, usable: Tensor) -> float:
    return float(value.mean()) if bool(usable.all()) else math.nan

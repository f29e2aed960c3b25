from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fastgmtl.data import metrics as ours

NAN = float("nan")


def scores(shape: tuple[int, ...], seed: int, ties: bool) -> torch.Tensor:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (value * 3).round() if ties else value


def labels(shape: tuple[int, ...], seed: int, missing: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    value = (torch.rand(shape, generator=generator) < 0.3).float()
    return value.masked_fill(torch.rand(shape, generator=generator) < missing, NAN)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("mine", "theirs"), [(ours.roc_auc, sk.roc_auc_score), (ours.average_precision, sk.average_precision_score)]
)
def test_ranking_metrics_equal_scikit_learn_label_by_label(mine, theirs, ties, seed):
    score, target = scores((60, 7), seed, ties), labels((60, 7), seed, 0.4)
    target[:, 3] = torch.where(target[:, 3].isnan(), NAN, 1.0)  # no negatives
    target[:, 5] = NAN
    expected = []
    for j in (0, 1, 2, 4, 6):
        keep = ~target[:, j].isnan()
        expected.append(theirs(target[keep, j].numpy(), score[keep, j].numpy()))
        assert mine(score[:, j], target[:, j]) == pytest.approx(expected[-1], abs=1e-12)
    assert mine(score, target) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_class_metrics_equal_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(80, 6, generator=generator)
    output[:, 4] = -100.0  # never predicted
    target = torch.randint(-1, 4, (80,), generator=generator)  # class 5 never true, class 4 neither
    keep = target >= 0
    truth, guess = target[keep].numpy(), output[keep].argmax(1).numpy()
    assert ours.accuracy(output, target) == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    expected = sk.f1_score(truth, guess, average="macro")
    assert ours.macro_f1(output, target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("column", [False, True])
def test_regression_metrics_equal_scikit_learn(column):
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, generator=generator)
    output = target + torch.randn(50, generator=generator) / 2
    target[::4] = NAN
    keep = ~target.isnan()
    given = output[:, None] if column else output
    truth, guess = target[keep].double().numpy(), output[keep].double().numpy()
    assert ours.mae(given, target) == pytest.approx(sk.mean_absolute_error(truth, guess), abs=1e-12)
    assert ours.r2(given, target) == pytest.approx(sk.r2_score(truth, guess), abs=1e-12)


def test_values_known_by_heart():
    assert ours.roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0.0, 0, 1, 1])) == 0.75
    assert ours.average_precision(torch.tensor([3.0, 2, 1]), torch.tensor([1.0, 0, 1])) == pytest.approx(5 / 6)
    assert ours.roc_auc(torch.zeros(4), torch.tensor([0.0, 0, 1, 1])) == 0.5
    assert ours.r2(torch.tensor([2.0, 2, 2]), torch.tensor([1.0, 2, 3])) == 0
    assert ours.mae(torch.tensor([1.0, 5]), torch.tensor([2.0, NAN])) == 1


CLASS = (torch.randn(3, 2), torch.full((3,), -1))
REAL = (torch.randn(3), torch.full((3,), NAN))
ONE_SIDED = (torch.randn(3), torch.tensor([1.0, 1.0, NAN]))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("accuracy", CLASS),
        ("macro_f1", CLASS),
        ("roc_auc", REAL),
        ("roc_auc", ONE_SIDED),
        ("roc_auc", (torch.zeros(0, 3), torch.zeros(0, 3))),
        ("roc_auc", (torch.zeros(4, 0), torch.zeros(4, 0))),
        ("average_precision", REAL),
        ("average_precision", ONE_SIDED),
        ("mae", REAL),
        ("r2", REAL),
        ("r2", (torch.randn(3), torch.tensor([2.0, 2.0, NAN]))),
        ("r2", (torch.randn(3), torch.tensor([2.0, NAN, NAN]))),
    ],
)
def test_a_metric_of_nothing_is_nan_without_a_warning(name, given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(ours.METRICS[name](*given))


@pytest.mark.parametrize("name", list(ours.METRICS))
def test_nan_outputs_give_nan_where_labelled_and_count_not_where_missing(name):
    if name in ("accuracy", "macro_f1"):
        output, target = torch.tensor([[1.0, 0], [0, 1], [0, 1]]), torch.tensor([0, 1, -1])
    else:
        output, target = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, NAN])
    clean = ours.METRICS[name](output, target)
    assert not math.isnan(clean)
    output[2] = NAN
    assert ours.METRICS[name](output, target) == clean
    output[0] = NAN
    assert math.isnan(ours.METRICS[name](output, target))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(ours.METRICS))
def test_dtypes_and_gradients_do_not_matter(name, dtype):
    classes = name in ("accuracy", "macro_f1")
    output = torch.tensor([[1.0, 0], [0, 1], [1, 0]] if classes else [0.0, 2.0, 1.0])
    target = torch.tensor([0, 1, 1]) if classes else torch.tensor([0.0, 1.0, 0.0])
    expected = ours.METRICS[name](output, target)
    assert ours.METRICS[name](output.to(dtype).requires_grad_(), target) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinite_scores_are_ranked(infinite):
    score = torch.tensor([0.0, infinite, 1.0, infinite, 2.0])
    target = torch.tensor([0.0, 1, 1, 0, 0])
    clipped = score.clamp(-10, 10)
    for metric in (ours.roc_auc, ours.average_precision):
        assert metric(score, target) == metric(clipped, target)


@pytest.mark.parametrize("name", list(ours.METRICS))
def test_shapes_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError, match=r"metric: .*got \[4, 3\] and \[5\]"):
        ours.METRICS[name](torch.zeros(4, 3), torch.zeros(5))

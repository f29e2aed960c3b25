"""The search for the graph between labels: its fits, its proposals, what it finds, and that GCNet goes on from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data import Dataset
from fastgmtl.data.scm import scm
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.gcnet.regressions import RIDGE, Regressions
from fastgmtl.methods.gcnet.search import search
from fastgmtl.methods.gcnet.variables import Variables


def _labels(data: Dataset) -> Tensor:
    return torch.cat([torch.where(t.split["train"][:, None], t.target, torch.nan) for t in data.tasks.values()], 1)


@pytest.mark.parametrize("number", [False, True])
def test_a_fit_has_no_slope_and_its_likelihood(number: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 3, generator=g), (torch.rand(400, 3, generator=g) < 0.4).float()
    y[:, 2] = x[:, 0] + torch.randn(400, generator=g) if number else y[:, 2]
    y[:50, 2] = torch.nan
    fit = Regressions(x, y, Variables([1] * 3, [False, False, number])).fit(2, (0, 1))
    z = torch.cat((x, torch.ones(400, 1), 2 * y[:, :2] - 1), 1).double()[50:]
    w, target = fit.coefficients[:, 0].clone().requires_grad_(), y[50:, 2].double()
    if number:
        likelihood = -0.5 * 350 * ((target - z @ w).square().mean().log() + 1)
    else:
        likelihood = torch.distributions.Bernoulli(logits=z @ w).log_prob(target).sum()
    assert fit.value == pytest.approx(likelihood.item() - math.log(350), rel=1e-6)
    (slope,) = torch.autograd.grad(likelihood, w)
    assert slope.abs().max() < 1e-2


def test_proposals_are_near_what_is_gained() -> None:
    """The score test against fits, for weak edges, of which it is right to first order."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(4000, 3, generator=g), torch.zeros(4000, 3)
    y[:, 0] = (torch.rand(4000, generator=g) < x[:, 0].sigmoid()).float()
    y[:, 1] = (torch.rand(4000, generator=g) < (x[:, 1] + 0.3 * (2 * y[:, 0] - 1)).sigmoid()).float()
    y[:, 2] = (torch.rand(4000, generator=g) < 0.5).float()
    mechanisms = Regressions(x, y, Variables([1] * 3, [False] * 3))
    for t, parents in ((1, ()), (0, ()), (1, (2,)), (2, ())):
        proposed = mechanisms.gains(t, parents)
        for s in {0, 1, 2} - {t, *parents}:
            gained = mechanisms.fit(t, tuple(sorted((*parents, s)))).value - mechanisms.fit(t, parents).value
            assert float(proposed[s]) == pytest.approx(gained, rel=0.1, abs=0.1)


@pytest.mark.parametrize(("missing", "seed", "wrong"), [(0.0, 0, 0), (0.3, 1, 1)])
def test_the_graph_of_s1_and_its_couplings_are_found(missing: float, seed: int, wrong: int) -> None:
    data = scm("S1", num_tasks=6, num_samples=12_000, num_features=10, missing=missing, seed=seed)
    assert data.task_graph is not None and data.coupling is not None
    found = search(data.x, _labels(data), Variables([1] * 6, [False] * 6))
    true = torch.zeros(6, 6, dtype=torch.bool)
    true[tuple(data.task_graph.edge_index())] = True
    assert ((found.gain > 0) != true).sum() <= wrong
    assert found.gain.diagonal().eq(-math.inf).all()
    if not missing:
        coupling = torch.zeros(6, 6).index_put_(tuple(data.task_graph.edge_index()), data.coupling.float())
        assert ((found.coupling - coupling).abs() < 0.1 * coupling.abs().clamp(min=0.5)).all()


def test_numbers_and_labels_that_nobody_has() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(3000, 4, generator=g)
    y = torch.stack((x[:, 0].exp() + torch.randn(3000, generator=g), x[:, 1], torch.full((3000,), torch.nan)), 1)
    y[:, 1] = (torch.rand(3000, generator=g) < (x[:, 1] + 2 * y[:, 0]).sigmoid()).float()
    found = search(x, y, Variables([1] * 3, [True, False, False]))
    assert (found.gain > 0).tolist() == [[False, True, False], [False, False, False], [False, False, False]]
    assert all(part.isfinite().all() for part in (found.weight, found.bias, found.coupling))
    assert found.coupling[0, 1].item() == pytest.approx(2, rel=0.2)


def test_labels_that_the_features_separate_have_finite_fits() -> None:
    x = torch.linspace(-1, 1, 200)[:, None]
    y = torch.cat((x > 0, x > 0.2, x < -0.3), 1).float()
    found = search(x, y, Variables([1] * 3, [False] * 3))
    assert all(part.isfinite().all() for part in (found.weight, found.bias, found.coupling))


def test_gcnet_finds_s1() -> None:
    """From 20,000 samples: the order of the edges, and couplings within a tenth."""
    data = scm("S1", num_tasks=10, num_samples=25_000)
    assert data.task_graph is not None and data.coupling is not None
    config: Any = METHODS["gcnet"].config_type(epochs=10, batch=1024)
    trainer = Trainer(METHODS["gcnet"], data, config, seed=0)
    for _ in trainer:
        pass
    method: Any = trainer.method
    _, auroc, _, _ = method.watched[-1].tolist()
    assert auroc >= 0.95
    found = method.strength()[tuple(data.task_graph.edge_index())]
    assert ((found - data.coupling).abs() <= 0.1 * data.coupling.abs()).all()


# ------------------------------------------------------------------------------------------------------------- classes


def _classes(samples: int) -> tuple[Tensor, Tensor, Variables]:
    """Three classes, caused by a label and a cause of a number: features [N, 4] and values [N, 5]."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 4, generator=g)
    label = (torch.rand(samples, generator=g) < x[:, 0].sigmoid()).float()
    logits = x[:, 1:4] + (2 * label[:, None] - 1) * torch.tensor([0.6, -0.6, 0.0])
    drawn = logits.softmax(1).multinomial(1, generator=g)
    one = torch.zeros(samples, 3).scatter_(1, drawn, 1.0)
    number = one @ torch.tensor([1.0, 0.0, -1.0]) + x[:, 0] + 0.7 * torch.randn(samples, generator=g)
    return x, torch.cat((label[:, None], one, number[:, None]), 1), Variables([1, 3, 1], [False, False, True])


def test_a_fit_of_classes_has_no_slope_and_its_likelihood() -> None:
    x, y, variables = _classes(500)
    y[:40, 1:4] = torch.nan
    fit = Regressions(x, y, variables).fit(1, (0, 2))
    z = torch.cat((x, torch.ones(500, 1), 2 * y[:, :1] - 1, y[:, 4:]), 1).double()[40:]
    w, target = fit.coefficients.clone().requires_grad_(), y[40:, 1:4].argmax(1)
    f = z @ w
    likelihood = torch.distributions.Categorical(logits=torch.cat((f, torch.zeros(460, 1)), 1)).log_prob(target).sum()
    ridge = RIDGE * 460 * w.detach().square().sum().item() / 2
    assert fit.value == pytest.approx(likelihood.item() - ridge - 4 * math.log(460) / 2, rel=1e-6)
    (slope,) = torch.autograd.grad(likelihood, w)
    assert slope.abs().max() < 1e-2


def test_proposals_of_classes_are_near_what_is_gained() -> None:
    """Of two classes that cause a third of as many, weakly: the score test is right to first order."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(4000, 2, generator=g)
    first = torch.zeros(4000, 3).scatter_(1, torch.randint(3, (4000, 1), generator=g), 1.0)
    logits = torch.cat((x[:, :1], x[:, 1:], torch.zeros(4000, 1)), 1) + 0.3 * first
    second = torch.zeros(4000, 3).scatter_(1, logits.softmax(1).multinomial(1, generator=g), 1.0)
    mechanisms = Regressions(x, torch.cat((first, second), 1), Variables([3, 3], [False] * 2))
    for t, s in ((0, 1), (1, 0)):
        gained = mechanisms.fit(t, (s,)).value - mechanisms.fit(t, ()).value
        assert float(mechanisms.gains(t, ())[s]) == pytest.approx(gained, rel=0.1, abs=0.1)


def test_the_graph_of_classes_and_its_couplings_are_found() -> None:
    x, y, variables = _classes(8000)
    found = search(x, y, variables)
    assert (found.gain > 0).nonzero().tolist() == [[0, 1], [1, 2]]
    # Logits of classes are over that of the last one.
    torch.testing.assert_close(found.coupling[0, 1:4], torch.tensor([0.6, -0.6, 0.0]), atol=0.12, rtol=0)
    torch.testing.assert_close(found.coupling[1:4, 4], torch.tensor([2.0, 1.0, 0.0]), atol=0.12, rtol=0)
    assert found.weight.shape == (5, 4) and found.weight[3].abs().max() == 0

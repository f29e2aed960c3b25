"""What aggregators and loss weightings keep: through a state_dict into a fresh object, and forgotten by reset()."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from matrices import draws, full_rank
from torch import Tensor, nn

from fastgmtl import gradients

T = 4
MATRICES = [j for j in draws(full_rank) if len(j) == T]
STATEFUL: dict[str, Callable[[], gradients.Aggregator]] = {
    "GradVac": lambda: gradients.GradVac(0.3, "none"),
    "NashMTL": lambda: gradients.NashMTL(update_weights_every=3),
    "MetaBalance": gradients.MetaBalance,
    "RCGrad": lambda: gradients.RCGrad(T),
}


def saved(module: nn.Module) -> dict[str, Tensor]:
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_fresh_aggregator_goes_on_where_another_was(name: str) -> None:
    first = STATEFUL[name]()
    for j in MATRICES[:4]:
        first(j)
    if isinstance(first, gradients.RCGrad):
        first.omega.data.fill_(0.3)
    second = STATEFUL[name]()
    second.load_state_dict(saved(first))
    fresh = STATEFUL[name]()
    assert not torch.equal(fresh(MATRICES[4]), second(MATRICES[4]))
    second.load_state_dict(saved(first))
    for j in MATRICES[4:]:
        assert torch.equal(first(j), second(j))


@pytest.mark.parametrize("name", STATEFUL)
def test_reset(name: str) -> None:
    aggregator = STATEFUL[name]()
    want = aggregator(MATRICES[4])
    for j in MATRICES:
        aggregator(j)
    if isinstance(aggregator, gradients.RCGrad):
        aggregator.omega.data.fill_(0.3)
    aggregator.reset()
    assert torch.equal(aggregator(MATRICES[4]), want)


def test_an_aggregator_is_a_module_that_may_be_moved() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.add_module("surgery", gradients.GradVac(0.3, "none"))
    model.surgery(MATRICES[0])  # type: ignore[operator]
    model.half()
    assert model.surgery.cosine.dtype == torch.float64  # type: ignore[union-attr]
    model.surgery(MATRICES[1])  # type: ignore[operator]
    assert "surgery.cosine" in model.state_dict()


def test_nash_keeps_its_weights_for_some_steps() -> None:
    every, third = gradients.NashMTL(max_norm=0), gradients.NashMTL(max_norm=0, update_weights_every=3)
    grams = [j @ j.T for j in MATRICES[:4]]
    found = [third.weights(g) for g in grams]
    assert torch.equal(found[0], every.weights(grams[0])) and torch.equal(found[3], every.weights(grams[3]))
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])
    bounded = gradients.NashMTL(max_norm=0.5, update_weights_every=3)
    norms = [float(bounded(j).norm()) for j in MATRICES[:3]]
    assert abs(norms[0] - 0.5) < 1e-9 and max(norms) < 0.5 + 1e-9


def test_state_of_another_size_is_refused() -> None:
    for aggregator, what in ((gradients.GradVac(), "gram"), (gradients.MetaBalance(), "norms")):
        aggregator(torch.randn(3, 5))
        with pytest.raises(ValueError, match=rf"its state is for {what} .*; call reset\(\)"):
            aggregator(torch.randn(4, 5))


def test_draws_come_from_the_generator() -> None:
    j = next(iter(draws(full_rank, 8)))
    gram = j @ j.T
    for make in (gradients.Random, gradients.PCGrad, lambda generator: gradients.PCGrad("shared", generator=generator)):
        first, again = (make(generator=torch.Generator().manual_seed(5)) for _ in range(2))
        seen = [first.weights(gram) for _ in range(20)]
        assert all(torch.equal(w, again.weights(gram)) for w in seen)
        assert any(not torch.equal(w, seen[0]) for w in seen)


def test_omega_learns_from_products_alone() -> None:
    """The first-order change of a validation loss by a step, differentiated in omega: by hand, and by finite steps."""
    for rotate in (False, True):
        aggregator = gradients.RCGrad(T, rotate=rotate)
        aggregator.omega.data.copy_(torch.tensor([1.0, 0.3, 0.6, 0.9]))
        j, lr = MATRICES[2], 0.1
        of_validation = MATRICES[3].sum(0)
        products = j @ of_validation
        value = -lr * (aggregator.weights(j @ j.T) * products).sum()
        (got,) = torch.autograd.grad(value, [aggregator.omega])
        for i in range(T):
            changes = []
            for step in (1e-6, -1e-6):
                moved = gradients.RCGrad(T, rotate=rotate)
                moved.omega.data.copy_(aggregator.omega.data)
                moved.omega.data[i] += step
                changes.append(-lr * float(moved(j) @ of_validation))
            assert abs(float(got[i]) - (changes[0] - changes[1]) / 2e-6) < 1e-6 * (1 + abs(float(got[i])))


REFUSED = [
    (lambda: gradients.PCGrad("random"), r"PCGrad: order must be one of per_task, shared, none, got 'random'"),
    (lambda: gradients.PCGrad(torch.tensor([0, 0])), "order must be a permutation of the tasks"),
    (lambda: gradients.PCGrad(reduction="none"), "reduction must be one of sum, mean"),
    (lambda: gradients.PCGrad(torch.tensor([1, 0]))(torch.ones(3, 2)), "order is for 2 tasks, there are 3"),
    (lambda: gradients.GradVac(1.5), r"beta must be in \[0, 1\], got 1.5"),
    (lambda: gradients.CAGrad(-1), "c must be at least 0, got -1"),
    (lambda: gradients.UPGrad(torch.ones(2, 2)), r"pref_vector must be a floating point tensor \[T\] or None"),
    (lambda: gradients.UPGrad(torch.ones(2))(torch.ones(3, 2)), "pref_vector has 2 entries for 3 tasks"),
    (lambda: gradients.NashMTL(3)(torch.ones(2, 2)), "there must be n_tasks = 3 tasks, got 2"),
    (lambda: gradients.NashMTL(update_weights_every=0), "update_weights_every must be at least 1"),
    (lambda: gradients.FairGrad(-0.1), "alpha must be at least 0"),
    (lambda: gradients.AlignedMTL(scale_mode="max"), "scale_mode must be one of min, median, rmse"),
    (lambda: gradients.Krum(1)(torch.ones(3, 2)), "there must be at least 4 tasks, got 3"),
    (lambda: gradients.Constant(torch.ones(2))(torch.ones(3, 2)), "there are 2 weights for 3 tasks"),
    (lambda: gradients.GCS(3)(torch.ones(3, 2)), "target must be one of 3 tasks, got 3"),
    (lambda: gradients.RCGrad(2)(torch.ones(3, 2)), "omega is for 2 tasks, there are 3"),
    (lambda: gradients.MetaBalance(relax=2), r"relax must be in \[0, 1\], got 2"),
    (lambda: gradients.GradDrop(leak=torch.ones(2))(torch.ones(3, 2)), "leak is for 2 tasks, there are 3"),
    (lambda: gradients.Mean().weights(torch.ones(2, 3)), r"gram must have shape \[T, T\] or \[K, T, T\], got \[2, 3\]"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m[:20] for _, m in REFUSED])
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_gram_matrix_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"MGDA: gram must be a floating point tensor, got torch.int64"):
        gradients.MGDA().weights(torch.ones(2, 2).long())

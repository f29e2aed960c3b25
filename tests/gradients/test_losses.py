"""Weighting of losses: values and gradients by hand, states, TorchJD where it is there."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from fastgmtl import gradients

LOSSES = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


def leaf() -> Tensor:
    return LOSSES.clone().requires_grad_()


def test_uw() -> None:
    uw = gradients.UW(3)
    uw.log_var.data.copy_(torch.tensor([0.0, 1.0, -1.0]))
    losses, s = leaf(), uw.log_var.detach().double()
    value = uw(losses)
    value.backward()
    torch.testing.assert_close(value.detach(), (0.5 * (-s).exp() * LOSSES + 0.5 * s).sum())
    torch.testing.assert_close(losses.grad, 0.5 * (-s).exp())
    torch.testing.assert_close(uw.log_var.grad, (0.5 - 0.5 * (-s).exp() * LOSSES).float())


def test_dwa_over_epochs() -> None:
    dwa = gradients.DWA(3, temperature=0.5)
    epochs = [[LOSSES, LOSSES * 2], [LOSSES * torch.tensor([1.0, 0.5, 2.0])], [LOSSES]]
    for k, batches in enumerate(epochs):
        if k < 2:
            assert dwa.weights().tolist() == [1.0, 1.0, 1.0]
        for batch in batches:
            dwa(batch)
        dwa.step()
        dwa.step()  # without batches there was no epoch
    rate = LOSSES / (LOSSES * torch.tensor([1.0, 0.5, 2.0]))
    torch.testing.assert_close(dwa.weights(), (3 * (rate / 0.5).softmax(0)).float())
    losses = leaf()
    dwa(losses).backward()
    torch.testing.assert_close(losses.grad, dwa.weights().double())


def test_rlw_weights_are_drawn_and_add_up() -> None:
    rlw, losses = gradients.RLW(torch.Generator().manual_seed(1)), leaf()
    rlw(losses).backward()
    want = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(0)
    torch.testing.assert_close(losses.grad, want)


def test_stch() -> None:
    for mu in (0.01, 1.0, 100.0):
        p, z = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64)
        losses, twin = leaf(), leaf()
        gradients.STCH(mu, p, z)(losses).backward()
        value = mu * torch.logsumexp(p * (twin - z) / mu, 0)
        value.backward()
        torch.testing.assert_close(losses.grad, twin.grad)
    assert float(gradients.STCH(1e-4)(1e6 * LOSSES)) == pytest.approx(2e6 / 3)


def test_gradnorm_makes_norms_alike() -> None:
    module = gradients.GradNorm(3, alpha=0.0)
    optimizer = torch.optim.SGD([module.weight], lr=0.002)
    norm = torch.tensor([1.0, 3.0, 0.5])
    for _ in range(2000):
        module.balance(LOSSES, (norm**2).diag())
        optimizer.step()
        module.renormalise()
    assert float(module.weight.sum().detach()) == pytest.approx(3)
    alike = (module.weight * norm).detach()
    assert float(alike.max() / alike.min()) < 1.1
    losses = leaf()
    module(losses).backward()
    torch.testing.assert_close(losses.grad, module.weight.detach().double())


def test_gradnorm_favours_slow_tasks() -> None:
    module, norm = gradients.GradNorm(2, alpha=1.0), torch.ones(2).double().diag()
    module.balance(torch.ones(2), norm)
    module.balance(torch.tensor([0.1, 0.9]), norm)
    assert module.weight.grad[0] > 0 > module.weight.grad[1]  # type: ignore[index]
    assert module.first.tolist() == [1.0, 1.0]


def test_famo_by_the_formulas_of_its_authors() -> None:
    famo = gradients.FAMO(3, min_losses=torch.tensor([0.1, 0.0, 0.0]))
    xi = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([xi], lr=0.025, weight_decay=1e-3)
    before = LOSSES.float()
    for step in range(6):
        losses = before.clone().requires_grad_()
        famo(losses).backward()
        shifted, w = before - famo.min_losses + 1e-8, xi.detach().softmax(0)
        torch.testing.assert_close(losses.grad, w / shifted / (w / shifted).sum())
        after = before * torch.tensor([0.9, 0.8, 0.99]) + 0.01 * step
        famo.update(after)
        delta = (before - famo.min_losses + 1e-8).log() - (after - famo.min_losses + 1e-8).log()
        (xi.grad,) = torch.autograd.grad(xi.softmax(0), [xi], delta)
        adam.step()
        torch.testing.assert_close(famo.xi, xi.detach())
        before = after


MAKE = {
    "UW": lambda: gradients.UW(3),
    "DWA": lambda: gradients.DWA(3),
    "GradNorm": lambda: gradients.GradNorm(3),
    "FAMO": lambda: gradients.FAMO(3),
}


def train(module: gradients.LossWeighting, steps: range) -> list[float]:
    found = []
    for step in steps:
        losses = LOSSES.float() * (1 + 0.1 * step) + torch.tensor([0.0, 0.1, 0.2]) * step
        value = module(losses)
        found.append(float(value.detach()))
        if isinstance(module, gradients.UW):
            module.log_var.data += 0.1 * (step + 1)
        elif isinstance(module, gradients.DWA):
            module.step()
        elif isinstance(module, gradients.GradNorm):
            module.balance(losses, torch.diag(torch.tensor([1.0, 2.0, 3.0])))
            module.weight.data -= 0.1 * module.weight.grad
            module.renormalise()
        elif isinstance(module, gradients.FAMO):
            module.update(losses * torch.tensor([0.9, 0.8, 0.7]))
    return found


@pytest.mark.parametrize("name", MAKE)
def test_states(name: str) -> None:
    first, second = MAKE[name](), MAKE[name]()
    untrained = train(MAKE[name](), range(5, 9))
    train(first, range(5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    found = train(first, range(5, 9))
    assert train(second, range(5, 9)) == found != untrained
    first.reset()
    assert train(first, range(5, 9)) == untrained


def test_refused() -> None:
    for call, message in (
        (lambda: gradients.UW(3)(torch.ones(2)), "UW: it is for 3 losses, got 2"),
        (lambda: gradients.RLW()([torch.ones(())]), r"losses must be a floating point tensor \[T\], got list"),
        (lambda: gradients.DWA(3, 0.0), "temperature must be above 0"),
        (lambda: gradients.STCH(0.0), "mu must be above 0"),
        (lambda: gradients.FAMO(3, lr=-1.0), "lr must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.skipif(find_spec("torchjd") is None, reason="needs torchjd")
def test_torchjd() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchjd import scalarization
    pairs = [
        (gradients.UW(3), scalarization.UW(3)),
        (gradients.DWA(3), scalarization.DWA()),
        (gradients.STCH(0.5), scalarization.STCH(0.5)),
        (gradients.FAMO(3), scalarization.FAMO(3)),
    ]
    for ours, theirs in pairs:
        for step in range(5):
            values = []
            for module in (ours, theirs):
                losses = (LOSSES.float() * (1 + 0.1 * step)).requires_grad_()
                module(losses).backward()
                values.append(losses.grad)
                if isinstance(module, gradients.DWA | scalarization.DWA):
                    module.step()
                if isinstance(module, gradients.FAMO | scalarization.FAMO):
                    module.update(losses.detach() * torch.tensor([0.9, 0.8, 0.7]))
            torch.testing.assert_close(values[0], values[1])

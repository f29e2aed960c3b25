"""The method stn: its two phases, what each of them moves, and that a known best response is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import METHODS
from fastgmtl.methods.self_tuning import SelfTuning
from fastgmtl.nn import SelfTuningLinear

SMALL = {"hidden": 4, "layers": 2, "dropout": 0.0, "batch": 16, "pretrained": "none"}


@pytest.fixture
def data(make_molecules: Callable[..., Molecules]) -> Molecules:
    return make_molecules(60)


def build(data: Molecules, **changes: Any) -> SelfTuning:
    config: Any = METHODS["stn"].config_type(**{**SMALL, **changes})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return SelfTuning.build(data, config, torch.Generator().manual_seed(0))


def hypers(method: SelfTuning) -> list[Tensor]:
    found = [m.hyper for m in method.modules() if isinstance(m, SelfTuningLinear)]
    assert all(v is not None for v in found)
    return found  # type: ignore[return-value]


def test_all_maps_answer_and_training_starts_where_it_would(data: Molecules) -> None:
    method, plain = build(data), METHODS["blo"]
    torch.manual_seed(0)
    blo = plain.build(data, plain.config_type(**SMALL), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert sum(isinstance(m, SelfTuningLinear) for m in method.modules()) == 2 + 1
    assert method.eval().evaluate(data, "val") == blo.eval().evaluate(data, "val")
    assert all(not v.any() for v in hypers(method))
    torch.testing.assert_close(method.learned(), torch.full((6,), 1 / 6).double())


def test_noise_is_drawn_each_step_and_is_not_in_scores(data: Molecules) -> None:
    method = build(data, adapt_every=100)
    (batch, *_) = method.batches(data, torch.Generator().manual_seed(0))
    seen = []
    for _ in range(2):
        method.backward(method.step(batch))
        start = math.log(1 / 6)
        assert all(torch.equal(v, hypers(method)[0]) for v in hypers(method))
        torch.testing.assert_close(hypers(method)[0], method.lam + method.noise - start)
        torch.testing.assert_close(method.learned(), (method.lam + method.noise).exp())
        seen.append(method.noise.clone())
    assert not torch.equal(*seen)
    method.evaluate(data, "val")
    assert all(not v.any() for v in hypers(method))


def test_phases_take_turns(data: Molecules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third step is before a meta step, which moves lambda and rho and no weight."""
    method = build(data, adapt_every=3)
    kept = int(0.8 * (len(method.trained) + len(method.meta)))
    assert len(method.trained) == kept
    (batch, *_) = method.batches(data, torch.Generator().manual_seed(0))
    due, real = [], SelfTuning.meta_step

    def meta_step(self: SelfTuning) -> None:
        before = [p.clone() for p in self.parameters()], self.lam.clone(), self.rho.clone()
        real(self)
        due.append(int(self.taken))
        assert all(torch.equal(a, b) for a, b in zip(before[0], self.parameters(), strict=True))
        assert not torch.equal(before[1], self.lam) and not torch.equal(before[2], self.rho)
        assert all(p.grad is None for p in self.parameters())

    monkeypatch.setattr(SelfTuning, "meta_step", meta_step)
    for _ in range(8):
        method.zero_grad()
        method.backward(method.step(batch))
    assert due == [3, 6]


def test_a_meta_step_goes_down_the_loss_of_held_out_molecules(data: Molecules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is that of central differences, through the answer of the layers, at the noise that was drawn."""
    method = build(data, batch=1000, entropy=0.3).double().eval()
    for m in method.modules():
        if isinstance(m, SelfTuningLinear):
            torch.nn.init.normal_(m.gate)
    found: list[Tensor] = []
    monkeypatch.setattr(method, "descend", found.append)
    unit = torch.randn(6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    monkeypatch.setattr(method, "_draw", lambda rho: unit * torch.nn.functional.softplus(rho))

    def loss(lam: Tensor, rho: Tensor) -> float:
        method._respond(lam + method._draw(rho))
        with torch.no_grad():
            target = method.target_loss(method._view(method.meta))
        return float(target) - 0.3 * float(torch.nn.functional.softplus(rho).log().sum())

    method.meta_step()
    step = 1e-5
    for which, row in enumerate(found[0]):
        for t in range(6):
            ends = []
            for sign in (1, -1):
                values = [method.lam.clone(), method.rho.clone()]
                values[which][t] += sign * step
                ends.append(loss(*values))
            assert float(row[t]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7)


def test_adam(data: Molecules) -> None:
    method = build(data, meta_lr=0.1)
    theirs = torch.nn.Parameter(torch.stack([method.lam, method.rho]))
    optimizer = torch.optim.Adam([theirs], 0.1)
    for seed in range(4):
        theirs.grad = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.step()
        method.descend(theirs.grad)
    torch.testing.assert_close(torch.stack([method.lam, method.rho]), theirs.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_lr": 0.0}, "meta_lr: must be positive, got 0.0"),
        ({"scale": 0.0}, "scale: must be positive, got 0.0"),
        ({"entropy": -1.0}, "entropy: must be 0 or more, got -1.0"),
        ({"adapt_every": 0}, "adapt_every: must be at least 1, got 0"),
        ({"meta_share": 1.0}, r"meta_share: must be in \(0, 1\), got 1.0"),
    ],
)
def test_config_refuses(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS["stn"].config_type(**changes)

"""How backward finds the gradients: in pieces, in a batch, from functions; and the bound on the update."""

from __future__ import annotations

from typing import Any

import cases
import pytest
import torch
from compare import case, close
from torch import Tensor, nn

import fastgmtl
from fastgmtl import gradients, ops
from fastgmtl.gradients import capture

T = 5
X = torch.randn(12, 4, generator=cases.generator("capture"), dtype=torch.float64)


class Model(nn.Module):
    """Two shared layers; tasks 1 and 3 leave after the first; task 4 has nothing to do with either."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(T))
        self.double()

    def losses(self) -> list[Tensor]:
        z = self.first(X).tanh()
        y = self.second(z).tanh()
        return [
            ((head(z if t in (1, 3) else X[:, :1].expand(-1, 6) if t == 4 else y) - t + 2) ** 2).mean()
            for t, head in enumerate(self.heads)
        ]


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", [gradients.MGDA, gradients.Sum])
@pytest.mark.parametrize("cached", [0, 2 * 1152, 4 * 1152, 2**20])
def test_a_batch_in_pieces_is_the_loop(monkeypatch: pytest.MonkeyPatch, cached: int, method: Any) -> None:
    """1152 bytes: of the two places, 12 x 6 in float64 each, where the losses meet."""
    monkeypatch.setattr(capture, "_CACHED", cached)
    sizes: list[int] = []
    through = capture._through

    def counted(edges: Any, tensors: Any, columns: Any) -> Any:
        sizes.append(len(columns))
        return through(edges, tensors, columns)

    monkeypatch.setattr(capture, "_through", counted)
    model, twin = Model(), Model()
    report = fastgmtl.backward(model.losses(), model, method(), capture="batched")
    want = fastgmtl.backward(twin.losses(), twin, method())
    assert sizes == {0: [], 2 * 1152: [2, 2, 1], 4 * 1152: [4, 1], 2**20: [5]}[cached]
    found, expected = grads(model), grads(twin)
    assert set(found) == set(expected) == {name for name, _ in model.named_parameters()}
    for name in found:
        close(found[name], expected[name], torch.float64)
    close(report.gram, want.gram, torch.float64)  # type: ignore[arg-type]


def test_functions_are_called_once() -> None:
    for how in capture.CAPTURES:
        model, calls = Model(), [0] * T

        def of(t: int, model: Model = model, calls: list[int] = calls) -> Tensor:
            calls[t] += 1
            return model.losses()[t]

        fastgmtl.backward([lambda t=t: of(t) for t in range(T)], model, gradients.MGDA(), capture=how)
        assert calls == [1] * T
        twin = Model()
        fastgmtl.backward(twin.losses(), twin, gradients.MGDA())
        for name, value in grads(twin).items():
            close(grads(model)[name], value, torch.float64)


@pytest.mark.parametrize("how", capture.CAPTURES)
@pytest.mark.parametrize("groups", [None, "tensor"])
def test_a_bound_on_the_update_is_clip_grad_norm(how: str, groups: str | None) -> None:
    shared = lambda model: [*model.first.parameters(), *model.second.parameters()]  # noqa: E731
    for share in (0.3, 2.0):
        model, twin = Model(), Model()
        plain = fastgmtl.backward(twin.losses(), twin, gradients.UPGrad(), groups=groups)
        bound = share * float(plain.norm)
        nn.utils.clip_grad_norm_(shared(twin), bound)
        options: Any = {"groups": groups, "capture": how, "max_norm": bound}
        report = fastgmtl.backward(model.losses(), model, gradients.UPGrad(), **options)
        for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            with case(name):
                torch.testing.assert_close(p.grad, q.grad, rtol=2e-5, atol=0)  # it adds 1e-6 to the norm
        assert float(report.norm) == pytest.approx(min(1.0, share) * float(plain.norm), rel=1e-12)


def test_the_bound_is_of_unscaled_gradients() -> None:
    model, twin = Model().float(), Model().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    data = X.float()

    def losses(model: Model) -> list[Tensor]:
        z = model.second(model.first(data).tanh())
        return [(head(z) ** 2).mean() for head in model.heads]

    report = fastgmtl.backward(losses(model), model, gradients.Sum(), max_norm=1e-2, scaler=scaler)
    fastgmtl.backward(losses(twin), twin, gradients.Sum(), max_norm=1e-2)
    assert float(report.norm) == pytest.approx(1e-2)
    close(model.first.weight.grad / 2**10, twin.first.weight.grad, torch.float32)  # type: ignore[operator, arg-type]


def test_a_bound_that_cannot_be_kept_is_refused() -> None:
    model = Model()
    z = model.second(model.first(X))
    losses = [z.sum(), z.square().sum()]
    with pytest.raises(ValueError, match="max_norm must be left out with features"):
        fastgmtl.backward(losses, model, gradients.Sum(), features=z, max_norm=1.0)
    with pytest.raises(ValueError, match="a method that reads no Gram matrix"):
        fastgmtl.backward(losses, model, gradients.GradDrop(), max_norm=1.0)
    with pytest.raises(ValueError, match="backward: max_norm must be at least 0, got -1"):
        fastgmtl.backward(losses, model, gradients.Sum(), max_norm=-1)


@pytest.mark.parametrize("how", capture.CAPTURES)
def test_a_loss_alone_has_an_ordinary_backward(how: str) -> None:
    """One task, or one of several that is there in this step; what is learned over the steps is left alone."""
    for losses in (lambda m: m.losses()[:1], lambda m: [None, *m.losses()[:1], None]):
        model, twin, method = Model(), Model(), gradients.GradVac()
        report = fastgmtl.backward(losses(model), model, method, capture=how)
        twin.losses()[0].backward()
        found, want = grads(model), grads(twin)
        assert set(found) == set(want) and all(torch.equal(found[name], want[name]) for name in want)
        assert method.cosine is None and not report.norms.any() and float(report.norm) == 0


def test_nothing_is_written_before_an_error() -> None:
    model = Model()
    with pytest.raises(ValueError, match="no parameter is shared"):
        fastgmtl.backward([p.square().sum() for p in model.first.parameters()], model, gradients.Sum())
    with pytest.raises(ValueError, match="no parameter is shared"):
        fastgmtl.backward([None, None], model, gradients.Sum())
    assert not grads(model)


def test_sparse_gradients_are_refused_by_name() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    for how in capture.CAPTURES:
        rows = table(torch.tensor([1, 2]))
        with pytest.raises(TypeError, match=r"gram: grads\[0\]\[0\] must be a dense tensor, got .*sparse"):
            fastgmtl.backward([rows.sum(), rows.square().mean()], table, gradients.PCGrad(), capture=how)
    sparse = torch.eye(3).to_sparse()
    for call in (ops.gram, lambda g: ops.combine(g, torch.ones(2)), gradients.GradDrop(), gradients.MGDA()):
        with pytest.raises(TypeError, match=r"grads\[0\]\[0\] must be a dense tensor, got .*sparse"):
            call([[sparse], [sparse]])

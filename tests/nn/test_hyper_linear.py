"""HyperLinear against separate maps, its encoding, and that weights do not scale with the description of a task."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import nn
from fastgmtl.data import load
from fastgmtl.nn.hyper_linear import constant_norm_encoding

M, IN, OUT, P, T = 11, 4, 3, 2, 3


def make(bias: bool = True) -> nn.HyperLinear:
    return nn.HyperLinear(IN, OUT, P, (8, 8), bias).double()


def formula(layer: nn.HyperLinear, g: Tensor) -> tuple[Tensor, Tensor]:
    """W and b of one task, from the parameters by hand."""
    h = torch.cat([torch.cos(torch.pi * g / 2), torch.sin(torch.pi * g / 2)])
    for part in layer.hyper:
        h = F.leaky_relu(h) if isinstance(part, torch.nn.LeakyReLU) else part(h)
    bias = torch.zeros(OUT).double() if layer.bias is None else layer.bias + h[IN * OUT :]
    return layer.weight + h[: IN * OUT].reshape(OUT, IN), bias


@pytest.mark.parametrize("bias", [True, False])
def test_every_form_is_the_map_of_each_task(bias: bool) -> None:
    layer, g = make(bias), torch.rand(T, P, dtype=torch.float64)
    maps = [formula(layer, each) for each in g]
    x = torch.randn(M, T, IN, dtype=torch.float64)
    want = torch.stack([F.linear(x[:, t], w, b) for t, (w, b) in enumerate(maps)], 1)
    torch.testing.assert_close(layer(x, g), want, rtol=1e-10, atol=1e-10)
    shared = torch.stack([F.linear(x[:, 0], w, b) for w, b in maps], 1)
    torch.testing.assert_close(layer(x[:, 0], g), shared, rtol=1e-10, atol=1e-10)
    bounds = [0, 5, 5, M]
    rows = torch.cat([F.linear(x[a:b, 0], *maps[t]) for t, (a, b) in enumerate(itertools.pairwise(bounds))])
    torch.testing.assert_close(layer(x[:, 0], g, bounds), rows, rtol=1e-10, atol=1e-10)


def test_derivatives() -> None:
    layer, names = make(), ("weight", "bias", "hyper.0.weight")
    params = dict(layer.named_parameters())
    g, x = torch.rand(T, P, dtype=torch.float64), torch.randn(M, IN, dtype=torch.float64)

    def run(g: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        given = params | dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, given, (x, g, [0, 5, 5, M]))

    inputs = (g.requires_grad_(), x.requires_grad_(), *(params[name].detach().requires_grad_() for name in names))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_the_encoding_has_one_norm_whatever_is_encoded() -> None:
    g = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.3, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(constant_norm_encoding(g).norm(dim=1), torch.full((3,), 2.0).double().sqrt())
    torch.testing.assert_close(constant_norm_encoding(g[1]), torch.tensor([0.0, 1, 1, 0]).double())


def test_weights_at_first_are_of_one_size_for_every_task() -> None:
    """Of a plain hypernetwork they would grow a hundredfold with g; here they differ by less than a half."""
    torch.manual_seed(0)
    layer = nn.HyperLinear(32, 32, 1)
    weight, _ = layer.weights(torch.tensor([[0.01], [0.1], [0.5], [1.0]]))
    spread = weight.detach().var((1, 2))
    assert float(spread.max() / spread.min()) < 1.5
    assert not torch.equal(weight[0], weight[3])


def test_refused() -> None:
    layer, g, x = make(), torch.zeros(T, P).double(), torch.zeros(M, IN).double()
    for call, message in (
        (lambda: layer(x, g[0]), r"g must have shape \[T, P\] with P = 2, got \[2\]"),
        (lambda: layer(x[:, :2], g), r"x must have F = 4 features, got \[11, 2\]"),
        (lambda: layer(x.unsqueeze(1), g), r"x must have shape \[N, F\] or \[N, T, F\] with T = 3, got \[11, 1, 4\]"),
    ):
        with pytest.raises(ValueError, match=f"HyperLinear: {message}"):
            call()
    assert "4, 3, task_channels=2" in repr(layer)


@pytest.mark.usefixtures("data_root")
def test_it_learns_the_schools() -> None:
    """139 schools by one layer, each described by the mean of its pupils' features: better than one map for all."""
    data = load("mtl:School")
    owner = torch.stack([~t.target.isnan() for t in data.tasks.values()]).int().argmax(0)
    score = torch.stack([t.target.nan_to_num() for t in data.tasks.values()]).sum(0)
    scale = data.x.std(0)
    x = torch.where(scale > 0, (data.x - data.x.mean(0)) / torch.where(scale > 0, scale, 1), 1)
    order, counts = owner.argsort(stable=True), owner.bincount()
    g = torch.zeros(len(counts), x.size(1)).index_add(0, owner, x) / counts.unsqueeze(1)
    g = (g - g.amin(0)) / (g.amax(0) - g.amin(0)).clamp(min=1e-6)
    y = (score - score.mean()) / score.std()
    bounds = [0, *counts.cumsum(0).tolist()]
    torch.manual_seed(0)
    layer = nn.HyperLinear(x.size(1), 1, g.size(1), (16,))
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    losses = []
    for _ in range(100):
        loss = (layer(x[order], g, bounds)[:, 0] - y[order]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    single = torch.linalg.lstsq(x, y.unsqueeze(1)).solution
    assert losses[-1] < float((x @ single - y.unsqueeze(1)).square().mean()) < losses[0]

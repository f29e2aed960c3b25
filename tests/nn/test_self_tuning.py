"""SelfTuningLinear against its formula, for a call and row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import nn as tnn
from torch.nn import functional as F

from fastgmtl import nn
from fastgmtl.nn.self_tuning import make_self_tuning_, respond_to

N, IN, OUT, H = 7, 4, 3, 2


def make(bias: bool = True) -> nn.SelfTuningLinear:
    layer = nn.SelfTuningLinear(IN, OUT, H, bias).double()
    for p in layer.parameters():
        tnn.init.normal_(p)
    return layer


def formula(layer: nn.SelfTuningLinear, x: Tensor, lam: Tensor) -> Tensor:
    """Of one row."""
    weight = layer.weight + torch.diag(layer.gate @ lam) @ layer.response_weight
    if layer.bias is None:
        return weight @ x
    assert layer.bias_gate is not None and layer.response_bias is not None
    return weight @ x + layer.bias + (layer.bias_gate @ lam) * layer.response_bias


@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_formula(bias: bool) -> None:
    layer, x = make(bias), torch.randn(N, IN, dtype=torch.float64)
    each = torch.randn(N, H, dtype=torch.float64)
    for given, rows in ((each[0], each[:1].expand(N, H)), (each, each)):
        want = torch.stack([formula(layer, a, lam) for a, lam in zip(x, rows, strict=True)])
        torch.testing.assert_close(layer(x, given), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("rows", [True, False])
def test_derivatives(rows: bool) -> None:
    layer = make()
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, lam: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, lam))

    x, lam = (torch.randn(N, width, dtype=torch.float64, requires_grad=True) for width in (IN, H))
    lam = lam if rows else lam[0].detach().requires_grad_()
    inputs = (x, lam, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_a_model_answers_until_it_is_told_otherwise() -> None:
    model = tnn.Sequential(tnn.Linear(IN, 5), tnn.ReLU(), tnn.Sequential(tnn.Linear(5, OUT, bias=False)))
    x, own = torch.randn(N, IN), dict(model.named_parameters())
    plain = model(x)
    assert make_self_tuning_(model, H) is model
    found = dict(model.named_parameters())
    assert all(found[name] is value for name, value in own.items())
    assert len(found) == 3 * 2 + 3
    assert torch.equal(model(x), plain)
    respond_to(model, torch.ones(H))
    assert not torch.equal(model(x), plain)
    respond_to(model, torch.zeros(H))
    torch.testing.assert_close(model(x), plain)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"hyper must have shape \[H\] = \[2\] or \[N, H\] = \[7, 2\], got \[3\]"):
        make()(torch.zeros(N, IN).double(), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \[6, 2\]"):
        make()(torch.zeros(N, IN).double(), torch.zeros(6, 2))
    assert repr(make(False)) == "SelfTuningLinear(4, 3, num_hyper=2, bias=False)"

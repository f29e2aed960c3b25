"""SelfTuningLinear: a linear map that answers to hyperparameters, the layer of self-tuning networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter


class SelfTuningLinear(nn.Module):
    r"""A linear map whose weights are an affine function of hyperparameters.

    .. math:: W(\lambda) = W_0 + \mathrm{diag}(V \lambda) \, W_1, \quad b(\lambda) = b_0 + (C \lambda) \circ b_1

    The approximation of the best response of a layer to what it is trained with. Source: MacKay, Vicol, Lorraine,
    Duvenaud and Grosse, Self-tuning networks: bilevel optimization of hyperparameters using structured best-response
    functions, ICLR 2019, equation 7.

    Args:
        in_features: F.
        out_features: M.
        num_hyper: H.
        bias: whether there is a b.

    Parameters: ``weight`` [M, F] and ``bias`` [M], which are W_0 and b_0; ``response_weight`` [M, F] and
    ``response_bias`` [M], W_1 and b_1; ``gate`` [M, H] and ``bias_gate`` [M, H], V and C.

    Shapes: x [*, F]. hyper [H] is that of the call, for which W(lambda) is made; [N, H] is that of each row of x
    [N, F], where it is two products and a gate of each row: x W_0^T + (x W_1^T) o (lambda V^T). None takes the
    attribute ``hyper``, which :func:`respond_to` sets in all layers of a model; where it is None too lambda is 0.
    Output [*, M].

    Raises:
        ValueError: hyper does not fit.
    """

    hyper: Tensor | None = None

    def __init__(self, in_features: int, out_features: int, num_hyper: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.num_hyper = in_features, out_features, num_hyper
        for name in ("weight", "response_weight"):
            setattr(self, name, Parameter(torch.empty(out_features, in_features)))
        for name in ("bias", "response_bias"):
            setattr(self, name, Parameter(torch.empty(out_features)) if bias else None)
        self.gate = Parameter(torch.empty(out_features, num_hyper))
        self.bias_gate = Parameter(torch.empty(out_features, num_hyper)) if bias else None
        self.reset_parameters()

    weight: Tensor
    response_weight: Tensor
    bias: Tensor | None
    response_bias: Tensor | None

    @classmethod
    def of(cls, linear: nn.Linear, num_hyper: int) -> SelfTuningLinear:
        """A map whose W_0 and b_0 are the very parameters of ``linear``."""
        new = cls(linear.in_features, linear.out_features, num_hyper, linear.bias is not None)
        new.to(linear.weight)
        new.weight = linear.weight
        new.bias = linear.bias
        return new

    def reset_parameters(self) -> None:
        """Draw the parameters anew: maps as in the released code, uniformly; gates from N(0, 0.01^2)."""
        bound = 1 / math.sqrt(self.in_features)
        for value in (self.weight, self.response_weight, self.bias, self.response_bias):
            if value is not None:
                nn.init.uniform_(value, -bound, bound)
        for value in (self.gate, self.bias_gate):
            if value is not None:
                nn.init.normal_(value, std=0.01)

    def forward(self, x: Tensor, hyper: Tensor | None = None) -> Tensor:
        """W x + b."""
        hyper = self.hyper if hyper is None else hyper
        if hyper is None:
            return F.linear(x, self.weight, self.bias)
        rows = [self.num_hyper] if hyper.dim() == 1 else [*x.shape[:-1], self.num_hyper]
        if hyper.dim() not in (1, 2) or list(hyper.shape) != rows:
            wanted = f"[H] = [{self.num_hyper}] or [N, H] = {[*x.shape[:-1], self.num_hyper]}"
            raise ValueError(f"SelfTuningLinear: hyper must have shape {wanted}, got {list(hyper.shape)}")
        hyper = hyper.to(x.dtype)
        gate, shift = F.linear(hyper, self.gate), self._shift(hyper)
        if hyper.dim() == 1:
            weight = torch.addcmul(self.weight, gate.unsqueeze(1), self.response_weight)
            return F.linear(x, weight, shift)
        out = torch.addcmul(F.linear(x, self.weight), F.linear(x, self.response_weight), gate)
        return out if shift is None else out + shift

    def _shift(self, hyper: Tensor) -> Tensor | None:
        """b(lambda)."""
        if self.bias is None or self.response_bias is None or self.bias_gate is None:
            return None
        return torch.addcmul(self.bias, F.linear(hyper, self.bias_gate), self.response_bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, num_hyper={self.num_hyper}, bias={self.bias is not None}"


def make_self_tuning_(model: nn.Module, num_hyper: int) -> nn.Module:
    """Replace every ``nn.Linear`` in the model by a :class:`SelfTuningLinear` with its parameters, in place."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, SelfTuningLinear.of(child, num_hyper))
        else:
            make_self_tuning_(child, num_hyper)
    return model


def respond_to(model: nn.Module, hyper: Tensor | None) -> None:
    """Let all layers of the model answer to ``hyper`` [H], until the next call."""
    for module in model.modules():
        if isinstance(module, SelfTuningLinear):
            module.hyper = hyper

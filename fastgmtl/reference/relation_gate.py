"""Gates over tasks and a softmax over relations in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "elu": F.elu}


def relation_gate(
    z: Tensor,
    logits: Tensor,
    weight: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """``act(sum over r of a_{v,r,s} m_{v,r,s} + residual_{v,s})``; see :func:`fastgmtl.ops.relation_gate`."""
    _, mixed, share = gates(z, logits, weight, mask)
    out = torch.einsum("nrs,nrsd->nsd", share, mixed)
    if residual is not None:
        out = out + residual
    return ACTIVATIONS[activation](out).to(z.dtype)


def gates(z: Tensor, logits: Tensor, weight: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gates [N, R, T, S], what they mix [N, R, S, d], shares of the relations [N, R, S]; in float32 at least."""
    gate = _wide(logits).softmax(2)
    mixed = torch.einsum("nrts,nrtd->nrsd", gate, _wide(z))
    score = mixed.new_zeros(mixed.shape[:3]) if weight is None else torch.einsum("nrsd,sd->nrs", mixed, _wide(weight))
    if mask is None:
        return gate, mixed, score.softmax(1)
    # A finite number instead of -inf: without relations the softmax is still a number, with a gradient, times 0.
    here = mask.unsqueeze(2)
    share = score.masked_fill(~here, torch.finfo(score.dtype).min).softmax(1)
    return gate, mixed, torch.where(here, share, 0)


def relation_gate_backward(
    u: Tensor, z: Tensor, logits: Tensor, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, logits and weight (of size 0 without one) for ``u`` [N, S, d], that of the sum over r."""
    gate, mixed, share = gates(z, logits, weight, mask)
    u, z_wide = _wide(u), _wide(z)
    along = torch.einsum("nsd,nrsd->nrs", u, mixed)
    d_score = share * (along - (share * along).sum(1, keepdim=True))
    d_mixed = torch.einsum("nrs,nsd->nrsd", share, u)
    d_weight = u.new_empty(0)
    if weight is not None:
        d_mixed = d_mixed + torch.einsum("nrs,sd->nrsd", d_score, _wide(weight))
        d_weight = torch.einsum("nrs,nrsd->sd", d_score, mixed)
    d_z = torch.einsum("nrts,nrsd->nrtd", gate, d_mixed)
    d_gate = torch.einsum("nrsd,nrtd->nrts", d_mixed, z_wide)
    d_logits = gate * (d_gate - (gate * d_gate).sum(2, keepdim=True))
    return d_z.to(z.dtype), d_logits.to(z.dtype), d_weight.to(z.dtype)


def _wide(value: Tensor) -> Tensor:
    """Half precision in float32, the type in which kernels accumulate."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value

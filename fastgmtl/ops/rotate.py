"""rotate: gradients turned away from going against a target's."""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from torch import Tensor

from fastgmtl.ops.combine import combine
from fastgmtl.ops.gram import gram
from fastgmtl.ops.project import target_row
from fastgmtl.reference.gram import Gradients

# The sine below which two gradients are opposite, as far as their products in float64 can tell.
_OPPOSITE = 1e-7


def rotation(products: Tensor, amount: Tensor | float, target: int = 0) -> Tensor:
    """Coefficients [T, T] (row i those of the new g_i) of :func:`rotate`, from the Gram matrix [T, T]."""
    row = target_row("rotate", target, products.size(-1))
    _check_amount(amount, products.size(-1))
    norm = products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    size = norm * norm[..., row].unsqueeze(-1)
    against = products[..., row] < 0
    # Where there is nothing to do the angle is 90 degrees: a safe place for derivatives.
    cosine = torch.where(against, products[..., row] / torch.where(against, size, 1), 0).clamp(min=-1)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    opposite = sine < _OPPOSITE
    safe = torch.where(opposite, 0, cosine)
    angle = safe.acos()
    turn = (angle - pi / 2) * amount
    own = torch.where(opposite, 1 - torch.as_tensor(amount).to(products), (angle - turn).sin() / angle.sin())
    ratio = norm / torch.where(against, norm[..., row].unsqueeze(-1), 1)
    other = torch.where(against & ~opposite, ratio * turn.sin() / angle.sin(), 0)
    identity = torch.eye(products.size(-1), dtype=products.dtype, device=products.device)
    own = torch.where(identity[row] > 0, 1, own)
    return own.unsqueeze(-1) * identity + other.unsqueeze(-1) * identity[row]


def _check_amount(amount: Any, tasks: int) -> None:
    if not isinstance(amount, Tensor):
        if not isinstance(amount, int | float):
            raise TypeError(f"rotate: amount must be a number or a tensor [T], got {type(amount).__name__}")
    elif not amount.is_floating_point():
        raise TypeError(f"rotate: amount must be a number or a floating point tensor [T], got {amount.dtype}")
    elif amount.dim() and amount.shape[-1:] != (tasks,):
        raise ValueError(f"rotate: amount must be a number or have shape [T] = [{tasks}], got {list(amount.shape)}")


def rotate(grads: Gradients, amount: Tensor | float, target: int = 0) -> Any:
    r"""Turn the gradients that go against the target's towards it, within the plane of both, keeping their norms.

    .. math::
        g_i' = \|g_i\| \left( \cos(\theta_i - \varphi_i) \, u + \sin(\theta_i - \varphi_i) \, v_i \right), \qquad
        \varphi_i = a_i \max(0, \theta_i - \pi / 2)

    where u is the direction of the target's gradient, theta the angle to it and v the direction of g_i across u. With
    an amount a of 1 the result stands on u, with 0 it is g_i. Opposite gradients span no plane: they are scaled by
    ``1 - a``.

    Args:
        grads: as in :func:`fastgmtl.ops.gram`.
        amount: a in [0, 1], a number or [T] (the target's entry is not used).
        target: t, the row of the target, which stays as it is.

    Returns:
        T gradients in the form of ``grads``: T lists of N tensors or None, N tensors [T, ...], or [T, P]. A composition
        of gram and combine, differentiable in gradients and amount where no two gradients are opposite.

    Raises:
        IndexError: there is no such target.
        TypeError, ValueError: amount is neither a number nor [T]. What :func:`fastgmtl.ops.gram` raises.
    """
    return combine(grads, rotation(gram(grads), amount, target))

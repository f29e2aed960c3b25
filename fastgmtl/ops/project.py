"""project: gradients without what goes against a target's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.ops.combine import combine
from fastgmtl.ops.gram import gram
from fastgmtl.reference.gram import Gradients


def target_row(op: str, target: int, tasks: int) -> int:
    """The row of the target, from 0; IndexError for one that is not there."""
    if not -tasks <= target < tasks:
        raise IndexError(f"{op}: target must be one of {tasks} tasks, got {target}")
    return target % tasks


def projection(products: Tensor, target: int = 0) -> Tensor:
    """Coefficients [T, T] (row i those of the new g_i) of :func:`project`, from the Gram matrix [T, T]."""
    row = target_row("project", target, products.size(-1))
    along, square = products[..., row], products[..., row, row].unsqueeze(-1)
    back = torch.where(square > 0, -along.clamp(max=0) / torch.where(square > 0, square, 1), 0)
    identity = torch.eye(products.size(-1), dtype=products.dtype, device=products.device)
    return identity + back.unsqueeze(-1) * identity[row]


def project(grads: Gradients, target: int = 0) -> Any:
    r"""Project the gradients that go against the target's onto its normal plane (Yu et al. 2020, for one target).

    .. math:: g_i' = g_i - \min(0, \langle g_i, g_t \rangle) \, / \, \|g_t\|^2 \; g_t

    Args:
        grads: as in :func:`fastgmtl.ops.gram`.
        target: t, the row of the target, which stays as it is.

    Returns:
        T gradients in the form of ``grads``: T lists of N tensors or None, N tensors [T, ...], or [T, P]. None of them
        goes against the target's. A composition of gram and combine, differentiable to any order.

    Raises:
        IndexError: there is no such target. What :func:`fastgmtl.ops.gram` raises.
    """
    return combine(grads, projection(gram(grads), target))

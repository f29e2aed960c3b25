"""Exact active-set methods on a Gram matrix in plain PyTorch: bounds from below, and the simplex (csrc/common)."""

from __future__ import annotations

import torch
from torch import Tensor

PIVOT, ROUNDING = 1e-12, 1e-15


def _factor(matrix: Tensor) -> Tensor | None:
    """Cholesky factor; None where a pivot is rounding, because a row depends on the others."""
    found, info = torch.linalg.cholesky_ex(matrix)
    small = found.diagonal().square() <= PIVOT * matrix.diagonal()
    return None if int(info) or bool(small.any()) else found


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)


def _go(x: Tensor, z: Tensor, free: list[int]) -> int | None:
    """Move the free entries of x towards z, up to the first that gets to 0, which is returned; None at z itself."""
    first = None
    step = 1.0
    for place, target in zip(free, z.tolist(), strict=True):
        if target <= 0:
            here = float(x[place])
            part = here / (here - target) if here > 0 else 0.0
            if first is None or part < step:
                first, step = place, part
    x[free] = z if first is None else x[free] + step * (z - x[free])
    if first is not None:
        x[first] = 0
    return first


def above(gram: Tensor, lower: Tensor) -> Tensor:
    """``argmin over v >= lower of v^T G v`` (Lawson and Hanson 1974, chapter 23, for v - lower)."""
    count, norm = gram.size(0), gram.diagonal().clamp(min=0).sqrt()
    x, free, blocked = torch.zeros_like(lower), list[int](), set[int]()
    for _ in range(20 * count):
        v = lower + x
        slope = (-(gram @ v) / (norm * (v.abs() @ norm))).nan_to_num(0, 0, 0)
        slope[[*free, *blocked]] = 0
        best = int(slope.argmax())
        if not slope[best] > ROUNDING * count:
            break
        free.append(best)
        while True:
            factor = _factor(gram[free][:, free])
            if factor is None:
                free.remove(best)
                blocked.add(best)
                x[best] = 0
                break
            first = _go(x, _solve(factor, -(gram @ lower)[free]), free)
            if first is None:
                blocked.clear()
                break
            free.remove(first)
            if first == best:
                blocked.add(best)
                break
    return lower + x


def simplex(gram: Tensor, linear: Tensor | None = None, factor_of_norm: float = 0.0) -> tuple[Tensor, float]:
    """``argmin over the simplex of b^T x + k |J^T x|`` (without b: of ``|J^T x|``), and the norm at it."""
    count, norm = gram.size(0), gram.diagonal().clamp(min=0).sqrt()
    k, b = factor_of_norm, torch.zeros_like(norm) if linear is None else linear
    if not norm.any():
        return torch.full_like(norm, 1 / count), 0.0
    tau = norm[norm > 0].min() ** 2
    best = int((norm if linear is None else b + k * norm).argmin())
    x, free, blocked = torch.zeros_like(norm), [best], set[int]()
    x[best] = 1
    for _ in range(20 * count):
        along = gram @ x
        square, size = float((x @ along).clamp(min=0)), float(x @ norm)
        if square <= ROUNDING * count * size**2:
            return x, 0.0
        scale = 1.0 if linear is None else k / square**0.5
        fall = b @ x - b + scale * (square - along)
        share = fall / (b.abs() + (b @ x).abs() + scale * (norm + size) * size)
        share[[*free, *blocked]] = 0
        best = int(share.argmax())
        if not share[best] > ROUNDING * count:
            return x, square**0.5
        free.append(best)
        while True:
            factor = _factor(gram[free][:, free] + tau)
            if factor is None:
                free.remove(best)
                blocked.add(best)
                x[best] = 0
                x /= x.sum()
                break
            ones, mixed = _solve(factor, torch.ones_like(b[free])), _solve(factor, b[free])
            z = ones / ones.sum()
            direction = z * mixed.sum() - mixed
            room = k**2 - float(b[free] @ mixed - mixed.sum() ** 2 / ones.sum())
            if linear is None or room > ROUNDING * count * (k**2 + float((b[free] @ mixed).abs())):
                least = float((1 / ones.sum() - tau).clamp(min=0))
                first = _go(x, z if linear is None else z + (least / room) ** 0.5 * direction, free)
            else:
                # Ever down along the direction: a point on it beyond every bound.
                first = _go(x, x[free] + direction * (2 / -direction.min()), free)
            if first is None:
                blocked.clear()
                break
            free.remove(first)
            if first == best:
                blocked.add(best)
                break
    return x, float((x @ gram @ x).clamp(min=0)) ** 0.5

"""The T x T problems of gradient aggregators in plain PyTorch, for one Gram matrix in float64."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from fastgmtl.reference.active_set import PIVOT, ROUNDING, above, simplex


def pcgrad(gram: Tensor, order: Tensor) -> Tensor:
    """Yu et al. 2020, algorithm 1."""
    rows = []
    for i in range(gram.size(0)):
        c = torch.eye(gram.size(0), dtype=gram.dtype)[i]
        for j in order[i].tolist():
            product = c @ gram[j]
            if j != i and product < 0 < gram[j, j]:
                c[j] -= product / gram[j, j]
        rows.append(c)
    return torch.stack(rows).sum(0)


def gradvac(gram: Tensor, order: Tensor, rate: float, state: Tensor) -> Tensor:
    """Wang et al. 2021, algorithm 1; ``state`` is updated in place."""
    norm, rows = gram.diagonal().clamp(min=0).sqrt(), []
    for i in range(gram.size(0)):
        c = torch.eye(gram.size(0), dtype=gram.dtype)[i]
        for j in order[i].tolist():
            if j == i:
                continue
            own, goal = (c @ gram @ c).clamp(min=0).sqrt(), state[i, j].clone()
            size = own * norm[j]
            cosine = (c @ gram[j] / size).clamp(-1, 1) if size != 0 else torch.zeros_like(size)
            room = (1 - goal**2).clamp(min=0).sqrt()
            if cosine < goal and norm[j] * room > 0:
                c[j] += own * (goal * (1 - cosine**2).sqrt() - cosine * room) / (norm[j] * room)
            if cosine.isfinite():
                state[i, j] = (1 - rate) * goal + rate * cosine
        rows.append(c)
    return torch.stack(rows).sum(0)


def cagrad(gram: Tensor, preference: Tensor, c: float) -> Tensor:
    """Liu et al. 2021, equation 5."""
    k = c * float((preference @ gram @ preference).clamp(min=0)) ** 0.5
    if not k > 0:
        return preference.clone()
    x, norm = simplex(gram, gram @ preference, k)
    return preference + k * x / norm if norm > 0 else preference.clone()


def upgrad(gram: Tensor, preference: Tensor) -> Tensor:
    """Quinton and Rey 2024, equation 7."""
    return torch.stack([above(gram, lower) for lower in preference.diag()]).sum(0)


def _scaled_inverse(gram: Tensor, right: Tensor) -> Tensor:
    """``D^-1 C^+ right``, where ``D = diag(n)`` and ``C = D^-1 G D^-1``."""
    norm = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norm > 0, 1 / norm, 0)
    values, vectors = torch.linalg.eigh(inverse.unsqueeze(1) * gram * inverse)
    keep = values > PIVOT * len(values) * values.max()
    parts = vectors[:, keep].T @ (right * (norm > 0)) / values[keep]
    return inverse * (vectors[:, keep] @ parts)


def imtlg(gram: Tensor, guard: bool) -> Tensor:
    """Liu et al. 2021, equation 6."""
    v = _scaled_inverse(gram, torch.ones_like(gram[0]))
    total = v.sum().abs() if guard else v.sum()
    return v / total if total.abs() > ROUNDING * len(v) * v.abs().sum() else torch.zeros_like(v)


def config(gram: Tensor, preference: Tensor) -> Tensor:
    """Liu et al. 2024, equation 5."""
    v = _scaled_inverse(gram, preference)
    size, square = v.abs() @ gram.diagonal().clamp(min=0).sqrt(), v @ gram @ v
    return v * (gram @ v).sum() / square if square > ROUNDING * len(v) * size**2 else torch.zeros_like(v)


def aligned(gram: Tensor, preference: Tensor, mode: int) -> Tensor:
    """Senushkin et al. 2023, algorithm 1."""
    values, vectors = torch.linalg.eigh(gram)
    keep = values > ROUNDING * len(values) * values.max()
    if not keep.any():
        return torch.zeros_like(preference)
    values, vectors = values[keep], vectors[:, keep]
    scale = (values[0], values[(len(values) - 1) // 2], values.mean())[mode]
    return vectors @ ((scale / values).sqrt() * (vectors.T @ preference))


def fair(gram: Tensor, a: float) -> Tensor:
    """``G w = w^-a`` by damped Newton steps, in coordinates where the diagonal of G is 1."""
    there = gram.diagonal() > 0
    weights = torch.zeros_like(gram[0])
    if not there.any():
        return weights
    gram = gram[there][:, there]
    scale = gram.diagonal().max()
    norm = (gram.diagonal() / scale).sqrt()
    unit, h = gram / scale / norm / norm.unsqueeze(1), norm ** (a - 1)

    def merit(y: Tensor) -> Tensor:
        power = y.log() if a == 1 else y ** (1 - a) / (1 - a)
        return 0.5 * y @ unit @ y - h @ power

    y = h ** (1 / (1 + a))
    for _ in range(200):
        pull, push = h * y ** (1 - a), y * (unit @ y)
        if ((pull - push).abs() / (pull + push.abs())).max() < ROUNDING * (len(y) + 4):
            break
        factor = _maybe(y * unit * y.unsqueeze(1) + torch.diag(a * pull))
        if factor is None:
            break
        s = torch.cholesky_solve((pull - push).unsqueeze(1), factor).squeeze(1)
        before, decrement, down = merit(y), float(s @ (pull - push)), float((-s).max())
        step = 0.9 / down if down > 0.9 else 1.0
        for _ in range(40):
            new = y * (1 + step * s)
            if merit(new) <= before - 1e-4 * step * decrement or decrement < 1e-7 * (1 + before.abs()):
                break
            step /= 2
        y = new
        if decrement < 1e-26 or y.max() > 1e9:
            break
    weights[there] = y / norm * scale ** (-1 / (1 + a))
    return weights


def _maybe(matrix: Tensor) -> Tensor | None:
    found, info = torch.linalg.cholesky_ex(matrix)
    return None if int(info) else found


def nash(gram: Tensor, most: float) -> Tensor:
    """``G w = 1 / w``, of a norm of at most ``most`` (0: any)."""
    w = fair(gram, 1)
    square = float(w @ gram @ w)
    return w * (most / square**0.5) if most > 0 and square > most**2 else w


def rcgrad(gram: Tensor, omega: Tensor, target: int) -> Tensor:
    """Auxiliary gradients, scaled and projected onto the normal plane of the target's."""
    norm = gram.diagonal().clamp(min=0).sqrt()
    share = (torch.where(norm > norm[target], norm[target] / norm, 1) + omega) / 2
    against = (share * gram[target].clamp(max=0)).sum()
    share[target] = 1 - against / gram[target, target] if gram[target, target] > 0 else 1
    return share


def rotated(gram: Tensor, omega: Tensor, target: int) -> Tensor:
    """Auxiliary gradients, those against the target turned by a share of what their angles have above 90 degrees."""
    norm, weights = gram.diagonal().clamp(min=0).sqrt(), torch.ones_like(omega)
    for i in range(len(omega)):
        if i != target and gram[i, target] < 0:
            angle = (gram[i, target] / (norm[i] * norm[target])).clamp(min=-1).acos()
            turn = (angle - pi / 2) * omega[i]
            weights[i] = (angle - turn).sin() / angle.sin() if angle.sin() > 1e-7 else 1 - omega[i]
            weights[target] += norm[i] / norm[target] * turn.sin() / angle.sin() if angle.sin() > 1e-7 else 0
    return weights


def solve(
    gram: Tensor, method: str, preference: Tensor | None, order: Tensor | None, parameter: float, state: Tensor | None
) -> Tensor:
    """Weights [T] of one Gram matrix; ``state`` is updated in place."""
    count = gram.size(0)
    p = torch.full((count,), 1 / count, dtype=gram.dtype) if preference is None else preference
    order = torch.arange(count).expand(count, count) if order is None else order
    if method == "gradvac":
        assert state is not None
        return gradvac(gram, order, parameter, state)
    ones = torch.ones_like(p) if preference is None else preference
    return {
        "pcgrad": lambda: pcgrad(gram, order),
        "mgda": lambda: simplex(gram)[0],
        "cagrad": lambda: cagrad(gram, p, parameter),
        "upgrad": lambda: upgrad(gram, p),
        "dualproj": lambda: above(gram, p),
        "imtlg": lambda: imtlg(gram, bool(parameter)),
        "nashmtl": lambda: nash(gram, parameter),
        "fairgrad": lambda: fair(gram, 1 / parameter),
        "alignedmtl": lambda: aligned(gram, p, int(parameter)),
        "config": lambda: config(gram, ones),
        "rcgrad": lambda: rcgrad(gram, ones, int(parameter)),
        "rotated": lambda: rotated(gram, ones, int(parameter)),
    }[method]()


def task_weights(
    gram: Tensor,
    method: str,
    preference: Tensor | None = None,
    order: Tensor | None = None,
    parameter: float = 0.0,
    state: Tensor | None = None,
) -> Tensor:
    """``w = f(G)``; see :func:`fastgmtl.ops.task_weights.task_weights`."""
    # T x T numbers and as many decisions: on the CPU wherever the tensors are.
    small, p, rows, memory = (None if v is None else v.cpu() for v in (gram, preference, order, state))
    assert small is not None
    problems = small.double().reshape(-1, *small.shape[-2:])
    states = [None] * len(problems) if memory is None else list(memory.reshape(problems.shape).unbind())
    p = None if p is None else p.double()
    found = [solve(g, method, p, rows, parameter, s) for g, s in zip(problems, states, strict=True)]
    if state is not None and memory is not None:
        state.copy_(memory)
    out = torch.stack(found) if found else problems.new_zeros(0, small.size(-1))
    return out.reshape(gram.shape[:-1]).to(gram.device)

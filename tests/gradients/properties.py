"""What an aggregator may promise, each as the largest violation over many Jacobians: 0 up to rounding, or not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import generator
from matrices import agreeing, draws, full_rank, low_rank, not_stationary, weakly_stationary
from torch import Tensor

# A(J, seed): the update of a fresh aggregator, its draws from the seed.
Update = Callable[[Tensor, int], Tensor]


def _norm(matrix: Tensor) -> Tensor:
    return matrix.norm(dim=1)


def _off(got: Tensor, want: Tensor) -> float:
    """Relative difference of two updates."""
    return float((got - want).norm() / (got.norm() + want.norm() + 1e-300))


def _factors(seed: str, tasks: int) -> Tensor:
    return 10 ** (torch.rand(tasks, 1, generator=generator(seed), dtype=torch.float64) - 0.5)


def _conflict(update: Update, matrices: list[Tensor], least: int) -> float:
    worst = 0.0
    for k, j in enumerate(matrices):
        d = update(j, k)
        # Against the norms of the gradients: where d is nearly 0 its products are rounding.
        size = _norm(j) * (d.norm() + 1e-3 * _norm(j).max())
        worst = max(worst, float((-(j @ d) / size.clamp(min=1e-300)).max()))
    return worst


def non_conflicting(update: Update, least: int) -> float:
    """No task gets worse, for Jacobians of full rank."""
    return _conflict(update, list(draws(full_rank, least)), least)


def non_conflicting_any_rank(update: Update, least: int) -> float:
    """No task gets worse, for Jacobians of lower rank."""
    return _conflict(update, list(draws(low_rank, least)), least)


def permutation_invariant(update: Update, least: int) -> float:
    """The order of the tasks does not matter."""
    worst = 0.0
    for k, j in enumerate(draws(full_rank, least)):
        order = torch.randperm(len(j), generator=generator(f"permutation-{k}"))
        worst = max(worst, _off(update(j[order], k), update(j, k)))
    return worst


def linear_under_scaling(update: Update, least: int) -> float:
    """``c -> A(diag(c) J)`` is linear for positive c."""
    worst = 0.0
    for k, j in enumerate(draws(full_rank, least)):
        a, b = _factors(f"a-{k}", len(j)), _factors(f"b-{k}", len(j))
        worst = max(worst, _off(update((2 * a + 3 * b) * j, k), 2 * update(a * j, k) + 3 * update(b * j, k)))
    return worst


def strongly_stationary_zeros(update: Update, least: int) -> float:
    """``A(J) = 0`` for no J but strongly stationary ones."""
    matrices = [*draws(weakly_stationary, least), *draws(not_stationary, least)]
    return max(float(update(j, k).norm() < 1e-6 * _norm(j).max()) for k, j in enumerate(matrices))


def homogeneous(degree: float) -> Callable[[Update, int], float]:
    """``A(s J) = s^degree A(J)``, for s from 1e-15 to 1e15."""

    def found(update: Update, least: int) -> float:
        worst = 0.0
        for k, j in enumerate(draws(full_rank, least)):
            want = update(j, k)
            for s in (1e-15, 1e-6, 1e6, 1e15):
                worst = max(worst, _off(update(s * j, k) / s**degree, want))
        return worst

    return found


def gram_only(update: Update, least: int) -> float:
    """``A(J Q) = A(J) Q`` for orthogonal Q."""
    worst = 0.0
    for k, j in enumerate(draws(full_rank, least)):
        size = j.size(1)
        q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator(f"q-{k}"), dtype=torch.float64))
        worst = max(worst, _off(update(j @ q, k), update(j, k) @ q))
    return worst


def scale_invariant_direction(update: Update, least: int) -> float:
    """``A(diag(c) J)`` is parallel to ``A(J)`` for positive c."""
    worst = 0.0
    for k, j in enumerate(draws(full_rank, least)):
        d, e = update(j, k), update(_factors(f"direction-{k}", len(j)) * j, k)
        worst = max(worst, float((d / d.norm() - e / e.norm()).norm()))
    return worst


def agreement(update: Update, least: int) -> float:
    """Where no two gradients go against each other it is their sum or their mean."""
    worst = 0.0
    for k, j in enumerate(draws(agreeing, least)):
        d = update(j, k)
        worst = max(worst, min(_off(d, j.sum(0)), _off(d, j.mean(0))))
    return worst


def equal_angles(update: Update, least: int) -> float:
    """The update has one cosine with all gradients."""
    worst = 0.0
    for k, j in enumerate(draws(full_rank, least)):
        d = update(j, k)
        cosine = j @ d / (_norm(j) * d.norm())
        worst = max(worst, float(cosine.max() - cosine.min()))
    return worst


def duplicate_invariant(update: Update, least: int) -> float:
    """A gradient that is there twice counts once."""
    return max(_off(update(torch.cat([j, j[:1]]), k), update(j, k)) for k, j in enumerate(draws(full_rank, least)))


def _excess(update: Update, least: int, of: Callable[[Tensor], Tensor]) -> float:
    matrices = [*draws(full_rank, least), *draws(agreeing, least)]
    return max(float(update(j, k).norm() / of(_norm(j))) - 1 for k, j in enumerate(matrices))


def shorter_than_all(update: Update, least: int) -> float:
    """The update is no longer than the shortest gradient."""
    return _excess(update, least, torch.min)


def shorter_than_one(update: Update, least: int) -> float:
    """The update is no longer than the longest gradient."""
    return _excess(update, least, torch.max)


def target_safe(update: Update, least: int) -> float:
    """``<g_0, d>`` is at least ``|g_0|^2``: the first task is not slowed down."""
    worst = 0.0
    for k, j in enumerate([*draws(full_rank, least), *draws(low_rank, least)]):
        worst = max(worst, float(1 - update(j, k) @ j[0] / j[0].square().sum()))
    return worst


PROPERTIES = {
    "P2": non_conflicting,
    "P2 any rank": non_conflicting_any_rank,
    "P3": permutation_invariant,
    "P4": linear_under_scaling,
    "P5": strongly_stationary_zeros,
    "P7": homogeneous(1),
    "P8": gram_only,
    "P9": scale_invariant_direction,
    "P10": agreement,
    "P11": equal_angles,
    "P12": duplicate_invariant,
    "P13 min": shorter_than_all,
    "P13 max": shorter_than_one,
    "P14": target_safe,
}

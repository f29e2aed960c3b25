"""Jacobians [T, P] in float64: of full and lower rank, stationary in each sense and not at all; all from seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from cases import generator
from torch import Tensor

SIZES = ((2, 5), (3, 7), (4, 10), (6, 20), (8, 40))
DRAWS = 6


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _norms(g: torch.Generator, tasks: int) -> Tensor:
    """[T, 1], from a tenth to ten."""
    return 10 ** (2 * torch.rand(tasks, 1, generator=g, dtype=torch.float64) - 1)


def full_rank(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """Correlated rows of unequal norms."""
    common = _normal(g, 1, size) * _normal(g, 1, 1)
    return _norms(g, tasks) * (_normal(g, tasks, size) + 0.7 * common)


def low_rank(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """Of rank between 1 and T - 1."""
    rank = int(torch.randint(1, tasks, (), generator=g))
    return _norms(g, tasks) * (_normal(g, tasks, rank) @ _normal(g, rank, size))


def strongly_stationary(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """``v^T J = 0`` for a v of positive entries."""
    v = torch.rand(tasks, generator=g, dtype=torch.float64) + 0.2
    v /= v.norm()
    rows = _normal(g, tasks, size)
    return rows - v.unsqueeze(1) * (v @ rows)


def weakly_stationary(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """``v^T J = 0`` for a v of no negative entries, but for none whose entries are all positive: the last column is
    positive in the rows in which v is 0, and 0 in the others."""
    some = max(2, tasks - 1)
    rows = torch.cat([strongly_stationary(g, some, size - 1), torch.zeros(some, 1, dtype=torch.float64)], 1)
    if some == tasks:  # two tasks: one has no gradient
        rows[0], rows[1] = 0, _normal(g, size)
        return rows
    return torch.cat([rows, torch.cat([_normal(g, 1, size - 1), torch.ones(1, 1, dtype=torch.float64)], 1)])


def not_stationary(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """``J u > 0`` for a u: there is a direction that all tasks want."""
    rows = _normal(g, tasks, size)
    rows[:, 0] = rows[:, 0].abs() + 0.1
    return rows


def agreeing(g: torch.Generator, tasks: int, size: int) -> Tensor:
    """No two rows go against each other."""
    return _norms(g, tasks) * _normal(g, tasks, size).abs()


Sampler = Callable[[torch.Generator, int, int], Tensor]


def draws(sampler: Sampler, least: int = 2) -> Iterator[Tensor]:
    """Several of every size with at least ``least`` tasks."""
    g = generator(sampler.__name__)
    for tasks, size in SIZES:
        for _ in range(DRAWS):
            found = sampler(g, tasks, size)
            if tasks >= least:
                yield found

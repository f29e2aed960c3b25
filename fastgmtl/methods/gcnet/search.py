r"""The graph without cycles between labels that their mechanisms, fitted anew for every set of parents, prefer.

A greedy search, which adds, takes out or turns round the edge that gains the most of

.. math:: \sum_t \Bigl( \log L_t(\hat w_t) - \tfrac12 |pa(t)| \log n_t \Bigr)

(Schwarz 1978), L_t the likelihood of the n_t known labels t by their mechanism: logistic regression of a label, least
squares of a number, on the features and the parents' values. Candidates are proposed by the score test (Rao 1948), for
all labels in a few matrix products; the proposal is fitted before it is taken. An edge whose ends say the same of one
another either way is told from its reverse by the features: in one of the ways they act linearly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 25  # of Newton's method, at most
RIDGE = 1e-6  # of a sum over samples
TRIED = 16  # of the best proposals of an edge more

_Parents = tuple[int, ...]


@dataclass(frozen=True)
class _Fit:
    """Of a label, given parents: coefficients, log-likelihood less the cost, inverse Hessian, residuals, weights."""

    coefficients: Tensor
    value: float
    inverse: Tensor
    residual: Tensor
    weight: Tensor


class Mechanisms:
    """Regressions of T labels y [N, T] (NaN: missing; ``numbers`` [T]) on features x [N, F] and on each other.

    A missing parent counts as what the features alone say of it.
    """

    def __init__(self, x: Tensor, y: Tensor, numbers: Tensor) -> None:
        self.x = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
        self.y, self.numbers = y.double(), numbers.tolist()
        self.known = [(~column.isnan()).nonzero()[:, 0] for column in y.t()]
        self._fits: dict[tuple[int, _Parents], _Fit] = {}
        # Before the values of parents are there, labels are fitted without any.
        self.value = torch.zeros_like(self.y)
        for t in range(y.shape[1]):
            f = self.x @ self.fit(t, ()).coefficients
            seen = self.y[:, t] if self.numbers[t] else 2 * self.y[:, t] - 1
            self.value[:, t] = torch.where(seen.isnan(), f if self.numbers[t] else (f / 2).tanh(), seen)

    def fit(self, t: int, parents: _Parents) -> _Fit:
        """The mechanism of t, kept."""
        if (t, parents) not in self._fits:
            self._fits[t, parents] = self._newton(t, parents)
        return self._fits[t, parents]

    def gains(self, t: int, parents: _Parents) -> Tensor:
        """What each label would gain as a parent besides, [T], by the score test."""
        fit, rows = self.fit(t, parents), self.known[t]
        z, v = self._inputs(t, parents), self.value[rows]
        weighted = v * fit.weight[:, None]
        cross = z.t() @ weighted
        variance = (v * weighted).sum(0) - (cross * (fit.inverse @ cross)).sum(0)
        score = v.t() @ fit.residual
        return score.square() / (2 * variance.clamp(min=1e-9 * len(rows) + 1e-12)) - _cost(len(rows))

    def _inputs(self, t: int, parents: _Parents) -> Tensor:
        rows = self.known[t]
        return torch.cat((self.x[rows], self.value[rows][:, list(parents)]), 1) if parents else self.x[rows]

    def _newton(self, t: int, parents: _Parents) -> _Fit:
        z, y = self._inputs(t, parents), self.y[self.known[t], t]
        ridge = RIDGE * max(1, len(y)) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        w = z.new_zeros(z.shape[1])
        price = len(parents) * _cost(len(y))
        if self.numbers[t]:
            inverse = torch.linalg.inv(z.t() @ z + ridge)
            w = inverse @ (z.t() @ y)
            residual = y - z @ w
            variance = residual.square().mean().clamp(min=1e-12) if len(y) else z.new_ones(())
            value = -0.5 * len(y) * float(variance.log() + 1)
            weight = torch.ones_like(y) / variance
            return _Fit(w, value - price, inverse * variance, residual / variance, weight)
        best = -math.inf
        for _ in range(STEPS):
            p = (z @ w).sigmoid()
            inverse = torch.linalg.inv((z * (p * (1 - p))[:, None]).t() @ z + ridge)
            step = inverse @ (z.t() @ (y - p) - ridge.diagonal() * w)
            # Half as far until it is no worse: labels that the features separate have no maximum.
            while (value := self._likelihood(z, y, w + step, ridge)) < best and step.abs().max() > 1e-9:
                step = step / 2
            w, gained, best = w + step, value - best, value
            if gained < 1e-9 * max(1.0, abs(best)):
                break
        p = (z @ w).sigmoid()
        return _Fit(w, best - price, inverse, y - p, p * (1 - p))

    @staticmethod
    def _likelihood(z: Tensor, y: Tensor, w: Tensor, ridge: Tensor) -> float:
        f = z @ w
        return float((y * f - F.softplus(f)).sum() - (ridge.diagonal() * w.square()).sum() / 2)


def _cost(samples: int) -> float:
    return 0.5 * math.log(max(2, samples))


class Found(NamedTuple):
    """A graph between T labels.

    gain [T, T], row the cause: what an edge gains given the others, positive for those of the graph; of the reverse of
    one of those what turning it round gains; -inf where only a cycle is possible. The mechanisms: weight [T, F] and
    bias [T] of the features, coupling [T, T] of the parents.
    """

    gain: Tensor
    weight: Tensor
    bias: Tensor
    coupling: Tensor


def search(x: Tensor, y: Tensor, numbers: Tensor) -> Found:
    """The graph of labels y [N, T] (NaN: missing) that are of features x [N, F], on their device."""
    mechanisms, count = Mechanisms(x, y, numbers), y.shape[1]
    parents: list[_Parents] = [()] * count
    gain = torch.stack([mechanisms.gains(t, ()) for t in range(count)], 1).fill_diagonal_(-math.inf).cpu()
    while True:
        tried = [(_gained(mechanisms, parents, move), move) for move in _moves(gain, parents)]
        best, changed = max(tried, key=lambda item: item[0], default=(0.0, {}))
        if best <= 1e-6:
            break
        for t, new in changed.items():
            parents[t] = new
            gain[:, t] = _gains(mechanisms, t, new)
    fits = torch.stack([_spread(mechanisms, t, of_t) for t, of_t in enumerate(parents)]).to(y.dtype)
    weight, bias, coupling = fits.split((x.shape[1], 1, count), 1)
    return Found(_with_turns(gain, parents, mechanisms).to(y.device, y.dtype), weight, bias[:, 0], coupling.t())


def _spread(mechanisms: Mechanisms, t: int, parents: _Parents) -> Tensor:
    """Coefficients of a mechanism, those of all labels in the place of those of the parents."""
    found, width = mechanisms.fit(t, parents).coefficients, mechanisms.x.shape[1]
    whole = torch.cat((found[:width], found.new_zeros(mechanisms.y.shape[1])))
    whole[[width + s for s in parents]] = found[width:]
    return whole


def _gained(mechanisms: Mechanisms, parents: list[_Parents], move: dict[int, _Parents]) -> float:
    """By new parents of some labels, all fitted."""
    return sum(mechanisms.fit(t, new).value - mechanisms.fit(t, parents[t]).value for t, new in move.items())


def _gains(mechanisms: Mechanisms, t: int, parents: _Parents) -> Tensor:
    """Of each label as a parent of t: what it would gain, or what would be lost without it."""
    gain = mechanisms.gains(t, parents).cpu()
    for s in parents:
        without = tuple(p for p in parents if p != s)
        gain[s] = mechanisms.fit(t, parents).value - mechanisms.fit(t, without).value
    gain[t] = -math.inf
    return gain


def _moves(gain: Tensor, parents: list[_Parents]) -> list[dict[int, _Parents]]:
    """New parents of one label or two: an edge less, one turned round, or one of the best TRIED more.

    What tells the directions of an edge apart is small beside what the edge gains: turns are not left to the proposals.
    """
    reach, moves = _reach(parents), []
    for t, of_t in enumerate(parents):
        for s in of_t:
            without = tuple(p for p in of_t if p != s)
            moves.append({t: without})
            moves.extend(_turn(parents, s, t))
    for place in gain.masked_fill(reach.t(), -math.inf).flatten().argsort(descending=True).tolist():
        s, t = divmod(place, len(parents))
        if len(moves) >= TRIED + 2 * sum(map(len, parents)) or not gain[s, t] > 0 or bool(reach[t, s]):
            break
        if s not in parents[t]:
            moves.append({t: tuple(sorted((*parents[t], s)))})
    return moves


def _turn(parents: list[_Parents], s: int, t: int) -> list[dict[int, _Parents]]:
    """The move that makes s -> t to t -> s; none where that closes a cycle."""
    without = tuple(p for p in parents[t] if p != s)
    cycle = bool(_reach([without if k == t else p for k, p in enumerate(parents)])[s, t])
    return [] if cycle else [{t: without, s: tuple(sorted((*parents[s], t)))}]


def _with_turns(gain: Tensor, parents: list[_Parents], mechanisms: Mechanisms) -> Tensor:
    """The gains; of an edge that would close a cycle what is gained by it instead of its reverse, or nothing."""
    reach = _reach(parents)
    gain = gain.masked_fill(reach.t(), -math.inf)
    for t, of_t in enumerate(parents):
        for s in of_t:
            for move in _turn(parents, s, t):
                gain[t, s] = _gained(mechanisms, parents, move)
    return gain


def _reach(parents: list[_Parents]) -> Tensor:
    """Whether there is a path from row to column, bool [T, T]."""
    reach = torch.eye(len(parents), dtype=torch.float32)
    step = reach.clone()
    for t, of_t in enumerate(parents):
        step[list(of_t), t] = 1
    for _ in range(max(1, len(parents).bit_length())):
        step = (step @ step).clamp(max=1)
    return step > 0

"""The mechanism of each variable, fitted on features and on its parents, and what one parent more gains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgmtl.methods.gcnet.variables import Variables

STEPS = 25  # of Newton's method, at most
RIDGE = 1e-6  # of a sum over samples

Parents = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """Of one variable with q logits, given parents: coefficients [Z, q] of inputs, log-likelihood less the cost,
    inverse Hessian [Z q, Z q], and of the samples residuals [n, q] and weights [n, q, q].
    """

    coefficients: Tensor
    value: float
    inverse: Tensor
    residual: Tensor
    weight: Tensor


class Regressions:
    """Of T variables y [N, K] (NaN: missing) on features x [N, F] and on each other.

    Logistic of labels, multinomial of classes (the last of which has the logit 0), least squares of numbers. A missing
    parent counts as what the features alone say of it.
    """

    def __init__(self, x: Tensor, y: Tensor, variables: Variables) -> None:
        self.x = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
        self.y, self.variables = y.double(), variables
        known = variables.known(y)
        self.known = [column.nonzero()[:, 0] for column in known.t()]
        self.numbers = (~variables.discrete).tolist()
        # Of the columns of classes the last one says nothing that the others do not.
        sizes = variables.size[variables.first].tolist()
        self.columns = [
            list(range(first, first + max(1, size - 1)))
            for first, size in zip(variables.first.tolist(), sizes, strict=True)
        ]
        self._fits: dict[tuple[int, Parents], Fit] = {}
        # The newest coefficients of every input: other parents change them little, and Newton begins there.
        width = self.x.shape[1] + variables.width
        self._newest = [self.x.new_zeros(width, len(columns)) for columns in self.columns]
        # Before the values of parents are there, variables are fitted without any.
        logits = torch.zeros_like(self.y)
        for t, columns in enumerate(self.columns):
            logits[:, columns] = self.x @ self.fit(t, ()).coefficients
        value = variables.values(self.y)
        self.value = torch.where(value.isnan(), variables.guesses(logits), value)

    def fit(self, t: int, parents: Parents) -> Fit:
        """The mechanism of t, kept."""
        if (t, parents) not in self._fits:
            self._fits[t, parents] = self._least_squares(t, parents) if self.numbers[t] else self._newton(t, parents)
        return self._fits[t, parents]

    def gains(self, t: int, parents: Parents) -> Tensor:
        """What each variable would gain as a parent besides, [T], by the score test (Rao 1948)."""
        fit, rows, z = self.fit(t, parents), self.known[t], self._inputs(t, parents)
        wide = [s for s in range(self.variables.count) if fit.residual.shape[1] > 1 or len(self.columns[s]) > 1]
        found = z.new_full((self.variables.count,), -math.inf)
        if len(wide) < len(found):  # of one coefficient each, all at once
            v, residual, weight = self.value[rows][:, self.variables.first], fit.residual[:, 0], fit.weight[:, 0]
            weighted = v * weight
            cross = z.t() @ weighted
            variance = (v * weighted).sum(0) - (cross * (fit.inverse @ cross)).sum(0)
            score = v.t() @ residual
            found = score.square() / (2 * variance.clamp(min=1e-9 * len(rows) + 1e-12)) - _cost(len(rows))
        for s in wide:
            found[s] = self._gain(t, s, fit, z)
        return found

    def _gain(self, t: int, s: int, fit: Fit, z: Tensor) -> Tensor:
        v = self.value[self.known[t]][:, self.columns[s]]
        score = (v.t() @ fit.residual).flatten()
        own, cross = _information(v, v, fit.weight), _information(z, v, fit.weight)
        left = own - cross.t() @ fit.inverse @ cross
        left.diagonal().add_(1e-9 * len(v) + 1e-12)
        return score @ torch.linalg.solve(left, score) / 2 - len(score) * _cost(len(v))

    def _inputs(self, t: int, parents: Parents) -> Tensor:
        rows, columns = self.known[t], self._columns(parents)
        return torch.cat((self.x[rows], self.value[rows][:, columns]), 1) if columns else self.x[rows]

    def _columns(self, parents: Parents) -> list[int]:
        return [column for p in parents for column in self.columns[p]]

    def _price(self, t: int, parents: Parents) -> float:
        return sum(len(self.columns[p]) for p in parents) * len(self.columns[t]) * _cost(len(self.known[t]))

    def _least_squares(self, t: int, parents: Parents) -> Fit:
        z, y = self._inputs(t, parents), self.y[self.known[t]][:, self.columns[t]]
        ridge = RIDGE * max(1, len(y)) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        inverse = torch.linalg.inv(z.t() @ z + ridge)
        w = inverse @ (z.t() @ y)
        residual = y - z @ w
        variance = residual.square().mean().clamp(min=1e-12) if len(y) else z.new_ones(())
        value = -0.5 * len(y) * float(variance.log() + 1) - self._price(t, parents)
        weight = torch.ones_like(y)[:, :, None] / variance
        return Fit(w, value, inverse * variance, residual / variance, weight)

    def _newton(self, t: int, parents: Parents) -> Fit:
        z, y = self._inputs(t, parents), self.y[self.known[t]][:, self.columns[t]]
        ridge = RIDGE * max(1, len(y))
        width = self.x.shape[1]
        places = [*range(width), *(width + column for column in self._columns(parents))]
        w = self._newest[t][places]
        best = _likelihood(z, y, w, ridge)
        for _ in range(STEPS):
            p, weight = _moments(z @ w)
            inverse = _inverse(_information(z, z, weight), ridge)
            step = (inverse @ (z.t() @ (y - p) - ridge * w).flatten()).view_as(w)
            # Half as far until it is no worse: labels that the features separate have no maximum.
            while (value := _likelihood(z, y, w + step, ridge)) < best and step.abs().max() > 1e-9:
                step = step / 2
            w, gained, best = w + step, value - best, value
            if gained < 1e-9 * max(1.0, abs(best)):
                break
        self._newest[t][places] = w
        p, weight = _moments(z @ w)
        return Fit(w, best - self._price(t, parents), inverse, y - p, weight)


def _moments(f: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, q] of logits f [n, q] beside one of 0, and their covariances [n, q, q]."""
    p = torch.cat((f, torch.zeros_like(f[:, :1])), 1).softmax(1)[:, :-1]
    return p, torch.diag_embed(p) - p[:, :, None] * p[:, None]


def _likelihood(z: Tensor, y: Tensor, w: Tensor, ridge: float) -> float:
    f = z @ w
    top = torch.cat((f, torch.zeros_like(f[:, :1])), 1).logsumexp(1)
    return float((y * f).sum() - top.sum() - ridge * w.square().sum() / 2)


def _information(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Sums over samples of a_i b_j W_kl: [A q, B q] of a [n, A], b [n, B] and W [n, q, q]."""
    many = weight.shape[1]
    rows = [torch.stack([a.t() @ (b * weight[:, k, m, None]) for m in range(many)], 2) for k in range(many)]
    return torch.stack(rows, 1).reshape(a.shape[1] * many, b.shape[1] * many)


def _inverse(matrix: Tensor, ridge: float) -> Tensor:
    return torch.linalg.inv(matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))


def _cost(samples: int) -> float:
    return 0.5 * math.log(max(2, samples))

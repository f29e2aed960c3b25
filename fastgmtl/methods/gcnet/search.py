r"""The graph without cycles between labels that their mechanisms, fitted anew for every set of parents, prefer.

A greedy search, which adds, takes out or turns round the edge that gains the most of

.. math:: \sum_t \Bigl( \log L_t(\hat w_t) - \tfrac12 |w_t| \log n_t \Bigr)

(Schwarz 1978), L_t the likelihood of the n_t known variables t by their mechanism and |w_t| the number of coefficients
of its parents: logistic regression of a label, multinomial of classes, least squares of a number, on the features and
the parents' values. Candidates are proposed by the score test, for all labels in a few matrix products; the proposal is
fitted before it is taken. An edge whose ends say the same of one another either way is told from its reverse by the
features: in one of the ways they act linearly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastgmtl.methods.gcnet.regressions import Parents, Regressions
from fastgmtl.methods.gcnet.variables import Variables

TRIED = 16  # of the best proposals of an edge more


class Found(NamedTuple):
    """A graph between T variables of K columns.

    gain [T, T], row the cause: what an edge gains given the others, positive for those of the graph; of the reverse of
    one of those what turning it round gains; -inf where only a cycle is possible. The mechanisms: weight [K, F] and
    bias [K] of the features, coupling [K, K] of the parents; those of the last class of any are 0.
    """

    gain: Tensor
    weight: Tensor
    bias: Tensor
    coupling: Tensor


def search(x: Tensor, y: Tensor, variables: Variables) -> Found:
    """The graph of variables y [N, K] (NaN: missing) that are of features x [N, F], on their device."""
    mechanisms, count = Regressions(x, y, variables), variables.count
    parents: list[Parents] = [()] * count
    gain = torch.stack([mechanisms.gains(t, ()) for t in range(count)], 1).fill_diagonal_(-math.inf).cpu()
    while True:
        tried = [(_gained(mechanisms, parents, move), move) for move in _moves(gain, parents)]
        best, changed = max(tried, key=lambda item: item[0], default=(0.0, {}))
        if best <= 1e-6:
            break
        for t, new in changed.items():
            parents[t] = new
            gain[:, t] = _gains(mechanisms, t, new)
    fits = torch.zeros(variables.width, x.shape[1] + 1 + variables.width, dtype=torch.float64, device=y.device)
    for t, of_t in enumerate(parents):
        _spread(mechanisms, t, of_t, fits)
    weight, bias, coupling = fits.to(y.dtype).split((x.shape[1], 1, variables.width), 1)
    return Found(_with_turns(gain, parents, mechanisms).to(y.device, y.dtype), weight, bias[:, 0], coupling.t())


def _spread(mechanisms: Regressions, t: int, parents: Parents, fits: Tensor) -> None:
    """Coefficients of the mechanism of t into its rows of fits [K, F + 1 + K], each in the column of what it is of."""
    found, width = mechanisms.fit(t, parents).coefficients, mechanisms.x.shape[1]
    places = [width + column for p in parents for column in mechanisms.columns[p]]
    for row, values in zip(mechanisms.columns[t], found.t(), strict=True):
        fits[row, :width], fits[row, places] = values[:width], values[width:]


def _gained(mechanisms: Regressions, parents: list[Parents], move: dict[int, Parents]) -> float:
    """By new parents of some labels, all fitted."""
    return sum(mechanisms.fit(t, new).value - mechanisms.fit(t, parents[t]).value for t, new in move.items())


def _gains(mechanisms: Regressions, t: int, parents: Parents) -> Tensor:
    """Of each label as a parent of t: what it would gain, or what would be lost without it."""
    gain = mechanisms.gains(t, parents).cpu()
    for s in parents:
        without = tuple(p for p in parents if p != s)
        gain[s] = mechanisms.fit(t, parents).value - mechanisms.fit(t, without).value
    gain[t] = -math.inf
    return gain


def _moves(gain: Tensor, parents: list[Parents]) -> list[dict[int, Parents]]:
    """New parents of one label or two: an edge less, one turned round, or one of the best TRIED more.

    What tells the directions of an edge apart is small beside what the edge gains: turns are not left to the proposals.
    """
    reach, moves = _reach(parents), []
    for t, of_t in enumerate(parents):
        for s in of_t:
            without = tuple(p for p in of_t if p != s)
            moves.append({t: without})
            moves.extend(_turn(parents, reach, s, t))
    for place in gain.masked_fill(reach.t(), -math.inf).flatten().argsort(descending=True).tolist():
        s, t = divmod(place, len(parents))
        if len(moves) >= TRIED + 2 * sum(map(len, parents)) or not gain[s, t] > 0 or bool(reach[t, s]):
            break
        if s not in parents[t]:
            moves.append({t: tuple(sorted((*parents[t], s)))})
    return moves


def _turn(parents: list[Parents], reach: Tensor, s: int, t: int) -> list[dict[int, Parents]]:
    """The move that makes s -> t to t -> s; none where that closes a cycle."""
    without = tuple(p for p in parents[t] if p != s)
    return [] if any(bool(reach[s, p]) for p in without) else [{t: without, s: tuple(sorted((*parents[s], t)))}]


def _with_turns(gain: Tensor, parents: list[Parents], mechanisms: Regressions) -> Tensor:
    """The gains; of an edge that would close a cycle what is gained by it instead of its reverse, or nothing."""
    reach = _reach(parents)
    gain = gain.masked_fill(reach.t(), -math.inf)
    for t, of_t in enumerate(parents):
        for s in of_t:
            for move in _turn(parents, reach, s, t):
                gain[t, s] = _gained(mechanisms, parents, move)
    return gain


def _reach(parents: list[Parents]) -> Tensor:
    """Whether there is a path from row to column, bool [T, T]."""
    reach = torch.eye(len(parents), dtype=torch.float32)
    step = reach.clone()
    for t, of_t in enumerate(parents):
        step[list(of_t), t] = 1
    for _ in range(max(1, len(parents).bit_length())):
        step = (step @ step).clamp(max=1)
    return step > 0

"""Pairs of nodes that are no edge, for link tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NegativeSampler:
    """Draws pairs of nodes of one graph that no edge joins.

    keys int64 [K]: sorted ``a * num_nodes + b`` of every known edge in both directions, of every split.
    ptr int64 [G + 1]: nodes ``ptr[g] .. ptr[g + 1] - 1`` are graph g; a pair never crosses graphs.
    """

    keys: Tensor
    ptr: Tensor
    num_nodes: int

    ROUNDS = 30

    def draw(self, positives: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One negative per positive pair of [2, P], uniform in that pair's graph: int64 [2, at most P].

        A pair whose graph gives no non-edge in ROUNDS tries (a complete graph) has no negative and is left out.
        """
        where = torch.searchsorted(self.ptr, positives[0].contiguous(), right=True) - 1
        low, size = self.ptr[where], self.ptr[where + 1] - self.ptr[where]
        pairs = torch.stack((low, low))
        open_ = torch.arange(positives.shape[1], device=positives.device)
        for _ in range(self.ROUNDS):
            if not open_.numel():
                return pairs
            start, width = low[open_], size[open_]
            drawn = start + (self._uniform(2, open_.numel(), generator) * width).long()
            pairs[:, open_] = drawn
            open_ = open_[(drawn[0] == drawn[1]) | self._known(drawn)]
        keep = torch.ones(pairs.shape[1], dtype=torch.bool, device=pairs.device)
        keep[open_] = False
        return pairs[:, keep]

    def to(self, device: torch.device | str) -> NegativeSampler:
        return NegativeSampler(self.keys.to(device), self.ptr.to(device), self.num_nodes)

    def _uniform(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """Numbers in [0, 1), drawn where the generator lives: a CPU generator gives the same ones on any device."""
        device = self.keys.device if generator is None else generator.device
        drawn = torch.rand(rows, columns, generator=generator, device=device, dtype=torch.float64)
        return drawn.to(self.keys.device)

    def _known(self, pairs: Tensor) -> Tensor:
        if not self.keys.numel():
            return torch.zeros(pairs.shape[1], dtype=torch.bool, device=pairs.device)
        key = pairs[0] * self.num_nodes + pairs[1]
        place = torch.searchsorted(self.keys, key).clamp(max=self.keys.numel() - 1)
        return self.keys[place] == key

"""Aggregators that decide for every parameter by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgmtl.gradients.base import Aggregator
from fastgmtl.ops.rows import Matrix, parse


class GradDrop(Aggregator):
    r"""Keeps, for every parameter, the gradients of one sign (Chen et al. 2020, algorithm 1).

    .. math:: P = \tfrac12 \left( 1 + \frac{\sum_i g_i}{\sum_i |g_i|} \right), \qquad
        d = \sum_i \left( l_i + (1 - l_i) [f(P) > U][g_i > 0] + (1 - l_i) [f(P) < U][g_i < 0] \right) g_i

    with U uniform in [0, 1). Not a function of the Gram matrix.

    Args:
        f: a monotone map of [0, 1] onto itself, on tensors; None for the identity.
        leak: l in [0, 1], [T], the share of a gradient that is always kept; None for 0.
        generator: of the draws, on the device of the gradients; None for PyTorch's own.
    """

    leak: Tensor | None

    def __init__(
        self,
        f: Callable[[Tensor], Tensor] | None = None,
        leak: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if leak is not None and leak.dim() != 1:
            raise ValueError(f"GradDrop: leak must have shape [T], got {list(leak.shape)}")
        self.f, self.generator = f, generator
        self.register_buffer("leak", leak, persistent=False)

    def forward(self, grads: Any) -> Any:
        """The update."""
        rows = parse("GradDrop", grads)
        rows.explain("GradDrop")
        if self.leak is not None and len(self.leak) != rows.tasks:
            raise ValueError(f"GradDrop: leak is for {len(self.leak)} tasks, there are {rows.tasks}")
        with torch.no_grad():
            found = [self._one(self._column(rows, n), like) for n, like in enumerate(rows.like())]
        return found[0] if isinstance(grads, Tensor) else rows.spread(found)

    @staticmethod
    def _column(rows: Matrix, place: int) -> list[Tensor | None]:
        if rows.stacked:
            tensor = rows.tensors[place]
            assert tensor is not None
            return list(tensor.unbind())
        return list(rows.tensors[place :: len(rows.tensors) // rows.tasks])

    def _one(self, column: list[Tensor | None], like: Tensor) -> Tensor:
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        up: Any = 0
        down: Any = 0
        kept: Any = 0
        total: Any = 0
        size: Any = 0
        for i, g in enumerate(column):
            if g is None:
                continue
            g, leak = g.to(wide), 0.0 if self.leak is None else self.leak[i]
            total, size, kept = total + g, size + g.abs(), kept + leak * g
            up, down = up + (1 - leak) * g.clamp(min=0), down + (1 - leak) * g.clamp(max=0)
        positive = 0.5 * (1 + total / torch.where(size > 0, size, 1))
        if self.f is not None:
            positive = self.f(positive)
        draw = torch.rand(total.shape, generator=self.generator, device=total.device, dtype=wide)
        return (kept + torch.where(positive > draw, up, torch.where(positive < draw, down, 0))).to(like.dtype)

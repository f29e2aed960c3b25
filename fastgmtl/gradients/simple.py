"""Aggregators with weights that are given, drawn or chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.gradients.base import GramAggregator, check_range


class Mean(GramAggregator):
    """``w = 1 / T``: the gradient of the mean loss."""

    def _weights(self, gram: Tensor) -> Tensor:
        return torch.full_like(gram[..., 0], 1 / gram.size(-1))


class Sum(GramAggregator):
    """``w = 1``: the gradient of the sum of the losses."""

    def _weights(self, gram: Tensor) -> Tensor:
        return torch.ones_like(gram[..., 0])


class Constant(GramAggregator):
    """Given weights [T]."""

    given: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        if weights.dim() != 1 or not weights.is_floating_point():
            raise ValueError(f"Constant: weights must be a floating point tensor [T], got {list(weights.shape)}")
        self.register_buffer("given", weights.detach())

    def _weights(self, gram: Tensor) -> Tensor:
        if len(self.given) != gram.size(-1):
            raise ValueError(f"Constant: there are {len(self.given)} weights for {gram.size(-1)} tasks")
        return self.given.to(gram).expand(gram.shape[:-1])


class Random(GramAggregator):
    """``w = softmax(z)``, z normal (random loss weighting, Lin et al. 2022).

    Args:
        generator: of the draws, on the device of the gradients; None for PyTorch's own.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.generator = generator

    def _weights(self, gram: Tensor) -> Tensor:
        size = gram.shape[:-1]
        return torch.randn(size, generator=self.generator, device=gram.device, dtype=gram.dtype).softmax(-1)


class Krum(GramAggregator):
    r"""Multi-Krum (Blanchard et al. 2017): the mean of the m gradients closest to their neighbours.

    The score of a gradient is the sum of its distances to the ``T - f - 2`` others that are closest to it.

    Args:
        n_byzantine: f, the number of gradients that may be anything; T must be at least f + 3.
        n_selected: m.
        squared: sum squared distances, as the paper does; TorchJD sums distances.
    """

    def __init__(self, n_byzantine: int, n_selected: int = 1, squared: bool = False) -> None:
        super().__init__()
        self.n_byzantine = int(check_range("Krum", "n_byzantine", n_byzantine, 0))
        self.n_selected = int(check_range("Krum", "n_selected", n_selected, 1))
        self.squared = squared

    def _weights(self, gram: Tensor) -> Tensor:
        tasks, least = gram.size(-1), max(self.n_byzantine + 3, self.n_selected)
        if tasks < least:
            raise ValueError(f"Krum: there must be at least {least} tasks, got {tasks}")
        square = gram.diagonal(dim1=-2, dim2=-1)
        distance = (square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * gram).clamp(min=0)
        if not self.squared:
            distance = distance.sqrt()
        nearest = distance.topk(tasks - self.n_byzantine - 1, largest=False).values
        chosen = nearest[..., 1:].sum(-1).topk(self.n_selected, largest=False).indices
        return torch.zeros_like(square).scatter(-1, chosen, 1 / self.n_selected)

    def extra_repr(self) -> str:
        """The options."""
        return f"n_byzantine={self.n_byzantine}, n_selected={self.n_selected}"

"""What an aggregator is: T gradients in, one update out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl import ops
from fastgmtl.ops.rows import parse


class Aggregator(nn.Module):
    """Makes one update of the gradients of T tasks.

    ``aggregator(grads)`` takes what :func:`fastgmtl.ops.gram` takes (a tensor [T, P]; T lists of N tensors or None; N
    tensors [T, ...]) and returns it without the task axis, in the gradients' dtypes, without a graph.
    """

    def forward(self, grads: Any) -> Any:
        """The update."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget what was learned or counted in earlier calls."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Buffers get their size with the first gradients: a fresh object takes the size of what it loads.
        for name, value in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if value is None and saved is not None:
                self._buffers[name] = torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return ""


class GramAggregator(Aggregator):
    """An aggregator whose update is ``J^T w`` with weights ``w = f(G)`` of the Gram matrix ``G = J J^T``.

    ``per_tensor``: every tensor is a group of its own, unless groups are given.
    """

    per_tensor = False

    def weights(self, gram: Tensor) -> Tensor:
        """Weights [T] of the gradients whose inner products are ``gram`` [T, T] ([K, T] for K groups [K, T, T]), in its
        dtype and on its device; nothing waits for that device."""
        with torch.no_grad():
            return self._weights(check_gram(type(self).__name__, gram)).to(gram.dtype)

    def _weights(self, gram: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, grads: Any, groups: Sequence[int] | None = None) -> Any:
        """The update; with ``groups`` (see :func:`fastgmtl.ops.gram`) every group is a problem of its own."""
        with torch.no_grad():
            if groups is None and self.per_tensor:
                groups = range(parse(type(self).__name__, grads).places)
            gram = ops.gram(grads, groups)
            return ops.combine(grads, self._weights(gram), groups=groups)


def update_norm(weights: Tensor, gram: Tensor) -> Tensor:
    """``|J^T w| = sqrt(w^T G w)``, [] ([K] for K groups)."""
    along = (weights.unsqueeze(-2) @ gram).squeeze(-2)
    return (along * weights).sum(-1).clamp(min=0).sqrt()


def check_gram(name: str, gram: Any) -> Tensor:
    """TypeError or ValueError unless ``gram`` is a square matrix of floating point numbers, or several."""
    if not isinstance(gram, Tensor) or not gram.is_floating_point():
        what = gram.dtype if isinstance(gram, Tensor) else type(gram).__name__
        raise TypeError(f"{name}: gram must be a floating point tensor, got {what}")
    if gram.dim() not in (2, 3) or gram.size(-1) != gram.size(-2):
        raise ValueError(f"{name}: gram must have shape [T, T] or [K, T, T], got {list(gram.shape)}")
    return gram.detach().to(torch.float64)


def check_preference(name: str, value: Any) -> Tensor | None:
    """The preference vector; ValueError unless it is None or [T]."""
    if value is not None and (not isinstance(value, Tensor) or value.dim() != 1 or not value.is_floating_point()):
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: pref_vector must be a floating point tensor [T] or None, got {got}")
    return value


def check_range(name: str, option: str, value: float, low: float, high: float = float("inf")) -> float:
    """``value``; ValueError unless it is in [low, high]."""
    if not low <= value <= high:
        bound = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        raise ValueError(f"{name}: {option} must be {bound}, got {value}")
    return value

"""Activation recomputation: less memory for the price of a second forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *args: Any, norms: Iterable[nn.Module] = ()) -> Any:
    """``function(*args)``, of which the backward keeps the arguments only: what is in between is computed again.

    ``torch.utils.checkpoint`` (not reentrant; dropout draws the same numbers again). A batch norm would count what it
    sees a second time: those that the function runs are named in ``norms``, and count once.
    Chen, Xu, Zhang and Guestrin, Training deep nets with sublinear memory cost, 2016.
    """
    again = _Uncounted(norms)
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


class _Uncounted:
    """A context, entered once a backward, in which norms change copies of their running statistics."""

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        self._norms = list(norms)
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self._kept = [dict(norm._buffers) for norm in self._norms]
        for norm, kept in zip(self._norms, self._kept, strict=True):
            norm._buffers.update({name: None if value is None else value.clone() for name, value in kept.items()})

    def __exit__(self, *_: object) -> None:
        for norm, kept in zip(self._norms, self._kept, strict=True):
            norm._buffers.update(kept)

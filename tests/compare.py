"""How results are compared, and how failures in a loop say which case it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

# Relative to the largest entry: what a sum of a few hundred products of numbers near 1 may be off.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}


def close(
    got: Tensor | tuple[Tensor, ...], want: Tensor | tuple[Tensor, ...], dtype: torch.dtype, factor: float = 1.0
) -> None:
    """AssertionError unless equal up to ``TOLERANCE[dtype]``, relative to the largest entry of ``want``."""
    got, want = (v if isinstance(v, tuple | list) else (v,) for v in (got, want))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        if not w.is_floating_point():
            assert torch.equal(g, w)
            continue
        w = w.to(torch.float64)
        scale = max(1.0, float(w.abs().max())) if w.numel() else 1.0
        torch.testing.assert_close(
            g.to(torch.float64), w, rtol=0, atol=factor * TOLERANCE[dtype] * scale, equal_nan=True
        )


@contextlib.contextmanager
def case(*what: object) -> Iterator[None]:
    """Failures of the block say which case of a loop it was."""
    try:
        yield
    except BaseException as error:
        error.add_note("case: " + " ".join(str(w) for w in what))
        raise


def weighted(out: Tensor | tuple[Tensor, ...], phase: float = 0.0) -> Tensor:
    """A scalar with a different factor for every element of ``out``: no two gradients can be swapped unseen."""
    total: Tensor = torch.zeros((), dtype=(out if isinstance(out, Tensor) else out[0]).dtype)
    for o in out if isinstance(out, tuple | list) else (out,):
        factor = torch.arange(1, o.numel() + 1, dtype=torch.float64).add(phase).cos().to(o.dtype)
        total = total + (o * factor.reshape(o.shape)).sum()
        phase += 0.5
    return total

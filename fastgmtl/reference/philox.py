"""Philox 4x32-10 (Salmon et al. 2011) in plain PyTorch: the random numbers of csrc/common/philox.h."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of ``a * b``; int64 would overflow, so ``b`` is multiplied in halves."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    """The four 32-bit numbers, as int64, of the counter (``low`` of 64 bits, ``high`` of 64) and the key ``seed``."""
    c0, c1, c2, c3 = low & _MASK, (low >> 32) & _MASK, high & _MASK, (high >> 32) & _MASK
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _product(0xD2511F53, c0), _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def dropout_mask(seed: Tensor, edges: int, heads: int, chance: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies edge ``e`` (its place in the user's order) and head ``k`` by, [edges, heads].

    0 where component ``k % 4`` of the counter (e, k / 4) is below ``chance * 2^32``, else ``1 / (1 - chance)``.
    """
    edge = torch.arange(edges, device=seed.device).unsqueeze(1)
    quad = torch.arange((heads + 3) // 4, device=seed.device).unsqueeze(0)
    numbers = torch.stack(philox(seed, *torch.broadcast_tensors(edge, quad)), dim=-1).flatten(1)[:, :heads]
    return (numbers >= int(chance * 2**32)).to(dtype) / (1 - chance)

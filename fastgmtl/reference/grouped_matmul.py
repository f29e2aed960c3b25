"""Products of groups of rows with a matrix of each group in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def grouped_matmul(x: Tensor, weight: Tensor, group_ptr: Sequence[int] | Tensor) -> Tensor:
    """``y[m] = x[m] @ weight[g]`` for the rows group_ptr[g] <= m < group_ptr[g + 1]; see ops.grouped_matmul."""
    bounds = group_ptr.tolist() if isinstance(group_ptr, Tensor) else group_ptr
    parts = [x[begin:end] @ matrix for (begin, end), matrix in zip(pairwise(bounds), weight, strict=True)]
    return torch.cat([x.new_empty(0, weight.size(2)), *parts])


def grouped_outer(x: Tensor, y: Tensor, bounds: Sequence[int]) -> Tensor:
    """``w[g] = sum of x[m] y[m]^T`` over the rows of group g: [G, K, N] of x [M, K] and y [M, N]."""
    parts = [x[begin:end].t() @ y[begin:end] for begin, end in pairwise(bounds)]
    return torch.stack(parts) if parts else x.new_empty(0, x.size(1), y.size(1))

"""Layers whose result does not depend on how the rows are divided: batch norm over all rows, dropout by node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.distributed.exchange import all_reduce
from fastgmtl.distributed.part import Part
from fastgmtl.distributed.world import World
from fastgmtl.reference.philox import philox

# Counters of Philox at once: its temporaries stay in the cache.
_TOGETHER = 1 << 14


def row_mask(seed: Tensor, rows: Tensor, columns: int, chance: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies the rows by, [n, columns]: 0 with the given chance, else ``1 / (1 - chance)``.

    Entry (i, c) is component ``c % 4`` of Philox's counter (rows[i], c / 4) with key ``seed`` [], compared with
    ``chance * 2^32``: it depends on the number of the row in the whole, and on nothing else.
    """
    quads = torch.arange((columns + 3) // 4, device=rows.device).unsqueeze(0)
    found = torch.empty(rows.numel(), columns, dtype=dtype, device=rows.device)
    together = max(1, _TOGETHER // max(1, quads.numel()))
    for some, part in zip(rows.split(together), found.split(together), strict=True):
        numbers = torch.stack(philox(seed, *torch.broadcast_tensors(some.unsqueeze(1), quads)), dim=-1)
        keep = numbers.flatten(1)[:, :columns] >= int(chance * 2**32)
        part.copy_(keep).div_(1 - chance)
    return found


class Dropout(nn.Dropout):
    """Dropout of rows of nodes [n, ...] by the nodes' numbers in the whole graph.

    The key of a call is drawn from PyTorch's generator of the CPU, which must be in the same state on all ranks.
    """

    def __init__(self, p: float, part: Part) -> None:
        super().__init__(p)
        self.part = part

    def forward(self, input: Tensor) -> Tensor:
        """The input in eval mode."""
        if not self.training or self.p == 0:
            return input
        seed = torch.randint(2**62, ()).to(input.device)
        mask = row_mask(seed, self.part.nodes, input[0:1].numel() if input.size(0) else 0, self.p, input.dtype)
        return input * mask.view(input.shape)


class BatchNorm1d(nn.BatchNorm1d):
    """Batch norm over the rows [n, F] of all ranks, any of which may have none. Differentiable to any order.

    Mean and variance are summed in float64, so that how the rows are divided does not show.
    """

    def __init__(self, num_features: int, world: World, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.world = world

    def forward(self, input: Tensor) -> Tensor:
        """By the statistics of the rows while training, by the running ones in eval mode."""
        if not self.training and self.track_running_stats:
            return super().forward(input)
        if input.dim() != 2:
            raise ValueError(f"BatchNorm1d: input must have shape [n, F], got {list(input.shape)}")
        count = input.new_full((1,), input.size(0), dtype=torch.float64)
        first = self._total(torch.cat([count, input.sum(0, dtype=torch.float64)]))
        total = first[0].clamp(min=1)
        mean = first[1:] / total
        away = input - mean.to(input.dtype)
        variance = self._total(away.square().sum(0, dtype=torch.float64)) / total
        if self.training and self.track_running_stats:
            self._follow(mean.detach(), variance.detach(), total.detach())
        found = away * (variance + self.eps).rsqrt().to(input.dtype)
        return found if self.weight is None else found * self.weight + self.bias

    def _total(self, value: Tensor) -> Tensor:
        return value if self.world.size == 1 else all_reduce(value, self.world.group)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.double()
        unbiased = variance * total / (total - 1).clamp(min=1)
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_(running.double() * (1 - rate) + rate * now)


def convert(module: nn.Module, part: Part) -> nn.Module:
    """:func:`convert_batch_norm`, and every ``nn.Dropout`` replaced by one whose mask depends on the node."""
    for owner in list(module.modules()):
        for name, child in owner.named_children():
            if type(child) is nn.Dropout:
                setattr(owner, name, Dropout(child.p, part).train(child.training))
    return convert_batch_norm(module, part.world)


def convert_batch_norm(module: nn.Module, world: World) -> nn.Module:
    """The module with every ``nn.BatchNorm1d`` replaced by one over the rows of all ranks.

    Parameters, buffers and their names stay.
    """
    if type(module) is nn.BatchNorm1d:
        return _batch_norm(module, world).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, world))
    return module


def _batch_norm(child: nn.BatchNorm1d, world: World) -> nn.Module:
    options = {"eps": child.eps, "momentum": child.momentum, "affine": False}
    found = BatchNorm1d(child.num_features, world, track_running_stats=child.track_running_stats, **options)
    found.affine = child.affine
    for name, value in (*child._parameters.items(), *child._buffers.items()):
        setattr(found, name, value)
    return found


__all__ = ["BatchNorm1d", "Dropout", "convert", "convert_batch_norm", "row_mask"]

"""concrete in plain PyTorch, and the twin of the operator of :mod:`fastgmtl.ops.concrete`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import seed_tensor, wide
from fastgmtl.reference.edge_energy import softplus
from fastgmtl.reference.philox import philox


def concrete(
    logits: Tensor,
    temperature: float = 1.0,
    explore: float = 0.0,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    dense: bool = False,
) -> Tensor | tuple[Graph, Tensor]:
    """Edges that are there, drawn with the probability sigma(logits); see :func:`fastgmtl.ops.concrete`."""
    seed = seed_tensor(seed, generator, logits.device)
    hard = concrete_sample(None, logits, None, None, None, seed, 0, temperature, explore).detach()
    odds, (src, dst) = _clamped(logits, explore), pairs(len(logits), logits.device)
    soft = ((odds + noise(seed, src, dst, odds.dtype)) / temperature).sigmoid().masked_fill(src == dst, 0)
    there = hard + (soft - soft.detach()).to(logits.dtype)
    if dense:
        return there
    src, dst = hard.t().nonzero().t().flip(0)
    graph = Graph.from_edge_index(torch.stack((src, dst)), len(logits), len(logits))
    return graph, there[src, dst]


def pairs(tasks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Begin and end of all pairs, [T, T] each."""
    task = torch.arange(tasks, device=device)
    return task.unsqueeze(1).expand(tasks, tasks), task.expand(tasks, tasks)


def _clamped(logits: Tensor, explore: float) -> Tensor:
    most = math.log((1 - explore) / explore) if explore > 0 else math.inf
    return wide(logits).clamp(-most, most)


def _numbers(seed: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    """The 32-bit number of each pair, as int64."""
    four = torch.stack(philox(seed, src, dst // 4))
    return four.gather(0, (dst % 4).unsqueeze(0))[0]


def noise(seed: Tensor, src: Tensor, dst: Tensor, dtype: torch.dtype) -> Tensor:
    """Logistic noise of each pair."""
    number = _numbers(seed, src, dst)
    return (2**32 - 1 - number).to(dtype).add(0.5).log() - number.to(dtype).add(0.5).log()


def concrete_sample(
    graph: None,
    logits: Tensor,
    v: Tensor | None,
    src: Tensor | None,
    dst: Tensor | None,
    seed: Tensor,
    order: int,
    temperature: float,
    explore: float,
) -> Tensor:
    """What csrc/contract/concrete.h says."""
    if src is None or dst is None:
        src, dst = pairs(len(logits), logits.device)
    odds = _clamped(logits, explore)
    if order == 0:
        found = (_numbers(seed, src, dst).to(odds.dtype) + 0.5 < odds.sigmoid() * 2**32).to(odds.dtype)
    else:
        assert v is not None
        slope = softplus((odds + noise(seed, src, dst, odds.dtype)) / temperature, order + 1) / temperature**order
        found = torch.where(odds == wide(logits), slope, 0) * wide(v)
    return found.masked_fill(src == dst, 0).to(logits.dtype)

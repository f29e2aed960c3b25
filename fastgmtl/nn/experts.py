"""Experts and gates: which of several layers over one graph a task listens to, for each node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.nn.linear import Linear, check_num_tasks


class SharedBottom(nn.Module):
    """One layer for all tasks: [N, C] of ``layer``, for each of T tasks, as [N, T, C] (a view).

    Source: R. Caruana, Multitask Learning, Machine Learning 28 (1997).
    """

    def __init__(self, layer: nn.Module, num_tasks: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_tasks = _at_least_one("SharedBottom", "num_tasks", num_tasks)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output; further arguments (the graph) are its."""
        out: Tensor = self.layer(x, *args, **kwargs)
        return out.unsqueeze(1).expand(-1, self.num_tasks, -1)


class MMoE(nn.Module):
    r"""Multi-gate mixture of experts: every task mixes the same experts, by a gate of its own that sees the node.

    .. math:: y_{i,t} = \sum_s \mathrm{softmax}_s(W_t x_i)_s \, f_s(x)_i

    The S experts are one layer of this package with ``num_tasks=S``: one pass over the edges serves all of them.
    Source: Ma et al., Modeling task relationships in multi-task learning with multi-gate mixture-of-experts, KDD 2018,
    equations 5 to 7.

    Args:
        layer: maps x [N, F] and further arguments to [N, S, C].
        in_channels: F.
        num_experts: S.
        num_tasks: T.

    Shapes: x [N, F]; output [N, T, C].
    """

    def __init__(self, layer: nn.Module, in_channels: int, num_experts: int, num_tasks: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_experts = _at_least_one("MMoE", "num_experts", num_experts)
        self.gate = Linear(in_channels, num_experts, False, num_tasks=_at_least_one("MMoE", "num_tasks", num_tasks))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y of the formula above; further arguments (the graph) are the layer's."""
        return torch.einsum(
            "nts,nsc->ntc", self.gates(x), _outputs("MMoE", self.layer, self.num_experts, x, args, kwargs)
        )

    def gates(self, x: Tensor) -> Tensor:
        """Softmax over the experts, [N, T, S]."""
        out: Tensor = self.gate(x).softmax(-1)
        return out


class PLE(nn.Module):
    r"""One level of progressive layered extraction (customised gate control): own experts and shared ones.

    A task mixes its own experts and the shared ones; the shared branch mixes all. Experts and gate of a task see the
    task's branch of the level before, shared experts see the shared branch. Levels are stacked; the last one leaves
    out the shared branch. Source: Tang et al., Progressive layered extraction (PLE), RecSys 2020, equations 1 to 6.

    Args:
        layer: all experts as one layer of this package with ``num_tasks=T * own + shared``: maps [N, T own + shared, F]
            and further arguments to [N, T own + shared, C]. Experts of task t are t own ... t own + own - 1.
        in_channels: F.
        num_tasks: T.
        own: experts of each task.
        shared: experts of all tasks.
        last: whether this is the last level.

    Shapes: x [N, F] (the first level) or [N, T + 1, F], the shared branch last; output [N, T + 1, C], or [N, T, C].
    """

    def __init__(
        self, layer: nn.Module, in_channels: int, num_tasks: int, own: int = 1, shared: int = 1, last: bool = False
    ) -> None:
        super().__init__()
        self.layer = layer
        self.num_tasks = _at_least_one("PLE", "num_tasks", num_tasks)
        self.own, self.shared = _at_least_one("PLE", "own", own), _at_least_one("PLE", "shared", shared)
        self.gate = Linear(in_channels, own + shared, False, num_tasks=num_tasks)
        self.shared_gate = None if last else Linear(in_channels, self.num_experts, False)
        branch = torch.arange(num_tasks).repeat_interleave(own)
        self.register_buffer("branch", torch.cat([branch, torch.full((shared,), num_tasks)]), persistent=False)

    branch: Tensor  # which branch each expert sees

    @property
    def num_experts(self) -> int:
        """T own + shared."""
        return self.num_tasks * self.own + self.shared

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The branches after this level; further arguments (the graph) are the layer's."""
        if x.dim() == 2:
            x = x.unsqueeze(1).expand(-1, self.num_tasks + 1, -1)
        if x.dim() != 3 or x.size(1) != self.num_tasks + 1:
            raise ValueError(
                f"PLE: x must have shape [N, F] or [N, T + 1, F] with T = {self.num_tasks}, got {list(x.shape)}"
            )
        given = x[:, self.branch]
        found = _outputs("PLE", self.layer, self.num_experts, given, args, kwargs)
        gate = self.gate(x[:, : self.num_tasks]).softmax(-1)
        private = found[:, : self.num_tasks * self.own].unflatten(1, (self.num_tasks, self.own))
        out = torch.einsum("nto,ntoc->ntc", gate[..., : self.own], private)
        out = out + torch.einsum("nts,nsc->ntc", gate[..., self.own :], found[:, self.num_tasks * self.own :])
        if self.shared_gate is None:
            return out
        mixed = torch.einsum("ns,nsc->nc", self.shared_gate(x[:, -1]).softmax(-1), found)
        return torch.cat([out, mixed.unsqueeze(1)], 1)


def _outputs(owner: str, layer: nn.Module, experts: int, x: Tensor, args: Any, kwargs: Any) -> Tensor:
    out: Tensor = layer(x, *args, **kwargs)
    if out.dim() != 3 or out.size(1) != experts:
        raise ValueError(
            f"{owner}: layer must return [N, S, C] with S = {experts} experts, got {list(out.shape)}; "
            f"give it num_tasks={experts}"
        )
    return out


def _at_least_one(owner: str, name: str, value: int) -> int:
    if check_num_tasks(owner, value) is None:
        raise ValueError(f"{owner}: {name} must be an integer of at least 1, got None")
    return value

"""How tasks share layers: one for all, mixtures of experts with a gate a task, features chosen for each task.

Experts are any layers. A layer with ``num_tasks=E`` is E experts that read the graph once; :class:`Experts` makes them
of E separate modules. Inputs are features x and whatever else the layer takes (edges, a graph).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.nn.linear import Linear
from fastgmtl.ops.relation_gate import relation_gate


class SharedBottom(nn.Module):
    """One layer for all tasks: ``layer(x, ...)`` [N, d] as [N, T, d]. Source: Caruana, Multitask learning, 1997."""

    def __init__(self, layer: nn.Module, num_tasks: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_tasks = _at_least_one("SharedBottom", "num_tasks", num_tasks)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """[N, T, d], the same for every task, without a copy."""
        return self.layer(x, *args).unsqueeze(1).expand(-1, self.num_tasks, -1)


class Experts(nn.ModuleList):
    """E modules beside each other: x [N, F], or [N, E, F] with an input for each, to [N, E, d]."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__(modules)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """The modules' outputs, stacked."""
        return torch.stack([m(x if x.dim() == 2 else x[:, i], *args) for i, m in enumerate(self)], dim=1)


class MMoE(nn.Module):
    r"""A mixture of the same experts for each task.

    .. math:: y_{v,t} = \sum_e \mathrm{softmax}_e(W_t x_v) \, f_e(x)_v

    Source: Ma et al., Modeling task relationships in multi-task learning with multi-gate mixture-of-experts, KDD 2018.

    Args:
        experts: a layer whose output is [N, E, d]: one with ``num_tasks=E``, or :class:`Experts`.
        in_channels: F of the gates' input, which is x.
        num_experts: E.
        num_tasks: T.

    Parameters: those of ``experts``, and ``gate.weight`` [T, E, F].
    Shapes: x [N, F]; output [N, T, d].
    """

    def __init__(self, experts: nn.Module, in_channels: int, num_experts: int, num_tasks: int) -> None:
        super().__init__()
        self.experts = experts
        self.num_experts = _at_least_one("MMoE", "num_experts", num_experts)
        self.num_tasks = _at_least_one("MMoE", "num_tasks", num_tasks)
        self.gate = Linear(in_channels, num_experts, False, num_tasks=num_tasks)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """y of the formula above."""
        outputs = _expert_outputs("MMoE", self.experts(x, *args), self.num_experts)
        return _mixed(outputs, self.gate(x))


class PLE(nn.Module):
    r"""Levels of customised gate control: experts of each task's own and shared ones.

    .. math::
        h^{l,t}_v = \sum_{e \in E_t \cup E_0} \mathrm{softmax}_{e \in E_t \cup E_0}(W^l_t h^{l-1,t}_v)_e \,
        f^l_e(h^{l-1})_v, \quad
        h^{l,0}_v = \sum_e \mathrm{softmax}_e(W^l_0 h^{l-1,0}_v)_e \, f^l_e(h^{l-1})_v

    E_t are the experts of task t, given its state, E_0 the shared ones, given the shared state; h^0 = x. The last level
    has no shared state. Source: Tang et al., Progressive layered extraction (PLE), RecSys 2020.

    Args:
        levels: a layer for each level, whose output is [N, E, d] with E = T * num_specific + num_shared: the experts of
            task 0, then of task 1, and so on, then the shared ones. It is given [N, F] at the first level and [N, E, F]
            above: a layer with ``num_tasks=E``, or :class:`Experts`.
        channels: widths of x and of what each level but the last puts out: one for each level.
        num_tasks: T.
        num_specific: experts of each task.
        num_shared: shared experts.

    Parameters: those of ``levels``, and ``gates.l.weight`` [T + 1, E, F]; of the last level [T, E, F].
    Shapes: x [N, F]; output [N, T, d].
    """

    owner: Tensor
    allowed: Tensor

    def __init__(
        self, levels: Sequence[nn.Module], channels: Sequence[int], num_tasks: int, num_specific: int, num_shared: int
    ) -> None:
        super().__init__()
        if not levels or len(levels) != len(channels):
            raise ValueError(f"PLE: channels must have an entry for each level, got {len(channels)} for {len(levels)}")
        self.num_tasks = _at_least_one("PLE", "num_tasks", num_tasks)
        self.num_specific = _at_least_one("PLE", "num_specific", num_specific)
        self.num_shared = _at_least_one("PLE", "num_shared", num_shared)
        self.num_experts = num_tasks * num_specific + num_shared
        self.levels = nn.ModuleList(levels)
        targets = [num_tasks + 1] * (len(levels) - 1) + [num_tasks]
        self.gates = nn.ModuleList(
            Linear(width, self.num_experts, False, num_tasks=count)
            for width, count in zip(channels, targets, strict=True)
        )
        # Who owns an expert, and which gates may open for it: the owner's, and all for shared ones; the last is shared.
        owner = torch.arange(num_tasks).repeat_interleave(num_specific)
        owner = torch.cat([owner, torch.full((num_shared,), num_tasks)])
        target = torch.arange(num_tasks + 1).unsqueeze(1)
        allowed = (owner == target) | (owner == num_tasks) | (target == num_tasks)
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("allowed", allowed, persistent=False)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """h of the last level."""
        state = x
        for level, gate in zip(self.levels, self.gates, strict=True):
            given = state if state.dim() == 2 else state[:, self.owner]
            outputs = _expert_outputs("PLE", level(given, *args), self.num_experts)
            assert isinstance(gate, Linear) and gate.num_tasks is not None
            logits = gate(state if state.dim() == 2 else state[:, : gate.num_tasks])
            state = _mixed(outputs, logits.masked_fill(~self.allowed[: gate.num_tasks], -torch.inf))
        return state


class MultiSFS(nn.Module):
    """Fields of the features chosen for each task, once, by their influence on its loss at initialisation.

    A field is a group of ``F / num_fields`` neighbouring features. Until :meth:`select` every task has all fields. Its
    saliency for task t is :math:`|dL_t / dm_{t,f}|` for a mask m of ones; each task keeps the largest. Source: the
    multi-task single-shot feature selection of MultiSFS, from its description.

    Args:
        layer: given [N, T, F] it puts out [N, T, d]: a layer with ``num_tasks=T``, or :class:`Experts`.
        num_tasks: T.
        num_fields: how many fields there are; it divides F.

    State: ``mask`` [T, num_fields], part of the state_dict.
    """

    mask: Tensor

    def __init__(self, layer: nn.Module, num_tasks: int, num_fields: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_fields = _at_least_one("MultiSFS", "num_fields", num_fields)
        self.register_buffer("mask", torch.ones(_at_least_one("MultiSFS", "num_tasks", num_tasks), num_fields))

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """The layer's output for x [N, F], of which task t sees its fields only."""
        if x.size(-1) % self.num_fields:
            raise ValueError(f"MultiSFS: num_fields must divide the {x.size(-1)} features, got {self.num_fields}")
        mask = self.mask.to(x.dtype).repeat_interleave(x.size(-1) // self.num_fields, dim=1)
        return self.layer(x.unsqueeze(1) * mask, *args)

    def select(self, losses: Callable[[], Sequence[Tensor]], keep: int) -> Tensor:
        """Keep ``keep`` fields of each task; returns the saliencies [T, num_fields].

        ``losses()`` computes the T losses through this module. Of equal saliencies the first field is kept.
        """
        if not 1 <= keep <= self.num_fields:
            raise ValueError(f"MultiSFS: keep must be in [1, {self.num_fields}], got {keep}")
        self.mask = torch.ones_like(self.mask).requires_grad_()
        with torch.enable_grad():
            found = [torch.autograd.grad(loss, self.mask, retain_graph=True)[0][t] for t, loss in enumerate(losses())]
        saliency = torch.stack(found).abs()
        chosen = saliency.sort(dim=1, descending=True, stable=True).indices[:, :keep]
        self.mask = torch.zeros_like(saliency).scatter_(1, chosen, 1.0)
        return saliency


def _mixed(outputs: Tensor, logits: Tensor) -> Tensor:
    """Experts' outputs [N, E, d] by gates [N, T, E]: [N, T, d]."""
    return relation_gate(outputs.unsqueeze(1), logits.transpose(1, 2).unsqueeze(1))


def _expert_outputs(who: str, value: Tensor, count: int) -> Tensor:
    if value.dim() != 3 or value.size(1) != count:
        raise ValueError(
            f"{who}: experts must put out [N, E, d] with E = {count}, got {list(value.shape)}; give the layer num_tasks"
        )
    return value


def _at_least_one(who: str, name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{who}: {name} must be an integer of at least 1, got {value!r}")
    return value

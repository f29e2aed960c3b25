"""StrucHISLayer: tasks that share what each of them sees along every single relation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from fastgmtl.hetero import HeteroGraph, Relation
from fastgmtl.nn.linear import Linear, check_num_tasks
from fastgmtl.nn.struchis_level import Level, gate_logits, run

Sharing = Literal["relation", "layer", "none"]
Variant = Literal["as_described", "as_released"]


class StrucHISLayer(nn.Module):
    r"""One level of StrucHIS for T tasks: attention along each relation, gates between tasks, attention over relations.

    For task t, node v and relation r into its type, with the weights of v's type,

    .. math::
        z^t_{v,r} &= \sum_{u \in N_r(v)} \alpha^t_{vu} W^t x^t_u, \quad
        \alpha^t_{vu} = \mathrm{softmax}_u \, \mathrm{drop}(\mathrm{leaky}(l^t_{vu})), \quad
        l^t_{vu} = a_l \cdot W^t x^t_v + a_r \cdot W^t x^t_u + a_e \cdot W_e q_r \\
        m^t_{v,r} &= \sum_{t'} \mathrm{softmax}_{t'}(\gamma^t_{v,r,t'}) \, z^{t'}_{v,r}, \quad
        \gamma^t_v = \mathrm{MLP}^t(h^t_v) \\
        h'^t_v &= \mathrm{elu}(\sum_r \mathrm{softmax}_r(w^t \cdot m^t_{v,r}) \, m^t_{v,r} + R^t h^t_v + c^t)

    where x is h after dropout. All tasks run in one pass over the edges of a node type, and all gates of a node in
    another; nothing of the size of edges times features is written.

    Source: StrucHIS, structure-aware hierarchical information sharing among tasks on heterogeneous graphs, from the
    paper's slides and the released code, which differ. ``variant="as_described"`` (default) is the formula above.
    ``"as_released"`` gives the gates the dropped embedding twice and has w_1 and beta of the attention over relations,
    :math:`w_1 \cdot h_v + w \cdot m + \beta`, which do not depend on r: they cancel and get no gradient.

    Args:
        channels: d, of input and output.
        metadata: node types, and relations (source type, name, destination type): those of the graphs it will see.
        num_tasks: T.
        dropout: of features and of logits of the attention, in training.
        negative_slope: of leaky.
        residual: whether there are R and c.
        sharing: "relation"; "layer": every task sums over its own relations, whole outputs are mixed (the published
            ablation without relation-wise sharing); "none": tasks do not meet.
        variant: see above.

    Parameters: ``weight`` [node types, T, d, d], ``relation`` [T, R, d], ``weight_relation`` [T, d, d], ``att_dst``,
    ``att_src``, ``att_relation`` [T, d], ``att_out`` [T, d], ``gates`` and ``res``.

    Shapes: h [N, T, d], all nodes in the order of the graph's node types; output the same.
    """

    HIDDEN = 64  # of the gates' network

    def __init__(
        self,
        channels: int,
        metadata: tuple[Sequence[str], Sequence[Relation]],
        num_tasks: int,
        *,
        dropout: float = 0.5,
        negative_slope: float = 0.2,
        residual: bool = True,
        sharing: Sharing = "relation",
        variant: Variant = "as_described",
    ) -> None:
        super().__init__()
        check_num_tasks("StrucHISLayer", num_tasks)
        for name, value, known in (("sharing", sharing, get_args(Sharing)), ("variant", variant, get_args(Variant))):
            if value not in known:
                raise ValueError(f"StrucHISLayer: {name} must be one of {', '.join(known)}, got {value!r}")
        self.channels, self.num_tasks, self.dropout = channels, num_tasks, dropout
        self.negative_slope, self.sharing, self.variant = negative_slope, sharing, variant
        self.node_types, self.relations = tuple(metadata[0]), tuple(metadata[1])
        t, d = num_tasks, channels
        self.weight = Parameter(torch.empty(len(self.node_types), t, d, d))
        self.relation = Parameter(torch.empty(t, len(self.relations), d))
        self.weight_relation = Parameter(torch.empty(t, d, d))
        self.att_dst, self.att_src, self.att_relation = (Parameter(torch.empty(t, d)) for _ in range(3))
        self.att_out = Parameter(torch.empty(t, d))
        if variant == "as_released":
            self.att_centre, self.beta = Parameter(torch.empty(t, d)), Parameter(torch.empty(t))
        self.res = Linear(d, d, num_tasks=t) if residual else None
        into = {name: sum(relation[2] == name for relation in self.relations) for name in self.node_types}
        wide = 2 * d if variant == "as_released" else d
        self.gates = nn.ModuleDict()
        if sharing != "none":
            for name, count in into.items():
                rows = count if sharing == "relation" else min(count, 1)
                if rows:
                    last = Linear(self.HIDDEN, rows * t, False, num_tasks=t)
                    self.gates[name] = nn.Sequential(Linear(wide, self.HIDDEN, num_tasks=t), nn.ReLU(), last)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew. Gates start close to uniform: their first weights have deviation 1e-4."""
        d = self.channels
        with torch.no_grad():
            for value in (self.weight, self.weight_relation):
                bound = math.sqrt(6 / (2 * d))
                value.uniform_(-bound, bound)
            self.relation.uniform_(-1, 1).mul_(math.sqrt(6 / (self.relation.size(1) + d)))
            for value in (self.att_dst, self.att_src, self.att_relation):
                value.uniform_(-1, 1).mul_(math.sqrt(6 / (1 + d)))
            # torch.nn.Linear(2 d, 1) on (h, m) in the released code.
            out = [self.att_out] + ([self.att_centre, self.beta] if self.variant == "as_released" else [])
            for value in out:
                value.uniform_(-1, 1).mul_(1 / math.sqrt(2 * d))
            for gate in self.gates.values():
                first, _, last = gate.children()
                assert isinstance(first, Linear) and isinstance(last, Linear)
                first.reset_parameters()
                last.reset_parameters()
                first.weight.normal_(0, 1e-4)
        if self.res is not None:
            self.res.reset_parameters()

    def forward(self, h: Tensor, graph: HeteroGraph) -> Tensor:
        """h' of the formula above."""
        if (graph.node_types, graph.relations) != (self.node_types, self.relations):
            raise ValueError(
                "StrucHISLayer: the graph must have the node types and relations of metadata, got "
                f"{', '.join(graph.node_types)} with {len(graph.relations)} relations"
            )
        total = sum(graph.num_nodes.values())
        if h.shape != (total, self.num_tasks, self.channels):
            wanted = [total, self.num_tasks, self.channels]
            raise ValueError(f"StrucHISLayer: h must have shape [N, T, d] = {wanted}, got {list(h.shape)}")
        return run(Level(self, graph, h), h, self._values())

    def aggregate(self, name: str, h: Tensor, graph: HeteroGraph) -> Tensor:
        """z [N_type, R, T, d] of a node type with relations into it: what its nodes see along each of them."""
        level, p, number = Level(self, graph, h), self._values(), self.node_types.index(name)
        mask, group = next(pair for pair in level.groups if any(centre.number == number for centre in pair[1]))
        (centre,) = (centre for centre in group if centre.number == number)
        y = level.sums(centre, level.tables(mask, group, h, p))
        assert y is not None
        return level.aggregates(centre, y, p)

    def gate_logits(self, name: str, seen: Tensor) -> Tensor:
        """Logits [N_type, R (1 if sharing is by layer), T, T]: of what each task (last axis) takes of each task.

        ``seen``: the embeddings of the type [N_type, T, d], as released after dropout.
        """
        given = torch.cat([seen, seen], -1) if self.variant == "as_released" else seen
        return gate_logits(name, given, self._values())

    def _values(self) -> dict[str, Tensor]:
        """Parameters by name, without those that cancel."""
        return {name: value for name, value in self.named_parameters() if name not in ("att_centre", "beta")}

    def __repr__(self) -> str:
        options = f"num_tasks={self.num_tasks}, sharing={self.sharing}, variant={self.variant}"
        return f"StrucHISLayer({self.channels}, {options})"


def dropped(h: Tensor, chance: float) -> Tensor:
    """h after dropout. For backward a mask of bytes is kept, where F.dropout keeps floats on CPUs."""
    return torch.native_dropout(h, chance, True)[0] if chance else h

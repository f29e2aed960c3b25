"""HGTConv: the layer of the heterogeneous graph transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from fastgmtl.hetero import HeteroGraph, Relation, as_hetero
from fastgmtl.nn.linear import Linear, check_num_tasks
from fastgmtl.ops.attention import attention

Metadata = tuple[list[str], list[Relation]]


class _ByType(nn.Module):
    """A linear map for each node type."""

    def __init__(self, in_channels: Mapping[str, int], out_channels: int, num_tasks: int | None) -> None:
        super().__init__()
        self.lins = nn.ModuleDict({t: Linear(f, out_channels, num_tasks=num_tasks) for t, f in in_channels.items()})
        self.reset_parameters()  # drawn a second time, as PyTorch Geometric's: the same seed gives the same numbers

    def reset_parameters(self) -> None:
        for lin in self.lins.values():
            lin.reset_parameters()  # type: ignore[operator]

    def forward(self, node_type: str, x: Tensor) -> Tensor:
        return self.lins[node_type](x)


class _ByRelation(nn.Module):
    """A matrix for each head and relation, [(T,) H * R, D, D]."""

    def __init__(self, count: int, width: int, num_tasks: int | None) -> None:
        super().__init__()
        shape = (count, width, width)
        self.weight = Parameter(torch.empty(shape if num_tasks is None else (num_tasks, *shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = math.sqrt(6 / ((1 + math.sqrt(5) ** 2) * self.weight.size(-1)))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound)


class HGTConv(nn.Module):
    r"""Attention of each node over the edges of all relations into it, with a key and a message matrix a relation.

    .. math::
        l_e &= \frac{p_{r,h}}{\sqrt{D}} \langle q_{i,h}, k_{j,h} A_{r,h} \rangle
        \quad \text{for the edge } e = (j \to i) \text{ of relation } r, \\
        x'_i &= \sigma_\tau \, O_\tau \, \mathrm{gelu}\Big(\big\Vert_h \sum_e \mathrm{softmax}_{e \to i}(l_e) \, v_{j,h}
        M_{r,h} \Big) + (1 - \sigma_\tau) x_i

    with k, q, v linear maps of the features by node type, tau the node type of i and sigma the sigmoid of its ``skip``;
    without the last term where widths differ. All relations and heads (and tasks) are one pass over the edges. Source:
    Hu et al., Heterogeneous graph transformer, WWW 2020. The signature, the parameters and, up to rounding, the values
    are those of ``torch_geometric.nn.HGTConv``.

    Args:
        in_channels: F, or F by node type; -1 to take it from the first input.
        out_channels: C, which heads divide.
        metadata: node types, and relations (source type, name, destination type).
        heads: H; D = C / H.
        num_tasks: None, or T sets of parameters; features are then [N, F] or [N, T, F] and outputs [N, T, C].

    Shapes: ``x_dict`` features [N, F] by node type; ``edge_index_dict`` a HeteroGraph, or edge indices (or sparse
    matrices adj_t) by relation; the output has [N, C] for each node type that a relation of ``metadata`` points to.

    Raises:
        ValueError: heads do not divide C, an unknown node type or relation, a shape does not fit.
    """

    def __init__(
        self,
        in_channels: int | dict[str, int],
        out_channels: int,
        metadata: Metadata,
        heads: int = 1,
        *,
        num_tasks: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if out_channels % heads:
            raise ValueError(f"{name}: heads must divide out_channels, got {heads} for {out_channels}")
        self.num_tasks = check_num_tasks(name, num_tasks)
        self.node_types, self.edge_types = metadata
        if not isinstance(in_channels, dict):
            in_channels = dict.fromkeys(self.node_types, in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.dst_node_types = {relation[2] for relation in self.edge_types}
        tasks = () if num_tasks is None else (num_tasks,)
        self.kqv_lin = _ByType(in_channels, 3 * out_channels, num_tasks)
        self.out_lin = _ByType(dict.fromkeys(self.node_types, out_channels), out_channels, num_tasks)
        self.k_rel = _ByRelation(heads * len(self.edge_types), out_channels // heads, num_tasks)
        self.v_rel = _ByRelation(heads * len(self.edge_types), out_channels // heads, num_tasks)
        self.skip = nn.ParameterDict({_key(t): Parameter(torch.empty(*tasks, 1)) for t in self.node_types})
        self.p_rel = nn.ParameterDict()
        for relation in self.edge_types:  # one by one: a dict would be sorted
            self.p_rel[_key("__".join(relation))] = Parameter(torch.empty(*tasks, 1, heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in (self.kqv_lin, self.out_lin, self.k_rel, self.v_rel):
            part.reset_parameters()
        with torch.no_grad():
            for value in (*self.skip.values(), *self.p_rel.values()):
                value.fill_(1.0)

    def forward(
        self, x_dict: Mapping[str, Tensor], edge_index_dict: HeteroGraph | Mapping[Relation, Any]
    ) -> dict[str, Tensor]:
        """x' of the formula above, by node type."""
        self._check(x_dict)
        graph = as_hetero(edge_index_dict, {t: x.size(0) for t, x in x_dict.items()})
        unknown = [relation for relation in graph.relations if relation not in self.edge_types]
        if unknown:
            raise ValueError(f"{type(self).__name__}: relation {unknown[0]} must be one of those of metadata")
        queries, keys, values = [], [], []
        for node_type in graph.node_types:
            kqv = self._by_type(self.kqv_lin, node_type, x_dict[node_type]).unflatten(-1, (3, self.heads, -1))
            key, query, value = kqv.unbind(-3)
            queries.append(query)
            relations = graph.out_of(node_type)
            if relations:
                keys.append(self._sent(key, self.k_rel.weight, relations, scaled=True))
                values.append(self._sent(value, self.v_rel.weight, relations, scaled=False))
        query = torch.cat(queries)
        if not keys:
            found = torch.zeros_like(query)
        else:
            out = attention(graph.by_source(), torch.cat(values), query=query, key=torch.cat(keys), negative_slope=None)
            assert isinstance(out, Tensor)
            found = out
        parts = graph.split_nodes(found.flatten(-2))
        return {t: self._new(t, parts[t], x_dict[t]) for t in graph.node_types if t in self.dst_node_types}

    def _sent(self, value: Tensor, weight: Tensor, relations: tuple[Relation, ...], scaled: bool) -> Tensor:
        """What nodes send along each relation out of their type: [N, (T,) H, D] to [N * R, (T,) H, D]."""
        index = [self.edge_types.index(relation) for relation in relations]
        # [(T,) H, R, D, D] of these relations, as [B, D, R * D] with B = (T *) H.
        chosen = weight.unflatten(-3, (self.heads, -1))[..., index, :, :]
        if scaled:
            prior = torch.stack([self._named(self.p_rel, "__".join(relation)) for relation in relations], dim=-1)
            chosen = chosen * prior.squeeze(-3)[..., None, None]
        matrices = chosen.flatten(0, -4).transpose(1, 2).flatten(2)
        rows = value.flatten(1, -2)
        sent = torch.bmm(rows.transpose(0, 1), matrices).unflatten(2, (len(relations), -1))  # [B, N, R, D]
        return sent.permute(1, 2, 0, 3).reshape(-1, *value.shape[1:])

    def _new(self, node_type: str, out: Tensor, x: Tensor) -> Tensor:
        out = self._by_type(self.out_lin, node_type, nn.functional.gelu(out))
        if out.size(-1) != x.size(-1):
            return out
        alpha = self._named(self.skip, node_type).sigmoid()
        return alpha * out + (1 - alpha) * (x if x.dim() == out.dim() else x.unsqueeze(1))

    def _by_type(self, lin: nn.Module, node_type: str, x: Tensor) -> Tensor:
        return lin(node_type, x)

    def _named(self, parameters: Any, name: str) -> Tensor:
        return parameters[_key(name)]

    def _check(self, x_dict: Mapping[str, Tensor]) -> None:
        name = type(self).__name__
        for node_type, x in x_dict.items():
            if node_type not in self.node_types:
                raise ValueError(f"{name}: node type {node_type!r} must be one of {', '.join(self.node_types)}")
            fits = x.dim() == 2 or (x.dim() == 3 and self.num_tasks == x.size(1))
            if not fits:
                wanted = "[N, F]" if self.num_tasks is None else f"[N, F] or [N, T, F] with T = {self.num_tasks}"
                raise ValueError(f"{name}: features of {node_type} must have shape {wanted}, got {list(x.shape)}")

    def __repr__(self) -> str:
        tasks = "" if self.num_tasks is None else f", num_tasks={self.num_tasks}"
        return f"{type(self).__name__}(-1, {self.out_channels}, heads={self.heads}{tasks})"


def _key(name: str) -> str:
    """The name as a parameter's: without dots, and none that ParameterDict has itself."""
    return (f"<{name}>" if name in dir(nn.ParameterDict) else name).replace(".", "#")

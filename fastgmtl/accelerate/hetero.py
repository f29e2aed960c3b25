"""A fast HeteroConv: convolutions that are alike, one for each relation, in one pass over all relations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric import nn as pyg

from fastgmtl.accelerate.fast import Fast, count
from fastgmtl.accelerate.neighbours import FastGraphConv, FastSAGEConv
from fastgmtl.accelerate.small import is_worth_a_graph
from fastgmtl.hetero import as_hetero
from fastgmtl.ops.spmm import spmm

# Of each kind of convolution its maps of neighbours and of the node itself.
MAPS: dict[type, tuple[str, str]] = {
    pyg.SAGEConv: ("lin_l", "lin_r"),
    FastSAGEConv: ("lin_l", "lin_r"),
    pyg.GraphConv: ("lin_rel", "lin_root"),
    FastGraphConv: ("lin_rel", "lin_root"),
}
# The pass writes a row for each node and relation: more of them than this for each edge are left to the parent.
ROWS_PER_EDGE = 4


def is_alike(layer: pyg.HeteroConv) -> bool:
    """Whether all convolutions of a HeteroConv have one kind, one size and settings that one pass serves."""
    convs = list(layer.convs.values())
    if len(convs) < 2 or layer.aggr not in ("sum", "mean"):
        return False
    return len({_settings(conv) for conv in convs}) == 1 and _settings(convs[0]) is not None


def _settings(conv: Any) -> tuple[Any, ...] | None:
    """What has to be the same for all; None for what is no sum or mean of neighbours."""
    if type(conv) not in MAPS or conv.aggr not in ("add", "sum", "mean") or Fast.settings_without_kernel(conv):
        return None
    if conv.flow != "source_to_target" or getattr(conv, "project", False) or getattr(conv, "normalize", False):
        return None
    sizes = conv.in_channels if isinstance(conv.in_channels, tuple) else (conv.in_channels,) * 2
    return MAPS[type(conv)], conv.aggr, sizes, conv.out_channels, getattr(conv, "root_weight", True)


class FastHeteroConv(pyg.HeteroConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.HeteroConv` of alike SAGEConv or GraphConv: one :func:`fastgmtl.ops.spmm` a node type.

    .. math:: \\sum_r (W_r \\, \\mathrm{aggr}_r x + b_r + V_r x_i) =
        [W_1 \\dots W_R] [\\mathrm{aggr}_1 x; \\dots; \\mathrm{aggr}_R x] + \\sum_r b_r + \\Big(\\sum_r V_r\\Big) x_i

    One product for all relations and one for all maps of the node itself. A row of features is written for each node
    and relation, as many numbers as the parent keeps for its backward. What it does not serve is PyTorch Geometric's
    path, on which each convolution is fast by itself.
    """

    _calls: Counter[str]

    @classmethod
    def parent(cls) -> type[pyg.HeteroConv]:
        """The layer of PyTorch Geometric that this one replaces."""
        return pyg.HeteroConv

    def kernel(self) -> str:
        """The operators that run a call."""
        return "spmm of (node, relation)"

    def forward(self, *args_dict: Any, **kwargs_dict: Any) -> dict[str, Tensor]:
        """Of the parent."""
        reason = self._why_not(args_dict, kwargs_dict)
        if not torch.compiler.is_compiling():
            self._calls[reason] += 1
        return pyg.HeteroConv.forward(self, *args_dict, **kwargs_dict) if reason else self._fused(*args_dict)

    def _why_not(self, args_dict: tuple[Any, ...], kwargs_dict: Any) -> str:
        """Why a call is the parent's; "" if it is not."""
        if torch.compiler.is_compiling():
            return "compilation"
        if len(args_dict) != 2 or kwargs_dict:
            return "arguments beside features and edges"
        x_dict, edges, convs = *args_dict, list(self.convs.items())
        if any(r not in edges or r[0] not in x_dict or r[2] not in x_dict for r, _ in convs):
            return "a relation without features or edges"
        parts = [edges[r] for r, _ in convs]
        if any(type(e) is not Tensor or e.layout != torch.strided for e in parts):
            return "edges of another form"
        features = [x_dict[t] for t in self._types()]
        if any(not isinstance(x, Tensor) or x.dtype != features[0].dtype for x in features):
            return "features of another form"
        number = sum(count(e) for e in parts)
        if not is_worth_a_graph(parts[0], number * features[0].size(-1)):
            return "small input"
        if sum(x_dict[r[2]].size(0) for r, _ in convs) > ROWS_PER_EDGE * number:
            return "relations that most nodes lack"
        if not is_alike(self):
            return "convolutions that are not alike"
        for relation, conv in convs:
            reason = self._member(conv, tuple(x_dict[t] for t in relation[::2]), edges[relation])
            if reason:
                return reason
        return ""

    def _member(self, conv: Any, x: tuple[Tensor, Tensor], edges: Tensor) -> str:
        if not isinstance(conv, Fast):
            return "a convolution that is not accelerated"
        hooks = conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks
        maps = [getattr(conv, name) for name in MAPS[type(conv)] if hasattr(conv, name)]
        if any(hooks) or not all(conv._is_plain(lin) for lin in maps):
            return "hooks of a convolution"
        if conv._lazy() or any(x_of.size(-1) != lin.in_channels for x_of, lin in zip(x, maps, strict=False)):
            return "features of another width"
        return conv._watched() or conv._edges_without_kernel(edges) or conv._features_without_kernel(x, None)

    def _types(self) -> list[str]:
        """The node types of the relations."""
        return list(dict.fromkeys(t for relation, _ in self.convs.items() for t in relation[::2]))

    def _fused(self, x_dict: dict[str, Tensor], edge_index_dict: dict[Any, Tensor]) -> dict[str, Tensor]:
        convs = dict(self.convs.items())
        given = {t: x_dict[t] for t in self._types()}
        graph = as_hetero({r: edge_index_dict[r] for r in convs}, {t: x.size(0) for t, x in given.items()})
        x, first = graph.join_nodes(given), next(iter(convs.values()))
        of_neighbours, of_root = MAPS[type(first)]
        reduce, found = ("mean" if first.aggr == "mean" else "sum"), {}
        for node_type in dict.fromkeys(relation[2] for relation in convs):
            part = graph.packed(node_type)
            maps = [getattr(convs[r], of_neighbours) for r in part.relations]
            biases = [lin.bias for lin in maps if lin.bias is not None]
            weight = torch.cat([lin.weight for lin in maps], 1)
            gathered = spmm(part.graph, x, reduce=reduce).view(part.num_nodes, weight.size(1))
            out = F.linear(gathered, weight, torch.stack(biases).sum(0) if biases else None)
            if getattr(first, "root_weight", True):
                root = torch.stack([getattr(convs[r], of_root).weight for r in part.relations]).sum(0)
                out = out + F.linear(given[node_type], root)
            found[node_type] = out / len(maps) if self.aggr == "mean" else out
        return found

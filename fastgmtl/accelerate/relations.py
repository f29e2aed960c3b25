"""Fast layers over typed edges: RGCN, HGT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric import nn as pyg

from fastgmtl import nn
from fastgmtl.accelerate.fast import Fast, count
from fastgmtl.accelerate.small import SMALL_OF_MORE, is_worth_a_graph
from fastgmtl.hetero import HeteroGraph, Relation
from fastgmtl.nn.conv import Edges
from fastgmtl.nn.rgcn_conv import Features


class FastRGCNConv(Fast, pyg.RGCNConv, nn.RGCNConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.RGCNConv`: all relations in one :func:`fastgmtl.ops.spmm`."""

    def kernel(self) -> str:
        """The operators that run a call."""
        return "spmm of (node, relation), grouped_matmul"

    def forward(self, x: Features, edge_index: Edges, edge_type: Tensor | None = None) -> Tensor:
        """Of the parent."""
        also = "" if edge_type is None or _is_types(edge_type) else "edge types of another form"
        if edge_type is None and isinstance(edge_index, Tensor):
            also = "no edge types"
        # Numbers of embeddings stand for these.
        given = self.weight.new_empty(0, self.out_channels) if self._are_numbers(x) else x
        if not self._serves(given, edge_index, None, also, edge_type):
            return pyg.RGCNConv.forward(self, x, edge_index, edge_type)
        out = nn.RGCNConv.forward(self, x, edge_index, edge_type)
        # The parent adds to zeros of the default type.
        return out.to(torch.promote_types(out.dtype, torch.get_default_dtype()))

    def _are_numbers(self, x: Any) -> bool:
        ends = x if isinstance(x, tuple) else (x,)
        served = self.num_blocks is None and (len(ends) == 1 or self.flow == "source_to_target")
        return served and all(end is None or (isinstance(end, Tensor) and _is_types(end)) for end in ends)


class FastHGTConv(Fast, pyg.HGTConv, nn.HGTConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.HGTConv`: all relations and heads in one :func:`fastgmtl.ops.attention`."""

    _small = SMALL_OF_MORE

    def kernel(self) -> str:
        """The operators that run a call."""
        return "attention over all relations"

    def settings_without_kernel(self) -> str:
        """Why no call of a layer with these settings can run on the operators; "" if some can."""
        if self.flow != "source_to_target":
            return f"no kernel for flow={self.flow!r}"
        return Fast.settings_without_kernel(self)

    def forward(
        self, x_dict: Mapping[str, Tensor], edge_index_dict: HeteroGraph | Mapping[Relation, Any]
    ) -> dict[str, Tensor]:
        """Of the parent."""
        if not self._serves(x_dict, edge_index_dict):
            return pyg.HGTConv.forward(self, x_dict, edge_index_dict)
        return nn.HGTConv.forward(self, x_dict, edge_index_dict)

    def _edges_without_kernel(self, edges: Any) -> str:
        if isinstance(edges, HeteroGraph):
            return ""
        if not isinstance(edges, Mapping) or not edges:
            return "edges of another form"
        found = (super(FastHGTConv, self)._edges_without_kernel(e) for e in edges.values())
        return next((reason for reason in found if reason), "")

    def _features_without_kernel(self, x: Any, size: Any) -> str:
        if not isinstance(x, Mapping) or not x:
            return "features of another form"
        found = (super(FastHGTConv, self)._features_without_kernel(value, None) for value in x.values())
        return next((reason for reason in found if reason), "")

    def _worth(self, x: Any, edges: Any, key: Any) -> bool:
        if not isinstance(edges, dict) or not edges or torch.compiler.is_compiling():
            return True
        parts = list(edges.values())
        return is_worth_a_graph(parts[0], sum(count(part) for part in parts) * self.out_channels, self._small)

    def _by_type(self, lin: Any, node_type: str, x: Tensor) -> Tensor:
        return lin.lins[node_type](x)

    def _named(self, parameters: Any, name: str) -> Tensor:
        return parameters[name]


def _is_types(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1 and value.dtype in (torch.int64, torch.int32)

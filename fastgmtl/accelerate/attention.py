"""Fast layers of attention: GAT, GATv2, graph transformer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric import nn as pyg

from fastgmtl import nn
from fastgmtl.accelerate.fast import Fast
from fastgmtl.accelerate.neighbours import Features
from fastgmtl.accelerate.small import SMALL_OF_MORE
from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Edges, Size


class FastGATConv(Fast, pyg.GATConv, nn.GATConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GATConv` on :func:`fastgmtl.ops.attention`."""

    _small = SMALL_OF_MORE

    def kernel(self) -> str:
        """The operators that run a call."""
        return attention_kernels(self.aggr)

    def forward(
        self,
        x: Features,
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        size: Size = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Of the parent."""
        also = _attention_without_kernel(self, edge_index, edge_attr, return_attention_weights)
        if not self._serves(x, edge_index, size, also):
            return pyg.GATConv.forward(self, x, edge_index, edge_attr, size, return_attention_weights)
        found = nn.GATConv.forward(self, x, edge_index, edge_attr, size, return_attention_weights)
        return _as_parents(self, found, self.att_src, self.bias)


class FastGATv2Conv(Fast, pyg.GATv2Conv, nn.GATv2Conv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GATv2Conv` on :func:`fastgmtl.ops.attention`."""

    _small = SMALL_OF_MORE

    def kernel(self) -> str:
        """The operators that run a call."""
        return attention_kernels(self.aggr) + ("" if self.lin_edge is None else ", E x d of edge features")

    def forward(
        self,
        x: Features,
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Of the parent."""
        also = _attention_without_kernel(self, edge_index, edge_attr, return_attention_weights)
        if isinstance(x, (tuple, list)) and x[1] is None:
            also = "no features of destinations"
        if not self._serves(x, edge_index, None, also):
            return pyg.GATv2Conv.forward(self, x, edge_index, edge_attr, return_attention_weights)
        found = nn.GATv2Conv.forward(self, cast(Any, x), edge_index, edge_attr, return_attention_weights)
        return _as_parents(self, found, self.att, self.bias)


class FastTransformerConv(Fast, pyg.TransformerConv, nn.TransformerConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.TransformerConv` on :func:`fastgmtl.ops.attention`."""

    def kernel(self) -> str:
        """The operators that run a call."""
        return "attention" if self.lin_edge is None else "attention, sddmm, spmm"

    def settings_without_kernel(self) -> str:
        """Why no call of a layer with these settings can run on the operators; "" if some can."""
        if self.aggr not in ("add", "sum"):
            return f"no kernel for aggr={self.aggr!r}"
        return Fast.settings_without_kernel(self)

    def forward(
        self,
        x: Features,
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Of the parent."""
        weights = isinstance(return_attention_weights, bool)
        also = _attention_without_kernel(self, edge_index, edge_attr, weights)
        if (edge_attr is None) != (self.lin_edge is None) or (edge_attr is not None and edge_attr.dim() != 2):
            also = "edge features of another form"
        if weights and self.training and self.dropout > 0:
            also = "weights before dropout"
        if isinstance(x, (tuple, list)) and x[1] is None:
            also = "no features of destinations"
        if not self._serves(x, edge_index, None, also):
            return pyg.TransformerConv.forward(self, x, edge_index, edge_attr, return_attention_weights)
        return nn.TransformerConv.forward(self, cast(Any, x), edge_index, edge_attr, return_attention_weights)


def attention_kernels(aggr: str) -> str:
    """The operators of attention and of an aggregation after it."""
    return "attention" if aggr in ("add", "sum") else "attention, spmm"


def _attention_without_kernel(layer: Any, edges: Any, edge_attr: Any, weights: Any) -> str:
    plain = isinstance(edges, Graph) or (type(edges) is Tensor and edges.layout == torch.strided)
    if weights and not plain:
        return "weights in the layout of the edges"
    if edge_attr is None:
        return ""
    if not plain or not isinstance(edge_attr, Tensor) or not edge_attr.is_floating_point() or edge_attr.dim() > 2:
        return "edge features of another form"
    if layer.lin_edge is not None and not layer._is_plain(layer.lin_edge):
        return "a changed map of edge features"
    return ""


def _as_parents(layer: Fast, found: Any, *others: Tensor | None) -> Any:
    if isinstance(found, tuple):
        return layer._as_parent(found[0], *others), (found[1][0], layer._as_parent(found[1][1], *others[:1]))
    return layer._as_parent(found, *others)

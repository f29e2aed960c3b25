"""Fast layers that aggregate neighbours: GCN, GraphSAGE, GIN, GINE, GraphConv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import nn as pyg
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from fastgmtl import nn
from fastgmtl.accelerate.fast import FLOATS, Fast
from fastgmtl.accelerate.small import SMALL_OF_MORE
from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Edges, Size

Features = Tensor | tuple[Tensor, Tensor | None]


class FastSAGEConv(Fast, pyg.SAGEConv, nn.SAGEConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.SAGEConv` on :func:`fastgmtl.ops.spmm`."""

    _multiplies = True

    def forward(self, x: Features, edge_index: Edges, size: Size = None) -> Tensor:
        """Of the parent."""
        if self._serves(x, edge_index, size):
            return nn.SAGEConv.forward(self, x, edge_index, size)
        return pyg.SAGEConv.forward(self, x, edge_index, size)


class FastGINConv(Fast, pyg.GINConv, nn.GINConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GINConv` on :func:`fastgmtl.ops.spmm`."""

    _multiplies = True

    def forward(self, x: Features, edge_index: Edges, size: Size = None) -> Tensor:
        """Of the parent."""
        if self._serves(x, edge_index, size):
            return nn.GINConv.forward(self, x, edge_index, size)
        return pyg.GINConv.forward(self, x, edge_index, size)


class FastGINEConv(Fast, pyg.GINEConv, nn.GINEConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GINEConv` on :func:`fastgmtl.ops.relu_sum`."""

    def kernel(self) -> str:
        """The operators that run a call."""
        return "relu_sum"

    def settings_without_kernel(self) -> str:
        """Why no call of a layer with these settings can run on the operators; "" if some can."""
        if self.aggr not in ("add", "sum", "mean"):
            return f"no kernel for aggr={self.aggr!r}"
        return Fast.settings_without_kernel(self)  # of a layer that is not of this class yet, too

    def forward(  # type: ignore[override]
        self, x: Features, edge_index: Edges, edge_attr: Tensor | None = None, size: Size = None
    ) -> Tensor:
        """Of the parent."""
        also = "" if _is_edge_features(edge_attr) else "edge features of another form"
        if not isinstance(edge_index, Graph) and getattr(edge_index, "layout", None) != torch.strided:
            also = "edge features beside a sparse matrix"
        if self._serves(x, edge_index, size, also):
            return nn.GINEConv.forward(self, x, edge_index, edge_attr, size)
        return pyg.GINEConv.forward(self, x, edge_index, edge_attr, size)


class FastGraphConv(Fast, pyg.GraphConv, nn.GraphConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GraphConv` on :func:`fastgmtl.ops.spmm`."""

    _multiplies = True

    def forward(self, x: Features, edge_index: Edges, edge_weight: Tensor | None = None, size: Size = None) -> Tensor:
        """Of the parent."""
        if self._serves(x, edge_index, size, weight_without_kernel(edge_weight, edge_index)):
            return nn.GraphConv.forward(self, x, edge_index, edge_weight, size)
        return pyg.GraphConv.forward(self, x, edge_index, edge_weight, size)


class FastGCNConv(Fast, pyg.GCNConv, nn.GCNConv):  # type: ignore[misc]
    """:class:`torch_geometric.nn.GCNConv` on :func:`fastgmtl.ops.spmm` and :func:`fastgmtl.ops.gcn_norm`."""

    _small = SMALL_OF_MORE

    def kernel(self) -> str:
        """The operators that run a call."""
        return "gcn_norm, spmm" if self.normalize else "spmm"

    def settings_without_kernel(self) -> str:
        """Why no call of a layer with these settings can run on the operators; "" if some can."""
        if self.aggr not in ("add", "sum"):
            return f"no kernel for aggr={self.aggr!r}"
        return Fast.settings_without_kernel(self)  # of a layer that is not of this class yet, too

    def forward(self, x: Tensor, edge_index: Edges, edge_weight: Tensor | None = None) -> Tensor:
        """Of the parent."""
        also = weight_without_kernel(edge_weight, edge_index)
        if self.improved and edge_weight is None and isinstance(edge_index, Tensor):
            # The parent's loops weigh 1 there, and 2 elsewhere.
            also = "improved without weights" if edge_index.layout == torch.strided else ""
        if isinstance(x, (tuple, list)):
            also = "a pair of features"
        if not self._serves(x, edge_index, None, also):
            return pyg.GCNConv.forward(self, x, edge_index, edge_weight)
        out = nn.GCNConv.forward(self, x, edge_index, edge_weight)
        weight = x if self.normalize else edge_weight
        return self._as_parent(out, weight, self.bias)

    def _normalised(self, x: Tensor, edges: Edges, edge_weight: Tensor | None) -> tuple[Graph, Tensor | None]:
        if not (self.cached and self.normalize) or isinstance(edges, Graph):
            return nn.GCNConv._normalised(self, x, edges, edge_weight)
        # What is cached is the parent's, made by it and kept where it looks for it.
        name = "_cached_edge_index" if isinstance(edges, Tensor) else "_cached_adj_t"
        if getattr(self, name) is None:
            flags = (x.size(0), self.improved, self.add_self_loops, self.flow, x.dtype)
            setattr(self, name, gcn_norm(edges, edge_weight, *flags))
        found = getattr(self, name)
        edges, edge_weight = found if isinstance(found, tuple) else (found, None)
        return self._adjacency(edges, x, x, None, edge_weight)


def _is_edge_features(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.layout == torch.strided and value.dtype in FLOATS


def weight_without_kernel(weight: Any, edges: Any) -> str:
    """Why edge weights are the parent's; "" if they are not."""
    if weight is None:
        return ""
    if not isinstance(edges, Graph) and not (isinstance(edges, Tensor) and edges.layout == torch.strided):
        return "edge weights beside a sparse matrix"
    one = weight.dim() == 1 or (weight.dim() == 2 and weight.size(1) == 1)
    return "" if one and weight.is_floating_point() else "edge weights of another form"

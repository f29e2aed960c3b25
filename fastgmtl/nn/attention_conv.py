"""What GATConv and GATv2Conv share: heads, self loops and features of edges, and what comes after the aggregation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter, is_lazy

from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Conv
from fastgmtl.nn.linear import Linear
from fastgmtl.ops.attention import attention
from fastgmtl.ops.spmm import spmm

_FILL = {"add": "sum", "sum": "sum", "mean": "mean", "min": "amin", "max": "amax", "mul": "prod"}


class AttentionConv(Conv):
    """A layer of attention heads; its subclasses name the scores and the linear maps.

    Args:
        in_channels: F, or a pair (F_src, F_dst); -1 to take one from the first input.
        out_channels: C of one head.
        heads: H.
        concat: True gives H C output features, False the mean over heads.
        negative_slope: of the leaky rectifier.
        dropout: chance to drop a weight, while training.
        add_self_loops: replace the loops of the nodes by one for each.
        edge_dim: D, the width of edge features; None: there are none.
        fill_value: the features of the loops: a number, a tensor, or "mean", "add", "min", "max", "mul" of the
            features of the edges into the node.
        bias, residual: whether there is a b; whether a linear map of the input is added.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``aggr`` ("add" by default) and ``flow``. The sum is fused with the attention; mean, max and min are of
            weighted neighbours, in a second pass.
    """

    lin_edge: Linear | None
    res: Linear | None
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int,
        concat: bool,
        negative_slope: float,
        dropout: float,
        add_self_loops: bool,
        edge_dim: int | None,
        fill_value: float | Tensor | str,
        residual: bool,
        num_tasks: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kwargs.pop("aggr", "add"), num_tasks=num_tasks, **kwargs)
        if isinstance(fill_value, str) and fill_value not in _FILL:
            raise ValueError(
                f"{type(self).__name__}: fill_value must be a number, a tensor or one of {', '.join(_FILL)}, "
                f"got {fill_value!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.add_self_loops = add_self_loops
        self.edge_dim = edge_dim
        self.fill_value = fill_value
        self.residual = residual

    # ---------------------------------------------------------------------------------------------- construction

    def _widths(self) -> tuple[int, int]:
        """Widths of source and destination features."""
        return (self.in_channels, self.in_channels) if isinstance(self.in_channels, int) else self.in_channels

    def _linear(self, width: int, bias: bool = False, out: int | None = None) -> Linear:
        out = self.heads * self.out_channels if out is None else out
        return Linear(width, out, bias, "glorot", self.num_tasks)

    def _vector(self) -> Parameter:
        """A vector for each head: [1, H, C], with tasks [T, 1, H, C]."""
        shape = (1, self.heads, self.out_channels)
        return Parameter(torch.empty(shape if self.num_tasks is None else (self.num_tasks, *shape)))

    def _make_output(self, bias: bool) -> None:
        """``res`` and ``bias``, which PyTorch Geometric makes last."""
        total = self.out_channels * (self.heads if self.concat else 1)
        if self.residual:
            self.res = self._linear(self._widths()[1], out=total)
        else:
            self.register_parameter("res", None)
        shape = (total,) if self.num_tasks is None else (self.num_tasks, total)
        self.bias = Parameter(torch.empty(shape)) if bias else None

    @staticmethod
    def _draw(*vectors: Tensor | None) -> None:
        for vector in vectors:
            if vector is not None:
                bound = math.sqrt(6.0 / (vector.size(-2) + vector.size(-1)))
                nn.init.uniform_(vector, -bound, bound)

    # ------------------------------------------------------------------------------------------------- arithmetic

    def _split_heads(self, x: Tensor) -> Tensor:
        """[N, H C] as [N, H, C], or [N, T, H C] as [N, T, H, C]."""
        return x.unflatten(-1, (self.heads, self.out_channels))

    def _dots(self, x: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """<x, vector> for each head and vector: [N, H] each, with tasks [N, T, H].

        One product with a matrix that is 0 outside of the heads' blocks: products of single heads, which are many and
        thin, take several times as long.
        """
        stacked = torch.stack([vector.squeeze(-3).flatten(0, -2) for vector in vectors])  # [V, (T) H, C]
        blocks = torch.diag_embed(stacked.transpose(1, 2)).permute(2, 1, 0, 3)  # [(T) H, C, V, (T) H]
        found = x.flatten(1) @ blocks.flatten(2).flatten(0, 1).to(x.dtype)
        return tuple(part.view(x.shape[:-1]) for part in found.chunk(len(vectors), 1))

    def _edge_map(self, lin: Linear, vector: Tensor, edge_attr: Tensor) -> Tensor:
        """<lin(edge_attr), vector> for each head, the vector folded into the map: nothing of the size E H C is made."""
        if is_lazy(lin.weight):
            lin(edge_attr[:0])
        weight = self._split_rows(lin.weight)
        if self.num_tasks is None:
            return edge_attr @ torch.einsum("hcd,hc->dh", weight, vector.squeeze(-3))
        folded = torch.einsum("thcd,thc->dth", weight, vector.squeeze(-3))
        return (edge_attr @ folded.flatten(1)).unflatten(1, folded.shape[1:])

    def _split_rows(self, weight: Tensor) -> Tensor:
        return weight.unflatten(-2, (self.heads, self.out_channels))

    def _with_loops(self, graph: Graph, edge_attr: Tensor | None) -> tuple[Graph, Tensor | None]:
        """The graph whose loops are replaced by one for each node (that is on both sides), and features of its edges.

        Edges keep their order, loops come last.
        """
        if not self.add_self_loops:
            return graph, edge_attr
        looped = graph._once("replaced_loops", lambda: _replace_loops(graph))
        if edge_attr is None:
            return looped, None
        kept, edges = graph._once("no_loops", lambda: _without_loops(graph))
        edge_attr, count = edge_attr[kept], min(graph.num_src, graph.num_dst)
        rows = (count, *edge_attr.shape[1:])
        if isinstance(self.fill_value, str):
            # As in PyTorch Geometric: of the edges that are not loops, by the second row of edge_index; without any, 0.
            dst = edges[1 if self.flow == "source_to_target" else 0]
            index = dst.reshape(-1, *[1] * (edge_attr.dim() - 1)).expand_as(edge_attr)
            fill = edge_attr.new_zeros(graph.num_dst, *rows[1:])
            fill = fill.scatter_reduce(0, index, edge_attr, _FILL[self.fill_value], include_self=False)[:count]
        elif isinstance(self.fill_value, Tensor):
            fill = self.fill_value.to(edge_attr).expand(rows)
        else:
            fill = edge_attr.new_full(rows, self.fill_value)
        return looped, torch.cat([edge_attr, fill])

    def _edge_features(self, edge_attr: Tensor | None, values: Tensor | None, graph: Graph) -> Tensor | None:
        """``edge_attr`` or the values of a sparse matrix as [E, D], or an error; None where there is no map for them.

        One value an edge is no feature, as in PyTorch Geometric.
        """
        if edge_attr is None and values is not None and values.dim() > 1:
            edge_attr = values
        if edge_attr is None or self.lin_edge is None:
            return None
        name, shape = type(self).__name__, list(edge_attr.shape)
        if not edge_attr.is_floating_point():
            dtype = str(edge_attr.dtype).removeprefix("torch.")
            raise TypeError(f"{name}: edge_attr must be floating point, got {dtype}; convert it with .float()")
        if edge_attr.dim() == 1:
            edge_attr = edge_attr.unsqueeze(1)
        width = self.lin_edge.in_channels
        if edge_attr.dim() != 2 or edge_attr.size(0) != graph.num_edges or width not in (-1, edge_attr.size(1)):
            wanted = f"[E, D] = [{graph.num_edges}, {'D' if width == -1 else width}]"
            raise ValueError(f"{name}: edge_attr must have shape {wanted}, got {shape}")
        return edge_attr

    def _attend(
        self, graph: Graph, value: Tensor, x_dst: Tensor | None, return_weights: bool | None, **logits: Any
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attention and what comes after it: heads joined, residual and bias added."""
        is_sum = self.aggr in ("add", "sum")
        found = attention(
            graph,
            value,
            dropout=self.dropout,
            training=self.training,
            return_weights=bool(return_weights) or not is_sum,
            **logits,
        )
        out, weight = found if isinstance(found, tuple) else (found, None)
        if weight is not None and not is_sum:
            out = spmm(graph, value.flatten(1, -2), weight.flatten(1), self.aggr).view_as(out)
        out = out.flatten(-2) if self.concat else out.mean(-2)
        if self.res is not None and x_dst is not None:
            out = out + self.res(x_dst)
        out = out if self.bias is None else out + self.bias.to(out.dtype)
        if weight is None or not return_weights:
            return out
        edges = graph.edge_index()
        return out, (edges if self.flow == "source_to_target" else edges.flip(0), weight)

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels), f"heads={self.heads}")


def _without_loops(graph: Graph) -> tuple[Tensor, Tensor]:
    """Which edges are not loops, and their ends."""
    edges = graph.edge_index()
    kept = (edges[0] != edges[1]).nonzero().squeeze(1)
    return kept, edges[:, kept]


def _replace_loops(graph: Graph) -> Graph:
    _, edges = _without_loops(graph)
    nodes = torch.arange(min(graph.num_src, graph.num_dst), device=graph.device)
    return Graph.from_edge_index(torch.cat([edges, nodes.expand(2, -1)], 1), graph.num_src, graph.num_dst)

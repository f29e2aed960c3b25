"""TransformerConv: the graph transformer's layer, attention by products of queries and keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Conv, Edges
from fastgmtl.nn.linear import Linear
from fastgmtl.ops.attention import attention
from fastgmtl.ops.sddmm import sddmm
from fastgmtl.ops.spmm import spmm


class TransformerConv(Conv):
    r"""Sum over neighbours, weighted by attention, plus a linear map of the node itself.

    .. math:: x'_i = W_1 x_i + \sum_{e = (j \to i)} \alpha_e (W_2 x_j + W_6 a_e), \quad \alpha_e = \mathrm{softmax}_{e
              \to i} \; \frac{\langle W_3 x_i, W_4 x_j + W_6 a_e \rangle}{\sqrt{C}}

    for each of H heads, all maps but W_6 with a bias. With ``beta`` the first term and the sum y are mixed by
    :math:`\beta = \mathrm{sigmoid}(\langle w, [y, W_1 x_i, y - W_1 x_i] \rangle)`. Source: Shi et al., Masked label
    prediction: unified message passing model for semi-supervised classification, IJCAI 2021, equations 3 to 6. The
    signature, the parameters (``lin_key``, ``lin_query``, ``lin_value``, ``lin_edge``, ``lin_skip``, ``lin_beta``) and,
    up to rounding and the numbers that dropout draws, the values are those of ``torch_geometric.nn.TransformerConv``.

    The map of edge features is never applied to edges: its transpose meets the queries, and it is applied to the
    weighted sums of the features. Nothing of the size E H C is written.

    Args:
        in_channels: F, or (F_src, F_dst); -1 to take it from the first input.
        out_channels: C of one head.
        heads: H.
        concat: True gives H C output features, False the mean over heads.
        beta: mix by a gate instead of adding; of no effect without root_weight.
        dropout: chance to drop a weight, while training.
        edge_dim: D, the width of edge features; None: there are none.
        bias: whether the maps of nodes have biases.
        root_weight: whether the node itself takes part.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, F], or a pair (x_src [N, F_src], x_dst [M, F_dst]); edge_attr [E, D] with ``edge_dim``, else None;
    output [M, H C], without ``concat`` [M, C]. With tasks x [N, F] or [N, T, F], output [M, T, H C] or [M, T, C]. With
    return_attention_weights, True or False, also (edge_index [2, E], weights [E, H] or [E, T, H] as they were
    multiplied by).

    Raises:
        TypeError, ValueError: a type or a shape does not fit, x_dst is None, edge_attr is not what ``edge_dim`` says.
    """

    lin_edge: Linear | None
    lin_beta: Linear | None

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kwargs.pop("aggr", "add"), num_tasks=num_tasks, **kwargs)
        if self.aggr not in ("add", "sum"):
            raise ValueError(f"{type(self).__name__}: aggr must be add or sum, got {self.aggr!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.beta = beta and root_weight
        self.dropout = dropout
        self.edge_dim = edge_dim
        self.root_weight = root_weight
        f_src, f_dst = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        total = heads * out_channels
        width = total if concat else out_channels
        self.lin_key = Linear(f_src, total, bias, num_tasks=num_tasks)
        self.lin_query = Linear(f_dst, total, bias, num_tasks=num_tasks)
        self.lin_value = Linear(f_src, total, bias, num_tasks=num_tasks)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, total, False, num_tasks=num_tasks)
        self.lin_skip = Linear(f_dst, width, bias, num_tasks=num_tasks)
        self.lin_beta = Linear(3 * width, 1, False, num_tasks=num_tasks) if self.beta else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for lin in (self.lin_key, self.lin_query, self.lin_value, self.lin_edge, self.lin_skip, self.lin_beta):
            if lin is not None:
                lin.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        if x_dst is None:
            raise ValueError(
                f"{type(self).__name__}: x must be a tensor or a pair of tensors (x_src, x_dst), got x_dst None"
            )
        graph, _ = self._adjacency(edge_index, x_src, x_dst, sparse_values=False)
        self._check_features(edge_attr, graph)
        query = self._split_heads(self.lin_query(x_dst))
        key = self._split_heads(self.lin_key(x_src))
        value = self._split_heads(self.lin_value(x_src))
        given: dict[str, Any] = {"query": query, "key": key}
        if edge_attr is not None:
            given["score_edge"] = self._score_edges(graph, query, edge_attr)
        wanted = edge_attr is not None or isinstance(return_attention_weights, bool)
        found = attention(graph, value, **given, dropout=self.dropout, training=self.training, return_weights=wanted)
        out, weight = found if isinstance(found, tuple) else (found, None)
        if edge_attr is not None and weight is not None:
            out = out + self._mixed_edges(graph, weight, edge_attr)
        out = out.flatten(-2) if self.concat else out.mean(-2)
        if self.root_weight:
            out = self._with_root(out, self.lin_skip(x_dst))
        if not isinstance(return_attention_weights, bool) or weight is None:
            return out
        edges = graph.edge_index()
        return out, (edges if self.flow == "source_to_target" else edges.flip(0), weight)

    def _with_root(self, out: Tensor, root: Tensor) -> Tensor:
        if self.lin_beta is None:
            return out + root
        beta = self.lin_beta(torch.cat([out, root, out - root], dim=-1)).sigmoid()
        return beta * root + (1 - beta) * out

    def _split_heads(self, x: Tensor) -> Tensor:
        """[N, H C] as [N, H, C], or [N, T, H C] as [N, T, H, C]."""
        return x.unflatten(-1, (self.heads, self.out_channels))

    def _edge_maps(self, edge_attr: Tensor) -> Tensor:
        """W_6 of each head, [(T,) H, C, D]."""
        assert self.lin_edge is not None
        if self.lin_edge.in_channels == -1:
            self.lin_edge(edge_attr[:0])
        return self.lin_edge.weight.unflatten(-2, (self.heads, self.out_channels))

    def _score_edges(self, graph: Graph, query: Tensor, edge_attr: Tensor) -> Tensor:
        """<q_i, W_6 a_e> / sqrt(C) as <W_6^T q_i, a_e>: [E, H], with tasks [E, T, H]."""
        maps = self._edge_maps(edge_attr) / math.sqrt(self.out_channels)
        turned = torch.einsum("...hc,...hcd->...hd", query, maps.to(query.dtype))
        score = sddmm(_edges_as_sources(graph), turned.flatten(1, -2), edge_attr)
        return score.unflatten(1, query.shape[1:-1])

    def _mixed_edges(self, graph: Graph, weight: Tensor, edge_attr: Tensor) -> Tensor:
        """W_6 of the weighted sums of edge features: [M, H, C], with tasks [M, T, H, C]."""
        sums = spmm(_edges_as_sources(graph), edge_attr.to(weight.dtype), weight.flatten(1))
        sums = sums.unflatten(1, weight.shape[1:])
        return torch.einsum("...hd,...hcd->...hc", sums, self._edge_maps(edge_attr).to(sums.dtype))

    def _check_features(self, edge_attr: Tensor | None, graph: Graph) -> None:
        name = type(self).__name__
        if (edge_attr is None) != (self.lin_edge is None):
            wanted = "None for a layer that was made without edge_dim" if self.lin_edge is None else "given"
            raise ValueError(f"{name}: edge_attr must be {wanted}")
        if edge_attr is None or self.lin_edge is None:
            return
        width = self.lin_edge.in_channels
        if edge_attr.dim() != 2 or edge_attr.size(0) != graph.num_edges or width not in (-1, edge_attr.size(1)):
            wanted = f"[E, D] = [{graph.num_edges}, {'D' if width == -1 else width}]"
            raise ValueError(f"{name}: edge_attr must have shape {wanted}, got {list(edge_attr.shape)}")

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels), f"heads={self.heads}")


def _edges_as_sources(graph: Graph) -> Graph:
    """The rows of ``graph`` over its edges, each a source of its own. Kept."""

    def make() -> Graph:
        edges = torch.arange(graph.num_edges, device=graph.device)
        pairs = torch.stack([edges, graph.edge_index()[1]])
        return Graph.from_edge_index(pairs, graph.num_edges, graph.num_dst)

    return graph._once("edges_as_sources", make)

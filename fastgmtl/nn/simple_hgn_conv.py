"""SimpleHGNConv: graph attention that knows the types of the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.init import xavier_normal_
from torch.nn.parameter import Parameter

from fastgmtl.nn.conv import Conv, Edges
from fastgmtl.nn.linear import Linear
from fastgmtl.ops.attention import attention
from fastgmtl.ops.spmm import spmm


class SimpleHGNConv(Conv):
    r"""Attention with a term for the type of the edge, a residual of the attention and one of the node.

    .. math::
        \hat\alpha_e &= \mathrm{softmax}_{e \to i} \,
            \mathrm{leaky}(a_l \cdot W h_i + a_r \cdot W h_j + a_e \cdot W_r r_{\tau(e)}) \\
        \alpha_e &= (1 - \beta) \hat\alpha_e + \beta \alpha'_e, \quad
        h'_i = \sum_{e = (j \to i)} \alpha_e W h_j + W_{res} h_i

    for each head and task; :math:`\alpha'` is the attention of the layer before. Source: Lv et al., Are we really
    making much progress? Revisiting, benchmarking and refining heterogeneous graph neural networks, KDD 2021,
    equations 6 to 9.

    Args:
        in_channels: F.
        out_channels: C of each head.
        num_relations: R, the number of edge types.
        edge_dim: width of the embedding r of an edge type.
        heads: H; their outputs stand side by side.
        negative_slope: of leaky.
        dropout: of the attention, in training.
        residual: add W_res h (h itself where widths are equal).
        beta: share of the attention of the layer before.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Parameters (with tasks each has a leading axis T): ``lin.weight`` [H C, F], ``edge_embedding`` [R, edge_dim],
    ``lin_edge`` [H edge_dim, edge_dim], ``att_src``, ``att_dst`` [H, C], ``att_edge`` [H, edge_dim] and, if
    widths differ, ``res.weight`` [H C, F].

    Shapes: x [N, F] or, with tasks, [N, T, F]; edge_type int [E] in the order of the edges; output [N, H C] or
    [N, T, H C]; attention [E, H] or [E, T, H].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_relations: int,
        edge_dim: int = 64,
        heads: int = 1,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        residual: bool = False,
        beta: float = 0.0,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("sum", num_tasks=num_tasks, **kwargs)
        if not 0 <= beta < 1:
            raise ValueError(f"{type(self).__name__}: beta must be in [0, 1), got {beta!r}")
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.num_relations, self.edge_dim = num_relations, edge_dim
        self.negative_slope, self.dropout, self.residual, self.beta = negative_slope, dropout, residual, beta
        lead = () if num_tasks is None else (num_tasks,)
        self.lin = Linear(in_channels, heads * out_channels, False, num_tasks=num_tasks)
        self.edge_embedding = Parameter(torch.empty(*lead, num_relations, edge_dim))
        self.lin_edge = Parameter(torch.empty(*lead, heads * edge_dim, edge_dim))
        self.att_src = Parameter(torch.empty(*lead, heads, out_channels))
        self.att_dst = Parameter(torch.empty(*lead, heads, out_channels))
        self.att_edge = Parameter(torch.empty(*lead, heads, edge_dim))
        self.res: Linear | None = None
        if residual and in_channels != heads * out_channels:
            self.res = Linear(in_channels, heads * out_channels, False, num_tasks=num_tasks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew: normal, Glorot's deviation times 1.414, as in the published code."""
        linear = [self.lin.weight, self.lin_edge] + ([] if self.res is None else [self.res.weight])
        for parameter in (*linear, self.att_src, self.att_dst, self.att_edge):
            for part in parameter if self.num_tasks is not None else (parameter,):
                xavier_normal_(part, gain=1.414)
        with torch.no_grad():
            self.edge_embedding.normal_()

    def forward(
        self,
        x: Tensor,
        edge_index: Edges,
        edge_type: Tensor,
        attention_before: Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """h' of the formula above; with ``return_attention_weights`` also its attention, as it was multiplied by."""
        x = self._features("x", x)
        graph, _ = self._adjacency(edge_index, x, x)
        value = self.lin(x).unflatten(-1, (self.heads, self.out_channels))
        found = attention(
            graph,
            value,
            score_dst=(value * self.att_dst).sum(-1),
            score_src=(value * self.att_src).sum(-1),
            score_type=self.scores_of_types(),
            edge_type=edge_type,
            negative_slope=self.negative_slope,
            dropout=self.dropout,
            training=self.training,
            return_weights=return_attention_weights,
        )
        out, weight = found if isinstance(found, tuple) else (found, None)
        if self.beta and attention_before is not None:
            # A mean of attentions gives the mean of their sums: the mixed one is never needed for this layer.
            carried = spmm(graph, value.flatten(1, -2), attention_before.flatten(1)).view_as(out)
            out = (1 - self.beta) * out + self.beta * carried
            weight = None if weight is None else (1 - self.beta) * weight + self.beta * attention_before
        out = out.flatten(-2)
        if self.residual:
            kept = x if self.res is None else self.res(x)
            out = out + (kept.unsqueeze(1) if kept.dim() < out.dim() else kept)
        return out if weight is None else (out, weight)

    def scores_of_types(self) -> Tensor:
        """a_e . W_r r of each edge type: [R, H] or [R, T, H]."""
        lin_edge = self.lin_edge.unflatten(-2, (self.heads, self.edge_dim))
        if self.num_tasks is None:
            return torch.einsum("re,hoe,ho->rh", self.edge_embedding, lin_edge, self.att_edge)
        return torch.einsum("tre,thoe,tho->rth", self.edge_embedding, lin_edge, self.att_edge)

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels), f"heads={self.heads}")

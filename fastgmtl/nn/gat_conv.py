"""GATConv: the layer of graph attention networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgmtl.nn.attention_conv import AttentionConv
from fastgmtl.nn.conv import Edges, Size
from fastgmtl.nn.linear import Linear


class GATConv(AttentionConv):
    r"""Sum over neighbours and the node itself, weighted by attention.

    .. math:: x'_{i,t} = \sum_{j} \alpha_{ij,t} W_t x_{j,t} + b_t, \quad \alpha_{ij,t} = \mathrm{softmax}_j \;
              \mathrm{leaky}(\langle a^{dst}_t, W_t x_{i,t} \rangle + \langle a^{src}_t, W_t x_{j,t} \rangle
              + \langle a^{edge}_t, W^e_t e_{ij} \rangle)

    for each of H heads. Source: Velickovic et al., Graph attention networks, ICLR 2018. The signature, the parameters
    (``lin.weight`` [H C, F] or ``lin_src``, ``lin_dst`` for a pair of widths; ``att_src``, ``att_dst`` [1, H, C];
    with ``edge_dim`` also ``lin_edge.weight`` [H C, D] and ``att_edge``; ``res.weight``, ``bias``) and, up to rounding
    and the numbers that dropout draws, the values are those of ``torch_geometric.nn.GATConv``.

    Arguments: see :class:`fastgmtl.nn.attention_conv.AttentionConv`.

    Shapes: x [N, F], or a pair (x_src [N, F_src], x_dst [M, F_dst] or None); edge_attr None, [E] or [E, D]; output
    [M, H C], without ``concat`` [M, C]. With tasks x [N, F] or [N, T, F], output [M, T, H C] or [M, T, C]. Values
    [E, D] of a sparse ``edge_index`` are edge features; one value an edge is of no effect. With
    ``return_attention_weights`` also (edge_index [2, E'], weights [E', H] or [E', T, H]), of the edges after loops
    were replaced, for sparse forms too.

    Raises:
        TypeError, ValueError: a type or a shape does not fit.
    """

    lin: Linear | None
    lin_src: Linear | None
    lin_dst: Linear | None

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | Tensor | str = "mean",
        bias: bool = True,
        residual: bool = False,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            heads,
            concat,
            negative_slope,
            dropout,
            add_self_loops,
            edge_dim,
            fill_value,
            residual,
            num_tasks,
            **kwargs,
        )
        self.lin = self.lin_src = self.lin_dst = None
        if isinstance(in_channels, int):
            self.lin = self._linear(in_channels)
        else:
            self.lin_src, self.lin_dst = (self._linear(width) for width in in_channels)
        self.att_src = self._vector()
        self.att_dst = self._vector()
        if edge_dim is None:
            self.lin_edge = None
            self.register_parameter("att_edge", None)
        else:
            self.lin_edge = self._linear(edge_dim)
            self.att_edge = self._vector()
        self._make_output(bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for lin in (self.lin, self.lin_src, self.lin_dst, self.lin_edge, self.res):
            if lin is not None:
                lin.reset_parameters()
        self._draw(self.att_src, self.att_dst, self.att_edge)
        if self.bias is not None:
            self.bias.data.zero_()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        size: Size = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        graph, values = self._adjacency(edge_index, x_src, x_dst, size)
        graph, features = self._with_loops(graph, self._edge_features(edge_attr, values, graph))
        h_src, score_src, score_dst = self._transformed(x_src, x_dst)
        score_edge = None
        if features is not None and self.lin_edge is not None:
            score_edge = self._edge_map(self.lin_edge, self.att_edge, features)
        return self._attend(
            graph,
            h_src,
            x_dst,
            return_attention_weights,
            score_dst=score_dst,
            score_src=score_src,
            score_edge=score_edge,
            negative_slope=self.negative_slope,
        )

    def _transformed(self, x_src: Tensor, x_dst: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """W x of the sources, their scores, and those of the destinations."""
        if self.lin is not None:
            src, dst = self.lin, self.lin
        else:
            assert self.lin_src is not None and self.lin_dst is not None
            src, dst = self.lin_src, self.lin_dst
        h_src = self._split_heads(src(x_src))
        if x_dst is x_src and src is dst:
            score_src, score_dst = self._dots(h_src, self.att_src, self.att_dst)
            return h_src, score_src, score_dst
        (score_src,) = self._dots(h_src, self.att_src)
        if x_dst is None:
            return h_src, score_src, None
        (score_dst,) = self._dots(self._split_heads(dst(x_dst)), self.att_dst)
        return h_src, score_src, score_dst

"""GATv2Conv: attention whose ranking of neighbours depends on the node that asks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import leaky_relu

from fastgmtl.graph import Graph
from fastgmtl.nn.attention_conv import AttentionConv
from fastgmtl.nn.conv import Edges


class GATv2Conv(AttentionConv):
    r"""Sum over neighbours and the node itself, weighted by attention.

    .. math:: x'_{i,t} = \sum_{j} \alpha_{ij,t} W^l_t x_{j,t} + b_t, \quad \alpha_{ij,t} = \mathrm{softmax}_j \;
              \langle a_t, \mathrm{leaky}(W^r_t x_{i,t} + W^l_t x_{j,t} + W^e_t e_{ij}) \rangle

    for each of H heads, W^l and W^r with biases of their own. Source: Brody et al., How attentive are graph attention
    networks?, ICLR 2022. The signature, the parameters (``lin_l``, ``lin_r`` with weight [H C, F] and bias; ``att``
    [1, H, C]; ``lin_edge.weight`` with ``edge_dim``; ``res.weight``, ``bias``) and, up to rounding and the numbers
    that dropout draws, the values are those of ``torch_geometric.nn.GATv2Conv``.

    Arguments: see :class:`fastgmtl.nn.attention_conv.AttentionConv`; ``share_weights``: W^r is W^l. Without
    ``edge_dim`` nothing of the size E H C is written; with it the sums in the formula are, as in PyTorch Geometric.

    Shapes: those of :class:`fastgmtl.nn.GATConv`; of a pair (x_src, x_dst) both are needed.

    Raises:
        TypeError, ValueError: a type or a shape does not fit, x_dst is None, edge_attr is given without ``edge_dim``.
    """

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
        share_weights: bool = False,
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
        self.share_weights = share_weights
        left, right = self._widths()
        self.lin_l = self._linear(left, bias)
        self.lin_r = self.lin_l if share_weights else self._linear(right, bias)
        self.att = self._vector()
        self.lin_edge = None if edge_dim is None else self._linear(edge_dim)
        self._make_output(bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for lin in (self.lin_l, self.lin_r, self.lin_edge, self.res):
            if lin is not None:
                lin.reset_parameters()
        self._draw(self.att)
        if self.bias is not None:
            self.bias.data.zero_()

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
            raise ValueError("GATv2Conv: x must be a tensor or a pair of tensors (x_src, x_dst), got x_dst None")
        graph, values = self._adjacency(edge_index, x_src, x_dst)
        if edge_attr is not None and self.lin_edge is None:
            raise ValueError("GATv2Conv: edge_attr must be None for a layer that was made without edge_dim")
        graph, features = self._with_loops(graph, self._edge_features(edge_attr, values, graph))
        key = self._split_heads(self.lin_l(x_src))
        shared = self.lin_r is self.lin_l and x_src is x_dst
        query = key if shared else self._split_heads(self.lin_r(x_dst))
        logits: dict[str, Any]
        if features is None:
            att = self.att.squeeze(-3).to(key.dtype)
            logits = {"query": query, "key": key, "att": att, "negative_slope": self.negative_slope}
        else:
            score = self._score_with_edges(graph, query, key, features)
            logits = {"score_edge": score, "negative_slope": None}
        return self._attend(graph, key, x_dst, return_attention_weights, **logits)

    def _score_with_edges(self, graph: Graph, query: Tensor, key: Tensor, features: Tensor) -> Tensor:
        """[E, H], with tasks [E, T, H]: the sums are different for every edge and column, and are written."""
        assert self.lin_edge is not None
        src, dst = graph.edge_index()
        sums = key[src] + query[dst] + self._split_heads(self.lin_edge(features))
        return (leaky_relu(sums, self.negative_slope) * self.att.squeeze(-3).to(sums.dtype)).sum(-1)

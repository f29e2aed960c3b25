"""NCN and NCNC: links between nodes by the embeddings of the neighbours that both have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl import ops
from fastgmtl.graph import Graph, as_graph

# Missing links that are scored at a time: what bounds the memory of completion.
CHUNK = 1 << 16


class NCN(nn.Module):
    r"""The score of a link by its two nodes and the sum of their common neighbours.

    .. math:: s_{ij} = \mathrm{MLP}\Big(\beta \, \mathrm{MLP}_c\Big(\sum_{u \in N(i) \cap N(j)} h_u\Big) +
        \mathrm{MLP}_x(h_i \circ h_j)\Big)

    i and j themselves are no common neighbours: the link that is asked for, if it is in the graph, does not answer.

    Args:
        in_channels: d, of h.
        hidden_channels: of the three networks: two or three linear maps each, with layer norm, relu and dropout.
        dropout: within them.
        beta: of common neighbours, at the start; a parameter.

    Shapes: x [N, d]; edge_index [2, E], a :class:`fastgmtl.Graph` or a sparse matrix, with links in both directions;
    pairs [2, Q]; output: logits [Q]. Of common neighbours only their graph is written, and a sum for each pair.

    Source: Wang, Yang and Zhang, Neural common neighbor with completion for link prediction, ICLR 2024, equation 9.
    """

    def __init__(self, in_channels: int, hidden_channels: int, dropout: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        self.in_channels, self.hidden_channels, self.dropout = in_channels, hidden_channels, dropout
        self.initial_beta = beta
        width = hidden_channels
        self.beta = nn.Parameter(torch.empty(1))
        first = nn.Linear(in_channels, width), nn.Dropout(dropout), nn.ReLU()
        self.common = nn.Sequential(*first, nn.Linear(width, width), *self._between(), nn.Linear(width, width))
        self.pair = nn.Sequential(nn.Linear(in_channels, width), *self._between(), nn.Linear(width, width))
        self.score = nn.Sequential(nn.Linear(width, width), *self._between(), nn.Linear(width, 1))
        self.reset_parameters()

    def _between(self) -> tuple[nn.Module, ...]:
        return nn.LayerNorm(self.hidden_channels), nn.Dropout(self.dropout), nn.ReLU()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in (*self.common, *self.pair, *self.score):
            if isinstance(part, (nn.Linear, nn.LayerNorm)):
                part.reset_parameters()
        nn.init.constant_(self.beta, self.initial_beta)

    def forward(self, x: Tensor, edge_index: Any, pairs: Tensor) -> Tensor:
        """Logits of the links between ``pairs``."""
        graph = as_graph(edge_index, x.size(0), x.size(0))
        return self._score(x, pairs, ops.common_neighbors(graph, pairs, x, without=pairs))

    def _score(self, x: Tensor, pairs: Tensor, common: Tensor) -> Tensor:
        src, dst = pairs.long()
        found: Tensor = self.score(self.beta * self.common(common) + self.pair(x[src] * x[dst]))
        return found.squeeze(1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.hidden_channels}"


class NCNC(NCN):
    r"""NCN with completion: a neighbour of one node alone counts as far as a link to the other is likely.

    .. math:: \sum_{u \in N(i) \cap N(j)} h_u + \sum_{u \in N(i) \setminus N(j)} p_{ju} h_u +
        \sum_{u \in N(j) \setminus N(i)} p_{iu} h_u, \qquad
        p = \frac{\alpha \, \pi q}{\pi q + 1 - q}, \quad q = \sigma(\tau (s - o))

    takes the place of the sum of NCN; s is the score of NCN, of the same parameters, for the missing link, on a graph
    without the link that is asked for. Probabilities have no gradient, as in the authors' code.

    Args:
        in_channels, hidden_channels, dropout, beta: those of :class:`NCN`.
        alpha, scale, offset, pt: alpha, tau, o and pi.

    Shapes: those of :class:`NCN`. Missing links are scored a bounded number at a time.

    Source: Wang, Yang and Zhang 2024, section 4.2; the form of p is that of their code.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        dropout: float = 0.0,
        beta: float = 1.0,
        alpha: float = 1.0,
        scale: float = 5.0,
        offset: float = 3.0,
        pt: float = 0.5,
    ) -> None:
        super().__init__(in_channels, hidden_channels, dropout, beta)
        self.alpha, self.scale, self.offset, self.pt = alpha, scale, offset, pt

    def forward(self, x: Tensor, edge_index: Any, pairs: Tensor) -> Tensor:
        """Logits of the links between ``pairs``."""
        graph = as_graph(edge_index, x.size(0), x.size(0))
        both, *alone = ops.intersect(graph, pairs, pairs, difference=True)
        common = ops.spmm(both, x)
        for part, other in zip(alone, pairs.flip(0), strict=True):
            common = common + ops.spmm(part, x, self._probabilities(graph, x, part, pairs, other))
        return self._score(x, pairs, common)

    @torch.no_grad()
    def _probabilities(self, graph: Graph, x: Tensor, part: Graph, pairs: Tensor, other: Tensor) -> Tensor:
        """Of links from ``other`` [Q] to what each pair has in ``part``, [E]."""
        query, found = part.edge_rows(), [x.new_empty(0)]
        for rows, column in zip(query.split(CHUNK), part.col.split(CHUNK), strict=True):
            links = torch.stack([other[rows].long(), column.long()])
            # Without the link of the pair, neither of its nodes is a neighbour of the other.
            without = torch.cat([links[1:], pairs[:, rows].long()])
            score = self._score(x, links, ops.common_neighbors(graph, links, x, without=without))
            likely = (self.scale * (score - self.offset)).sigmoid()
            found.append(self.alpha * self.pt * likely / (self.pt * likely + 1 - likely))
        return torch.cat(found)

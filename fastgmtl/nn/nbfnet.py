"""NBFNet: a generalised Bellman-Ford iteration from a source entity, for link prediction in knowledge graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgmtl import ops
from fastgmtl.graph import Graph
from fastgmtl.ops.check import one_of
from fastgmtl.ops.relational import MESSAGES

AGGREGATIONS = ("sum", "mean", "max", "pna")


class NBFNetConv(nn.Module):
    r"""One step of the generalised Bellman-Ford iteration, for B queries at once.

    .. math:: h'_v = h_v + \mathrm{relu}(\mathrm{LN}(W [h_v, \mathrm{AGG}(\{h_u \circ w_r(q) : (u, r, v)\} \cup
        \{b_v\})])), \quad w_r(q) = W_r q + c_r

    with the boundary condition b as one more message. Source: Zhu et al., Neural Bellman-Ford Networks, NeurIPS 2021,
    equations 4, 5 and appendix; PNA (Corso et al. 2020) is the mean, maximum, minimum and standard deviation of the
    messages, each as it is, times and divided by the logarithm of the degree over its mean.

    Args:
        channels: d, of nodes, boundary and queries.
        num_relations: R, inverses included.
        message: "mul", "add" or "rotate"; see :func:`fastgmtl.ops.rspmm`.
        aggr: "sum", "mean", "max" or "pna".
        shortcut: whether h is added.

    Shapes: x [N, B, d], query [B, d], boundary [N, B, d], edge_type [E], weight None or [E]; output [N, B, d].
    Nothing of size E x d is written.
    """

    def __init__(
        self, channels: int, num_relations: int, message: str = "mul", aggr: str = "pna", shortcut: bool = True
    ) -> None:
        super().__init__()
        one_of("NBFNetConv", "message", message, MESSAGES)
        one_of("NBFNetConv", "aggr", aggr, AGGREGATIONS)
        self.channels, self.num_relations = channels, num_relations
        self.message, self.aggr, self.shortcut = message, aggr, shortcut
        self.relation = nn.Linear(channels, num_relations * channels)
        self.lin = nn.Linear((13 if aggr == "pna" else 2) * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in (self.relation, self.lin, self.norm):
            part.reset_parameters()

    def forward(
        self,
        graph: Graph,
        edge_type: Tensor,
        x: Tensor,
        query: Tensor,
        boundary: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The next state of every node."""
        relation = self.relation(query).unflatten(1, (self.num_relations, self.channels)).transpose(0, 1)

        def reduced(reduce: str) -> Tensor:
            return ops.rspmm(graph, x, relation, edge_type, weight, self.message, reduce)

        def extreme(reduce: str) -> Tensor:
            other = (torch.maximum if reduce == "max" else torch.minimum)(reduced(reduce), boundary)
            return torch.where(graph.in_degree().reshape(-1, 1, 1) > 0, other, boundary)

        degree = (graph.in_degree() + 1).to(x.dtype).reshape(-1, 1, 1)
        if self.aggr == "sum":
            found = reduced("sum") + boundary
        elif self.aggr == "mean":
            found = (reduced("sum") + boundary) / degree
        elif self.aggr == "max":
            found = extreme("max")
        else:
            mean = (reduced("sum") + boundary) / degree
            square = (square_sum(graph, x, relation, edge_type, weight, self.message) + boundary.square()) / degree
            deviation = (square - mean.square()).clamp(min=1e-6).sqrt()
            parts = torch.cat([mean, extreme("max"), extreme("min"), deviation], -1)
            scale = degree.log()
            scale = scale / scale.mean().clamp(min=1e-6)
            found = torch.cat([parts, parts * scale, parts / scale.clamp(min=1e-2)], -1)
        out = self.norm(self.lin(torch.cat([x, found], -1))).relu()
        return out + x if self.shortcut else out

    def extra_repr(self) -> str:
        return f"{self.channels}, num_relations={self.num_relations}, message={self.message}, aggr={self.aggr}"


def square_sum(
    graph: Graph, x: Tensor, relation: Tensor, edge_type: Tensor, weight: Tensor | None, message: str
) -> Tensor:
    """The sum of the squares of the messages of :func:`fastgmtl.ops.rspmm`, of products of squares and of features."""
    weight = None if weight is None else weight.square()

    def total(x: Tensor, z: Tensor, kind: str = "mul") -> Tensor:
        return ops.rspmm(graph, x, z, edge_type, weight, kind)

    if message == "mul":
        return total(x.square(), relation.square())
    if message == "add":
        return total(x.square(), relation.square(), "add") + 2 * total(x, relation)
    (a, b), (c, d) = (v.chunk(2, -1) for v in (x, relation))
    first = total(torch.cat([a, a], -1).square(), torch.cat([c, d], -1).square())
    second = total(torch.cat([b, b], -1).square(), torch.cat([d, c], -1).square())
    return first + second + 2 * total(torch.cat([-a * b, a * b], -1), torch.cat([c * d, c * d], -1))


class NBFNet(nn.Module):
    """Scores of all entities as the tail of (source, relation, ?), for B queries at once.

    The state of the source begins as the query, the embedding of its relation, that of all others as 0; after the
    layers, two linear maps with a relu between them make a score of the state and the query.

    Args:
        channels: d.
        num_layers: steps of the iteration, hence the longest paths that count.
        num_relations: R, inverses included.
        message, aggr, shortcut: those of :class:`NBFNetConv`.

    Source: Zhu et al. 2021, algorithm 1.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int,
        num_relations: int,
        message: str = "mul",
        aggr: str = "pna",
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.query = nn.Embedding(num_relations, channels)
        layers = (NBFNetConv(channels, num_relations, message, aggr, shortcut) for _ in range(num_layers))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(nn.Linear(2 * channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, 1))

    def forward(
        self,
        graph: Graph,
        edge_type: Tensor,
        source: Tensor,
        relation: Tensor,
        candidates: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scores [B, N], or of the candidates [B, K] alone; source and relation are [B], int64."""
        query, each = self.query(relation), torch.arange(len(source), device=source.device)
        boundary = query.new_zeros(graph.num_dst, *query.shape).index_put((source, each), query)
        state = boundary
        for layer in self.layers:
            state = layer(graph, edge_type, state, query, boundary, weight)
        found = state.transpose(0, 1) if candidates is None else state[candidates, each.unsqueeze(1)]
        return self.head(torch.cat([found, query.unsqueeze(1).expand(-1, found.size(1), -1)], -1)).squeeze(-1)

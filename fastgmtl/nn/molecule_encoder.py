"""MoleculeEncoder: the network of pre-trained molecule encoders, whose edge features never become edge tensors."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.graph import Graph
from fastgmtl.ops.spmm import spmm

ATOMS, CHIRALITIES, BONDS, DIRECTIONS = 120, 3, 6, 3
MASKED, LOOP = 119, 4  # the atom that stands for a hidden one, the bond type of a self loop
KINDS = ("gin", "gcn", "sage")


@dataclass(frozen=True, eq=False)
class Bonds:
    """What every layer reads of the bonds of molecules: made once for all layers and passes.

    graph: the bonds in both directions, and a loop for every atom. weight: of its edges, or None for ones.
    counts: [N, 9]: how often (with the weights) each bond type, and each direction, points to an atom.
    """

    graph: Graph
    weight: Tensor | None
    counts: Tensor

    @classmethod
    def of(cls, graph: Graph, edge_type: Tensor, kind: str, dtype: torch.dtype = torch.float32) -> Bonds:
        """graph: N atoms, E edges, without loops; edge_type int64 [E]: 3 * bond type + direction."""
        looped, n = graph.add_self_loops(), graph.num_dst
        source, target = looped.edge_index()
        weight = None
        if kind == "gcn":
            root = looped.in_degree().to(dtype).rsqrt()
            weight = root[source] * root[target]
        elif kind == "sage":
            weight = looped.inverse_degree(dtype)[target]
        code = torch.cat((edge_type, edge_type.new_full((n,), DIRECTIONS * LOOP)))
        features = torch.cat((code // DIRECTIONS, BONDS + code % DIRECTIONS))
        incidence = Graph.from_edge_index(torch.stack((features, target.repeat(2))), BONDS + DIRECTIONS, n)
        one = torch.eye(BONDS + DIRECTIONS, dtype=dtype, device=code.device)
        return cls(looped, weight, spmm(incidence, one, None if weight is None else weight.repeat(2)))


class BondConv(nn.Module):
    r"""A layer on molecules: neighbours and the atom itself, each with the embedding of its bond.

    .. math::
        \text{gin:} \; h'_v &= W_2 \, \mathrm{relu}(W_1 m_v + b_1) + b_2, \quad m_v = \sum_u (h_u + e_{uv}) \\
        \text{gcn:} \; h'_v &= \sum_u (W h_u + b + e_{uv}) / \sqrt{d_u d_v} \\
        \text{sage:} \; h'_v &= z_v / \|z_v\|, \quad z_v = \frac{1}{d_v} \sum_u (W h_u + b + e_{uv})

    u runs over the neighbours of v and v itself, of which there are d_v; e = e1[bond type] + e2[direction]. A sum of
    embeddings is a product of counts, [N, 9], and the tables: nothing of size E x d is written.
    Source: Hu et al., Strategies for pre-training graph neural networks, ICLR 2020; parameters have the names of its
    released weights.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gin":
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        else:
            self.linear = nn.Linear(width, width)
        self.edge_embedding1 = nn.Embedding(BONDS, width)
        self.edge_embedding2 = nn.Embedding(DIRECTIONS, width)
        for table in (self.edge_embedding1, self.edge_embedding2):
            nn.init.xavier_uniform_(table.weight)

    def forward(self, h: Tensor, bonds: Bonds) -> Tensor:
        """h' [N, d] of h [N, d]."""
        if self.kind != "gin":
            h = self.linear(h)
        tables = torch.cat((self.edge_embedding1.weight, self.edge_embedding2.weight))
        total = torch.addmm(spmm(bonds.graph, h, bonds.weight), bonds.counts, tables)
        if self.kind == "gin":
            return self.mlp(total)
        return F.normalize(total, dim=1) if self.kind == "sage" else total


class MoleculeEncoder(nn.Module):
    """Atoms [N, 2] to h [N, width]: embeddings of element and chirality, then layers of BondConv, batch norm, relu,
    dropout; no relu after the last one.

    Args:
        kind: "gin", "gcn" or "sage".
        width: d; 300 in the released weights.
        layers: 5 in the released weights.
        dropout: after every layer.

    Raises:
        ValueError: kind is another one.
    """

    def __init__(self, kind: str = "gin", width: int = 300, layers: int = 5, dropout: float = 0.5) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"MoleculeEncoder: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.dropout = kind, dropout
        self.x_embedding1 = nn.Embedding(ATOMS, width)
        self.x_embedding2 = nn.Embedding(CHIRALITIES, width)
        for table in (self.x_embedding1, self.x_embedding2):
            nn.init.xavier_uniform_(table.weight)
        self.gnns = nn.ModuleList(BondConv(width, kind) for _ in range(layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))

    def bonds(self, graph: Graph, edge_type: Tensor) -> Bonds:
        """What :meth:`forward` takes of a molecule graph (see :class:`Bonds`)."""
        return Bonds.of(graph, edge_type, self.kind, self.x_embedding1.weight.dtype)

    def forward(self, atom: Tensor, bonds: Bonds) -> Tensor:
        """h [N, width]; atom int64 [N, 2]: atomic number - 1 (MASKED for a hidden one) and chirality."""
        h = self.x_embedding1(atom[:, 0]) + self.x_embedding2(atom[:, 1])
        for layer, (conv, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True), 1):
            h = norm(conv(h, bonds))
            if layer < len(self.gnns):
                h = h.relu()
            h = F.dropout(h, self.dropout, self.training)
        return h

    def load_pretrained(self, path: Path) -> None:
        """Take the weights of a file of tensors by name, as ``torch.save(model.state_dict())`` writes it.

        Nothing but tensors is unpickled. Raises FileNotFoundError, and ValueError for a file that is damaged or of a
        network of another kind or size.
        """
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are formats
            raise ValueError(f"{path}: not a file of weights ({error})") from error
        if not isinstance(found, OrderedDict | dict):
            raise ValueError(f"{path}: must hold tensors by name, got {type(found).__name__}")
        try:
            self.load_state_dict(found)
        except (RuntimeError, AttributeError, TypeError) as error:
            shape = f"{self.kind}, width {self.x_embedding1.embedding_dim}, {len(self.gnns)} layers"
            raise ValueError(f"{path}: not the weights of this network ({shape}): {error}") from error

"""Auxiliary tasks on molecules: what a shared encoder may learn besides its target, from the molecules alone.

Source: Hu et al., Strategies for pre-training graph neural networks, ICLR 2020 (masking, edges, context), Velickovic
et al., Deep graph infomax, ICLR 2019, and Rong et al., GROVER, NeurIPS 2020 (motifs); with the numbers of Dey and Ning,
Enhancing molecular property prediction with auxiliary learning and task-specific adaptation, J. Cheminformatics 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data.molecules import MOTIFS, Molecules
from fastgmtl.graph import Graph
from fastgmtl.nn.molecule_encoder import MASKED, Bonds, MoleculeEncoder
from fastgmtl.ops import sddmm, spmm

MASK_SHARE = 0.15
BALL, CONTEXT_INNER, CONTEXT_OUTER = 5, 4, 7  # in bonds from the root


@dataclass(frozen=True, eq=False)
class View:
    """One batch of molecules, encoded: what the losses of a step share.

    atom [N, 2]; h [N, d]; pooled [G, d], the mean of h over each molecule; owner [N], the molecule of each atom.
    """

    encoder: MoleculeEncoder
    batch: Molecules
    generator: torch.Generator
    atom: Tensor
    bonds: Bonds
    owner: Tensor
    h: Tensor
    pooled: Tensor

    @classmethod
    def of(cls, encoder: MoleculeEncoder, batch: Molecules, generator: torch.Generator) -> View:
        """Encode a batch."""
        assert batch.edge_type is not None and batch.node_graph is not None
        atom, bonds = batch.x.long(), encoder.bonds(batch.graph, batch.edge_type)
        h = encoder(atom, bonds)
        pooled = mean_by(batch.node_graph, h, batch.num_graphs)
        return cls(encoder, batch, generator, atom, bonds, batch.node_graph, h, pooled)

    def uniform(self, count: int) -> Tensor:
        """Numbers in [0, 1), drawn where the generator lives: the same ones for any device."""
        drawn = torch.rand(count, generator=self.generator, device=self.generator.device, dtype=torch.float64)
        return drawn.to(self.h.device)


class AttributeMasking(nn.Module):
    """Which element a hidden atom has: cross entropy over 119 elements.

    floor(0.15 n + 1) atoms of a molecule of n are hidden, with their chirality and not their bonds, and the molecules
    encoded once more.
    """

    def __init__(self, encoder: MoleculeEncoder) -> None:
        super().__init__()
        self.linear = nn.Linear(width(encoder), MASKED)

    def forward(self, view: View) -> Tensor:
        """The loss of a batch."""
        rows = hidden_atoms(view.owner, view.batch.num_graphs, view.uniform(len(view.owner)))
        atom = view.atom.clone()
        atom[rows] = torch.tensor([MASKED, 0], device=atom.device)
        h = view.encoder(atom, view.bonds)
        return F.cross_entropy(self.linear(h[rows]), view.atom[rows, 0])


class EdgePrediction(nn.Module):
    """Whether two atoms are joined, by the inner product of their h: all bonds, and as many pairs that are none."""

    def __init__(self, encoder: MoleculeEncoder) -> None:
        super().__init__()

    def forward(self, view: View) -> Tensor:
        """The loss of a batch."""
        bonds = view.batch.graph.edge_index()
        wrong = unbound_pairs(bonds, view.owner, view.batch.num_graphs, view.uniform(10 * bonds.shape[1]))
        n, right = len(view.h), bonds[:, ::2]
        score = sddmm(Graph.from_edge_index(torch.cat((right, wrong), 1), n, n), view.h, view.h)
        return told_apart(*score.split((right.shape[1], wrong.shape[1])))


class ContextPrediction(nn.Module):
    """Whether a neighbourhood and its surroundings are of one molecule.

    Of a random root the atoms within 5 bonds are encoded by the shared encoder, of which the root's row is s; the atoms
    5 to 7 bonds away by a network of 3 layers of its own, whose mean over the atoms at 5 bonds is c. The score is s c,
    against that of the next molecule's c. Molecules without atoms so far from their root take no part.
    """

    def __init__(self, encoder: MoleculeEncoder) -> None:
        super().__init__()
        layers = CONTEXT_OUTER - CONTEXT_INNER
        self.encoder = MoleculeEncoder(encoder.kind, width(encoder), layers, encoder.dropout)

    def forward(self, view: View) -> Tensor:
        """The loss of a batch; 0 where fewer than two molecules take part."""
        ptr = bounds(view.owner, view.batch.num_graphs)
        root = ptr[:-1] + (view.uniform(view.batch.num_graphs) * ptr.diff()).long()
        away = distances(view.bonds.graph, root, CONTEXT_OUTER)
        ring = away > CONTEXT_INNER
        takes_part = torch.zeros(view.batch.num_graphs, dtype=torch.bool, device=away.device)
        takes_part[view.owner[ring]] = True
        if int(takes_part.sum()) < 2:
            return 0 * view.pooled.sum()
        near = (away >= 0) & (away <= BALL) & takes_part[view.owner]
        inside, outside = self._part(view, near), self._part(view, ring)
        place = near.cumsum(0) - 1
        s = view.encoder(*inside)[place[root[takes_part]]]
        shared = away[ring] <= BALL
        number = takes_part.cumsum(0) - 1
        c = mean_by(number[view.owner[ring][shared]], self.encoder(*outside)[shared], len(s))
        return told_apart((s * c).sum(1), (s * c.roll(-1, 0)).sum(1))

    @staticmethod
    def _part(view: View, keep: Tensor) -> tuple[Tensor, Bonds]:
        """Atoms and bonds of the molecules' parts of the atoms ``keep`` bool [N]."""
        assert view.batch.edge_type is not None
        bonds = view.batch.graph.edge_index()
        within = keep[bonds[0]] & keep[bonds[1]]
        place, n = keep.cumsum(0) - 1, int(keep.sum())
        graph = Graph.from_edge_index(place[bonds[:, within]], n, n)
        return view.atom[keep], view.encoder.bonds(graph, view.batch.edge_type[within])


class Infomax(nn.Module):
    """Whether an atom is of a molecule: h W g of its own molecule against that of the next, g = sigmoid(mean h)."""

    def __init__(self, encoder: MoleculeEncoder) -> None:
        super().__init__()
        d = width(encoder)
        self.weight = nn.Parameter(torch.empty(d, d).uniform_(-(d**-0.5), d**-0.5))

    def forward(self, view: View) -> Tensor:
        """The loss of a batch."""
        graphs, n = view.batch.num_graphs, len(view.h)
        owner = torch.cat((view.owner, (view.owner + 1) % graphs))
        atoms = torch.arange(n, device=owner.device).repeat(2)
        pairs = Graph.from_edge_index(torch.stack((owner, atoms)), graphs, n)
        return told_apart(*sddmm(pairs, view.h, view.pooled.sigmoid() @ self.weight.t()).split(n))


class Motif(nn.Module):
    """Which motifs a molecule holds: a linear map of the mean of h, binary cross entropy."""

    def __init__(self, encoder: MoleculeEncoder) -> None:
        super().__init__()
        self.linear = nn.Linear(width(encoder), MOTIFS)

    def forward(self, view: View) -> Tensor:
        """The loss of a batch."""
        out = self.linear(view.pooled)
        return F.binary_cross_entropy_with_logits(out, view.batch.motif.to(out.dtype))


TASKS: dict[str, type[nn.Module]] = {
    "masking": AttributeMasking,
    "edges": EdgePrediction,
    "context": ContextPrediction,
    "infomax": Infomax,
    "motif": Motif,
}


def width(encoder: MoleculeEncoder) -> int:
    """d of h [N, d]."""
    return encoder.x_embedding1.embedding_dim


def bounds(owner: Tensor, count: int) -> Tensor:
    """Sorted owners [N] to the bounds [count + 1] of the members of each."""
    return torch.searchsorted(owner, torch.arange(count + 1, device=owner.device))


def mean_by(owner: Tensor, h: Tensor, count: int) -> Tensor:
    """Mean of h [N, d] by owner: [count, d]; 0 where there is nothing."""
    rows = torch.arange(len(owner), device=owner.device)
    return spmm(Graph.from_edge_index(torch.stack((rows, owner)), len(owner), count), h, reduce="mean")


def told_apart(right: Tensor, wrong: Tensor) -> Tensor:
    """Mean of -log sigmoid(right) plus mean of -log(1 - sigmoid(wrong)); 0 of none."""
    return sum(F.softplus(v).sum() / max(1, len(v)) for v in (-right, wrong))  # type: ignore[return-value]


def hidden_atoms(owner: Tensor, count: int, draw: Tensor) -> Tensor:
    """floor(0.15 n + 1) atoms of each molecule of n, chosen by ``draw`` [N] in [0, 1): their rows."""
    ptr = bounds(owner, count)
    order = (owner + draw).argsort()
    rank = torch.arange(len(owner), device=owner.device) - ptr[owner]
    most = (MASK_SHARE * ptr.diff().double() + 1).long()
    return order[rank < most[owner]]


def unbound_pairs(edges: Tensor, owner: Tensor, count: int, draw: Tensor) -> Tensor:
    """Ordered pairs of two atoms of one molecule that are not joined, half as many as it has of ``edges`` [2, E].

    Of 5 tries an edge (``draw`` [10 E] in [0, 1), two a try) the first that fit, none twice: fewer where they run out.
    """
    n, ptr = len(owner), bounds(owner, count)
    of = owner[edges[0]].repeat_interleave(5)
    size = ptr.diff()[of]
    first, second = (ptr[of] + (part * size).long() for part in draw.view(2, -1))
    key = first * n + second
    known = (edges[0] * n + edges[1]).sort().values
    place = torch.searchsorted(known, key).clamp(max=max(0, len(known) - 1))
    fits = (first != second) & (known[place] != key) if len(known) else first != second
    in_order, order = key.sort(stable=True)
    again = torch.zeros_like(fits)
    again[order[1:]] = in_order[1:] == in_order[:-1]
    fits &= ~again
    tries = bounds(of, count)
    before = F.pad(fits.cumsum(0), (1, 0))
    fits &= before[1:] - before[tries[of]] <= (tries.diff() // 10)[of]
    return torch.stack((first[fits], second[fits]))


def distances(graph: Graph, roots: Tensor, most: int) -> Tensor:
    """Bonds from the root of its molecule to each atom, int64 [N]; -1 for more than ``most``. graph: with loops."""
    away = torch.full((graph.num_dst,), -1, device=roots.device)
    away[roots] = 0
    with torch.no_grad():
        for step in range(1, most + 1):
            reached = spmm(graph, (away >= 0).float()[:, None])[:, 0] > 0
            away[reached & (away < 0)] = step
    return away

"""One step of RCGrad in plain PyTorch, as its released code takes it: edge tensors, flat vectors, a graph of gradients.

The auxiliary tasks and their draws are ours, with every operator by its plain twin, so that the losses are the same;
the released code draws pairs and rings in Python loops besides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import Graph, backend
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods.rcgrad import RCGrad
from fastgmtl.nn import MoleculeEncoder
from fastgmtl.nn.molecule_encoder import DIRECTIONS, LOOP, BondConv


@dataclass(frozen=True, eq=False)
class PlainBonds:
    """Bonds with a loop for every atom: a row of the edge index, a bond type and a direction for each."""

    graph: Graph
    edge_index: Tensor
    code: Tensor


def degrees(target: Tensor, h: Tensor) -> Tensor:
    """Edges into each atom [N]."""
    return h.new_zeros(len(h)).index_add(0, target, h.new_ones(len(target)))


class PlainConv(BondConv):
    """A message for every edge: neighbour plus the embeddings of the bond; added by index_add."""

    def forward(self, h: Tensor, bonds: PlainBonds) -> Tensor:  # type: ignore[override]
        source, target = bonds.edge_index
        if self.kind != "gin":
            h = self.linear(h)
        embedded = self.edge_embedding1(bonds.code // DIRECTIONS) + self.edge_embedding2(bonds.code % DIRECTIONS)
        message = h[source] + embedded
        if self.kind == "gcn":
            root = degrees(target, h).pow(-0.5)
            message = (root[source] * root[target]).unsqueeze(1) * message
        total = torch.zeros_like(h).index_add(0, target, message)
        if self.kind == "gin":
            return self.mlp(total)
        if self.kind == "sage":
            return F.normalize(total / degrees(target, h).unsqueeze(1), dim=1)
        return total


class PlainEncoder(MoleculeEncoder):
    """The same network with messages."""

    def bonds(self, graph: Graph, edge_type: Tensor) -> Any:
        looped = graph.add_self_loops()
        code = torch.cat((edge_type, edge_type.new_full((graph.num_dst,), DIRECTIONS * LOOP)))
        return PlainBonds(looped, looped.edge_index(), code)


def plain(method: RCGrad) -> RCGrad:
    """A copy whose encoders are plain."""
    found = copy.deepcopy(method)
    for module in found.modules():
        if type(module) is BondConv:
            module.__class__ = PlainConv
        elif type(module) is MoleculeEncoder:
            module.__class__ = PlainEncoder
    return found


def step(method: RCGrad, batch: Molecules, create_graph: bool) -> None:
    """Losses and gradients of one step of ``as_released``. create_graph: as the released code has it, for nothing."""
    with backend.use_backend("reference"):
        losses = method.step(batch)
        omega = method.aggregator.omega
        surgery(method, losses, omega, create_graph)


def surgery(method: RCGrad, losses: Mapping[str, Tensor], omega: Tensor, create_graph: bool) -> None:
    """A flat vector for each task; heads by a backward of the weighted losses; the encoder's update in pieces."""
    shared, rows = method.shared, []
    for loss in losses.values():
        found = torch.autograd.grad(loss, shared, create_graph=create_graph, retain_graph=True, allow_unused=True)
        pairs = zip(shared, found, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
    target, norm = rows[0], rows[0].norm()
    update = target.clone()
    for i, row in enumerate(rows[1:], 1):
        factor = (torch.clamp(norm / row.norm(), max=1) + omega[i]) / 2
        product = row @ target
        projected = row - product / norm**2 * target if product < 0 else row
        update = update + factor.to(row.dtype) * projected
    heads = [p for head in method.heads() for p in head]
    scale = torch.cat([omega.new_ones(1), omega[1:]]).detach()
    total = sum(w * loss for w, loss in zip(scale, losses.values(), strict=True))
    assert isinstance(total, Tensor)
    total.backward(inputs=heads)
    omega.grad = torch.stack([loss.detach().double() for loss in losses.values()])
    for p, value in zip(shared, update.detach().split([p.numel() for p in shared]), strict=True):
        p.grad = value.view_as(p)

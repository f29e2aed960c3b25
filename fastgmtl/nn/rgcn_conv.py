"""RGCNConv: the layer of relational graph convolutional networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from fastgmtl.convert import plain_edge_index, sparse_to_coo, sparse_weight
from fastgmtl.graph import Graph
from fastgmtl.nn.conv import _REDUCE, Conv, Edges
from fastgmtl.nn.relations import Relations, relations_of
from fastgmtl.ops.grouped_matmul import grouped_matmul
from fastgmtl.ops.spmm import spmm

Features = Tensor | tuple[Tensor | None, Tensor] | None


class RGCNConv(Conv):
    r"""A matrix for each relation, of the mean (sum, ...) of the neighbours along it, plus one of the node itself.

    .. math:: x'_{i,t} = \Theta_{0,t} x_{i,t} + \sum_r \Theta_{r,t} \, \mathrm{aggr}_{j \in N_r(i)} x_{j,t} + b_t

    All relations are aggregated in one pass over rows (node, relation); then one product with the stacked matrices or,
    where most of these rows are empty, a product for the rows of each relation that are not. Source: Schlichtkrull et
    al., Modeling relational data with graph convolutional networks, ESWC 2018. The signature, the parameters
    (``weight`` [R, F, C], ``root`` [F, C], ``bias`` [C]; with bases ``weight`` [B, F, C] and ``comp`` [R, B], with
    blocks ``weight`` [R, B, F / B, C / B]) and, up to rounding, the values are those of
    ``torch_geometric.nn.RGCNConv``.

    Args:
        in_channels: F, or (F_src, F_dst).
        out_channels: C.
        num_relations: R.
        num_bases: B, or None: the matrices are combinations of B bases.
        num_blocks: B, or None: the matrices have B blocks on the diagonal. Not together with num_bases.
        aggr: "mean", "sum" (or "add"), "max", "min".
        root_weight: whether the node itself takes part.
        is_sorted: taken and not needed: edges are sorted once, whatever their order.
        bias: whether there is a b.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, F], or a pair (x_src, x_dst); or None or int64 [N] (numbers of embeddings: x_j is a one at that
    place). edge_type int [E] in the order of edge_index, or the values of a sparse matrix. Output [M, C]. With tasks
    features [., F] or [., T, F], output [M, T, C].
    """

    comp: Tensor | None
    root: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        num_relations: int,
        num_bases: int | None = None,
        num_blocks: int | None = None,
        aggr: str = "mean",
        root_weight: bool = True,
        is_sorted: bool = False,
        bias: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kwargs.pop("aggr", aggr), num_tasks=num_tasks, **kwargs)
        name = type(self).__name__
        if num_bases is not None and num_blocks is not None:
            raise ValueError(f"{name}: num_bases or num_blocks must be None, got {num_bases} and {num_blocks}")
        f_src, f_dst = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        if num_blocks is not None and (f_src % num_blocks or out_channels % num_blocks):
            raise ValueError(
                f"{name}: num_blocks must divide in_channels and out_channels, got {num_blocks} for {f_src} and "
                f"{out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_relations = num_relations
        self.num_bases = num_bases
        self.num_blocks = num_blocks
        self.is_sorted = is_sorted
        self.in_channels_l = f_src

        def parameter(*shape: int) -> Parameter:
            return Parameter(torch.empty(shape if num_tasks is None else (num_tasks, *shape)))

        if num_blocks is not None:
            self.weight = parameter(num_relations, num_blocks, f_src // num_blocks, out_channels // num_blocks)
        else:
            self.weight = parameter(num_relations if num_bases is None else num_bases, f_src, out_channels)
        self.comp = None if num_bases is None else parameter(num_relations, num_bases)
        self.root = parameter(f_dst, out_channels) if root_weight else None
        self.bias = parameter(out_channels) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        with torch.no_grad():
            for value in (self.weight, self.comp, self.root):
                if value is not None:
                    bound = math.sqrt(6.0 / (value.size(-2) + value.size(-1)))
                    value.uniform_(-bound, bound)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Features, edge_index: Edges, edge_type: Tensor | None = None) -> Tensor:
        """x' of the formula above."""
        x_src, x_dst = self._ends(x)
        relations = self._relations(edge_index, edge_type, x_src.size(0), x_dst.size(0))
        weight = self._matrices()
        if x_src.is_floating_point():
            out = self._of_features(relations, x_src, weight)
        else:
            out = self._of_embeddings(relations, x_src, weight)
        if self.root is not None:
            out = out + (self._times(x_dst, self.root) if x_dst.is_floating_point() else self._rows(self.root, x_dst))
        return out if self.bias is None else out + self.bias

    def _ends(self, x: Features) -> tuple[Tensor, Tensor]:
        pair = isinstance(x, tuple)
        src = x[0] if isinstance(x, tuple) else x
        if src is None:
            src = torch.arange(self.in_channels_l, device=self.weight.device)
        dst = x[1] if isinstance(x, tuple) else src
        if pair and self.flow != "source_to_target":
            raise ValueError(
                f"{type(self).__name__}: flow must be source_to_target for a pair (x_src, x_dst), got {self.flow!r}; "
                "turn the edges round instead, with edge_index.flip(0)"
            )
        for name, value in (("x_src", src), ("x_dst", dst)):
            numbers = isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 1
            if not numbers:
                self._features(name if pair else "x", value)
        if self.num_blocks is not None and not src.is_floating_point():
            raise ValueError(f"{type(self).__name__}: x must be features where num_blocks is given, got int64")
        return src, dst

    def _relations(self, edges: Edges, edge_type: Tensor | None, num_src: int, num_dst: int) -> Relations:
        name = type(self).__name__
        if not isinstance(edges, Graph) and not (isinstance(edges, Tensor) and edges.layout == torch.strided):
            # The values of a sparse matrix are the types.
            if edge_type is None:
                values = sparse_weight(edges)
                edge_type = None if values is None else values.long()
            edges = sparse_to_coo(edges)[0]
        if edge_type is None:
            raise ValueError(f"{name}: edge_type must be given: a type for each edge, or a sparse matrix of them")
        if not isinstance(edges, Graph):
            edges = plain_edge_index(edges)
        elif (edges.num_src, edges.num_dst) != (num_src, num_dst):
            raise ValueError(
                f"{name}: the graph has {edges.num_src} sources and {edges.num_dst} destinations, the features are for "
                f"{num_src} and {num_dst}"
            )
        backwards = self.flow == "target_to_source"
        return relations_of(name, edges, edge_type, num_src, num_dst, self.num_relations, backwards)

    def _matrices(self) -> Tensor:
        """[(T,) R, F, C]"""
        if self.comp is not None:
            return (self.comp @ self.weight.flatten(-2)).unflatten(-1, self.weight.shape[-2:])
        if self.num_blocks is not None:
            # [.., R, B, f, c] to [.., R, f, c, B, B] to [.., R, B, f, B, c].
            spread = torch.diag_embed(self.weight.movedim(-3, -1))
            return spread.movedim((-2, -1), (-4, -2)).flatten(-4, -3).flatten(-2)
        return self.weight

    def _of_features(self, relations: Relations, x: Tensor, weight: Tensor) -> Tensor:
        present = relations.present()
        if present is not None:
            mixed = self._grouped(spmm(present.gather, x, reduce=_REDUCE[self.aggr]), weight, present.bounds)
            return spmm(present.spread, mixed)
        # [M, (T,) R F] times the matrices of all relations below each other.
        z = spmm(relations.rows, x, reduce=_REDUCE[self.aggr]).unflatten(0, (-1, self.num_relations))
        return self._times(z.movedim(1, -2).flatten(-2), weight.flatten(-3, -2))

    def _grouped(self, z: Tensor, weight: Tensor, bounds: list[int]) -> Tensor:
        """Rows [P, (T,) F] of the relations, times their matrices: [P, (T,) C]."""
        if self.num_tasks is None:
            return grouped_matmul(z, weight, bounds)
        if z.dim() == 2:  # shared by the tasks: one product with the matrices of all tasks beside each other
            return grouped_matmul(z, weight.movedim(0, 2).flatten(2), bounds).unflatten(1, (self.num_tasks, -1))
        ptr = [t * bounds[-1] + p for t in range(self.num_tasks) for p in bounds[:-1]] + [self.num_tasks * bounds[-1]]
        out = grouped_matmul(z.transpose(0, 1).flatten(0, 1), weight.flatten(0, 1), ptr)
        return out.unflatten(0, (self.num_tasks, -1)).transpose(0, 1)

    def _of_embeddings(self, relations: Relations, index: Tensor, weight: Tensor) -> Tensor:
        table = self._rows(weight, index)  # [(T,) R, N, C]
        table = table.flatten(0, 1) if self.num_tasks is None else table.movedim(0, 2).flatten(0, 1)
        out = spmm(relations.own_columns(), table, reduce=_REDUCE[self.aggr])
        return out.unflatten(0, (-1, self.num_relations)).sum(1)

    def _rows(self, matrices: Tensor, index: Tensor) -> Tensor:
        """Rows ``index`` of [(T,) .., F, C]; of a matrix a task, [N, T, C]."""
        found = matrices.index_select(-2, index)
        return found.transpose(0, 1) if self.num_tasks is not None and found.dim() == 3 else found

    def _times(self, x: Tensor, matrix: Tensor) -> Tensor:
        """x [N, (T,) F] times [(T,) F, C]."""
        if self.num_tasks is None:
            return x @ matrix
        if x.dim() == 2:
            return (x @ matrix.movedim(0, 1).flatten(1)).unflatten(1, (self.num_tasks, -1))
        return torch.bmm(x.transpose(0, 1), matrix).transpose(0, 1)

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels), f"num_relations={self.num_relations}")

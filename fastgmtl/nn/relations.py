"""Typed edges as patterns: the relations of a layer whose edges have a type each, sorted once and kept."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastgmtl.graph import Graph, _plain


@dataclass(frozen=True)
class Present:
    """The (relation, destination) pairs that have edges, relation after relation.

    ``gather`` has a row for each of them, over the sources; ``spread`` has a row for each destination, over them;
    ``bounds`` are where each relation's begin, R + 1 integers.
    """

    gather: Graph
    spread: Graph
    bounds: list[int]


class Relations:
    """Edges of R types: row (destination, relation) of ``rows`` holds the sources, row = destination * R + relation."""

    def __init__(self, edge_index: Tensor, edge_type: Tensor, num_src: int, num_dst: int, count: int) -> None:
        self.num_src, self.num_dst, self.count = num_src, num_dst, count
        self.rows = Graph.from_edge_index(
            torch.stack([edge_index[0], edge_index[1] * count + edge_type]), num_src, num_dst * count
        )
        self._lazy: dict[str, Any] = {}

    def own_columns(self) -> Graph:
        """``rows``, but with columns relation * num_src + source: every relation has a table of its own. Kept."""

        def make() -> Graph:
            src, row = self.rows.edge_index()
            pairs = torch.stack([row % self.count * self.num_src + src, row])
            return Graph.from_edge_index(pairs, self.num_src * self.count, self.num_dst * self.count)

        return self._once("own", make)

    def present(self) -> Present | None:
        """The rows that are not empty, where they are less than half of all; else None. Kept."""

        def make() -> Present | None:
            src, row = self.rows.edge_index()
            dst = torch.div(row, self.count, rounding_mode="floor")
            pairs, which = torch.unique(row % self.count * self.num_dst + dst, return_inverse=True)
            if 2 * pairs.numel() >= self.num_dst * self.count:
                return None
            relation = torch.div(pairs, max(1, self.num_dst), rounding_mode="floor")
            node, place = pairs - relation * self.num_dst, torch.arange(pairs.numel(), device=pairs.device)
            return Present(
                Graph.from_edge_index(torch.stack([src, which]), self.num_src, pairs.numel()),
                Graph.from_edge_index(torch.stack([place, node]), pairs.numel(), self.num_dst),
                [0, *torch.bincount(relation, minlength=self.count).cumsum(0).tolist()],
            )

        # Which rows are empty is not known while a graph is compiled: all are taken.
        return None if torch.compiler.is_compiling() else self._once("present", make)

    def _once(self, key: str, make: Any) -> Any:
        if key not in self._lazy:
            with _plain():
                self._lazy[key] = make()
        return self._lazy[key]


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def relations_of(
    layer: str, edges: Any, edge_type: Tensor, num_src: int, num_dst: int, count: int, backwards: bool
) -> Relations:
    """The Relations of an edge_index or Graph and the type of each edge, in the order in which edges were given.

    They are kept as long as the tensor of types lives and neither it nor the edges are changed in place.
    """
    num_edges = edges.num_edges if isinstance(edges, Graph) else edges.size(1)
    if not isinstance(edge_type, Tensor) or edge_type.dim() != 1 or edge_type.size(0) != num_edges:
        given = list(edge_type.shape) if isinstance(edge_type, Tensor) else type(edge_type).__name__
        raise ValueError(f"{layer}: edge_type must be a tensor [E] = [{num_edges}], got {given}")
    if edge_type.dtype not in (torch.int32, torch.int64):
        dtype = str(edge_type.dtype).removeprefix("torch.")
        raise TypeError(f"{layer}: edge_type must be int32 or int64, got {dtype}; convert it with .long()")

    def make() -> Relations:
        edge_index = edges.edge_index() if isinstance(edges, Graph) else edges.long()
        return Relations(edge_index.flip(0) if backwards else edge_index, edge_type.long(), num_src, num_dst, count)

    if torch.compiler.is_compiling():
        return make()
    if edge_type.is_inference() or (isinstance(edges, Tensor) and edges.is_inference()):
        _check(layer, edge_type, count)
        return make()
    stamp = (edge_type._version, getattr(edges, "_version", 0), num_src, num_dst, count, backwards)
    known = _known.get(edge_type)
    if known is None or known[0] != stamp or known[1]() is not edges:
        with _plain():
            _check(layer, edge_type, count)
            known = (stamp, weakref.ref(edges), make())
        _known[edge_type] = known
    return known[2]


def _check(layer: str, edge_type: Tensor, count: int) -> None:
    bad = (edge_type < 0) | (edge_type >= count)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise IndexError(f"{layer}: every edge_type must be in [0, {count}), edge {at} has {int(edge_type[at])}")

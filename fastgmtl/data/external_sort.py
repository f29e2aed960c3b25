"""Sorting edges by destination on disk: runs of groups of rows, then buckets of whole groups.

A run is some edges as they were given, sorted (stable) by the group of their destination, GROUP rows a group. Runs in
turn hold all edges in their order; the part of a bucket (a range of groups) is one stretch of each run. So edges are
read and written once in runs and once in rows, whatever their number and the number of rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fastgmtl import csr
from fastgmtl.data.files import Array, require
from fastgmtl.data.store import put, write_whole

GROUP = 1024  # rows


@dataclass(frozen=True)
class Run:
    """A file: int64 [groups + 1] where each group begins, then destinations, sources and (if kept) places, [edges]."""

    path: Path
    edges: int
    groups: int
    start: int  # edges of the runs before it
    index: np.dtype[Any]  # of destinations and sources
    ids: bool

    def check(self) -> None:
        """ValueError unless the file is as long as it was written."""
        size = 8 * (self.groups + 1) + self.edges * (2 * self.index.itemsize + (4 if self.ids else 0))
        fine = self.path.is_file() and self.path.stat().st_size == size
        require(self.path, fine, f"{size} bytes are required; remove {self.path.parent.parent} to begin anew")

    def bounds(self) -> Array:
        """Where each group begins and the last one ends."""
        return np.fromfile(self.path, np.int64, self.groups + 1)

    def stretch(self, begin: int, end: int) -> tuple[Array, Array, Array | None]:
        """Destinations, sources and places (int64, among all edges) of edges [begin, end) of the run."""
        head, size = 8 * (self.groups + 1), self.index.itemsize

        def read(offset: int, dtype: Any) -> Array:
            return np.fromfile(self.path, dtype, end - begin, offset=offset + begin * np.dtype(dtype).itemsize)

        dst, src = read(head, self.index), read(head + self.edges * size, self.index)
        place = read(head + 2 * self.edges * size, np.int32).astype(np.int64) + self.start if self.ids else None
        return dst, src, place


def write_run(path: Path, src: Tensor, dst: Tensor, ids: bool) -> int:
    """Sort some edges by group and write them as a run, whole or not at all; returns the number of groups."""
    groups = int(dst.max()) // GROUP + 1
    bounds, sources, order = csr.from_coo(dst // GROUP, src, groups, int(src.max()) + 1)
    if order is None:
        order = torch.arange(len(dst), dtype=torch.int32)
    else:
        dst = dst.index_select(0, order)

    def fill(file: IO[bytes]) -> None:
        for part in (bounds, dst, sources.to(dst.dtype), *([order.to(torch.int32)] if ids else ())):
            put(file, part.numpy())

    write_whole(path, fill)
    return groups


def group_sizes(runs: Sequence[Run], num_nodes: int) -> Array:
    """Edges of each group of rows over all runs, int64 [ceil(num_nodes / GROUP)]."""
    sizes = np.zeros(-(-num_nodes // GROUP), np.int64)
    for run in runs:
        sizes[: run.groups] += np.diff(run.bounds())
    return sizes


def choose_buckets(sizes: Array, most: int) -> list[int]:
    """Bounds of ranges of groups with at most ``most`` edges and rows each, or of one group."""
    ends, bounds = np.cumsum(sizes), [0]
    while bounds[-1] < len(sizes):
        first = bounds[-1]
        before = int(ends[first - 1]) if first else 0
        fitting = int(np.searchsorted(ends, before + most, side="right"))
        bounds.append(min(len(sizes), max(first + 1, min(fitting, first + most // GROUP))))
    return bounds


@dataclass(frozen=True)
class Bucket:
    """Rows [first, first + rows) of the graph, and which stretch of each run holds their edges."""

    runs: Sequence[Run]
    stretches: Sequence[tuple[int, int]]
    first: int
    rows: int
    num_nodes: int

    @classmethod
    def of(cls, runs: Sequence[Run], begin: int, end: int, num_nodes: int) -> Bucket:
        """That of the groups [begin, end)."""
        stretches = []
        for run in runs:
            where = np.minimum((begin, end), run.groups)
            stretches.append(tuple(int(np.fromfile(run.path, np.int64, 1, offset=8 * int(g))[0]) for g in where))
        first = begin * GROUP
        return cls(runs, stretches, first, min(end * GROUP, num_nodes) - first, num_nodes)  # type: ignore[arg-type]

    @property
    def edges(self) -> int:
        """How many they are."""
        return sum(end - begin for begin, end in self.stretches)

    def sort(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """``(row_ptr [rows + 1], col, edge id or None)`` of all edges, in memory."""
        parts = [run.stretch(*where) for run, where in zip(self.runs, self.stretches, strict=True)]
        if not parts:
            return torch.zeros(self.rows + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), None
        return self._sorted(*(None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)))

    def sort_by_pieces(self, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """The same of pieces of at most ``most`` edges, in turn: a row's edges are those of all pieces, in turn."""
        for run, (begin, end) in zip(self.runs, self.stretches, strict=True):
            for at in range(begin, end, most):
                yield self._sorted(*run.stretch(at, min(end, at + most)))

    def _sorted(
        self, dst: Array | None, src: Array | None, place: Array | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert dst is not None and src is not None
        dst -= self.first
        row_ptr, col, order = csr.from_coo(torch.from_numpy(dst), torch.from_numpy(src), self.rows, self.num_nodes)
        ids = None if place is None else torch.from_numpy(place)
        return row_ptr, col, ids if ids is None or order is None else ids.index_select(0, order)

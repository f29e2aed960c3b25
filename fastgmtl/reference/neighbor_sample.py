"""Neighbourhoods of seeds in plain Python: the draws of csrc/cpu/neighbor_sample.cpp, number for number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fastgmtl.graph import Graph

_MASK = 0xFFFFFFFF


@dataclass
class Nodes:
    """The nodes of one type; ``batch`` are the seeds that they belong to."""

    node: list[int] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    per_hop: list[int] = field(default_factory=list)


@dataclass
class Edges:
    """The edges of one type: the numbers of both ends, and places in the user's order."""

    row: list[int] = field(default_factory=list)
    col: list[int] = field(default_factory=list)
    edge: list[int] = field(default_factory=list)
    per_hop: list[int] = field(default_factory=list)


def numbers(key: int, node: int) -> Iterator[int]:
    """The 32-bit numbers of the counters (node, 0), (node, 1), ...: csrc/common/philox.h."""
    quad = 0
    while True:
        c = [node & _MASK, node >> 32, quad & _MASK, 0]
        k0, k1 = key & _MASK, key >> 32
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k0, b & _MASK, (a >> 32) ^ c[3] ^ k1, a & _MASK]
            k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
        yield from c
        quad += 1


def draws(key: int, node: int) -> Callable[[int], int]:
    """A function that draws uniformly below its argument."""
    stream = numbers(key, node)

    def below(n: int) -> int:
        least = 2**32 % n
        while (product := next(stream) * n) & _MASK < least:
            pass
        return product >> 32

    return below


def places(degree: int, fanout: int, replace: bool, below: Callable[[int], int]) -> list[int]:
    """Of the edges of a node those that it draws: with replacement, or by Floyd's algorithm without."""
    if fanout < 0 or (not replace and fanout >= degree):
        return list(range(degree))
    if replace:
        return [below(degree) for _ in range(fanout if degree else 0)]
    chosen: list[int] = []
    for last in range(degree - fanout, degree):
        pick = below(last + 1)
        chosen.append(last if pick in chosen else pick)
    return chosen


def neighbor_sample(
    graphs: Sequence[Graph],
    ends: Sequence[tuple[int, int]],
    fanouts: Sequence[Sequence[int]],
    seeds: Sequence[Tensor | None],
    replace: bool,
    disjoint: bool,
    seed: int,
) -> tuple[list[Nodes], list[Edges]]:
    """The sample of csrc/contract/neighbor_sample.h."""
    nodes, edges = [Nodes() for _ in seeds], [Edges() for _ in graphs]
    known: list[dict[tuple[int, int], int]] = [{} for _ in seeds]
    total = 0
    for found, given, numbered in zip(nodes, seeds, known, strict=True):
        found.node = [] if given is None else given.tolist()
        found.batch = list(range(total, total + len(found.node))) if disjoint else [0] * len(found.node)
        for number, both in enumerate(zip(found.batch, found.node, strict=True)):
            numbered.setdefault(both, number)
        total += len(found.node)
        found.per_hop.append(len(found.node))
    rows = [(g.row_ptr.tolist(), g.col.tolist(), None if g.edge_id is None else g.edge_id.tolist()) for g in graphs]
    begin = [0] * len(nodes)
    for hop in range(len(fanouts[0]) if fanouts else 0):
        end = [len(found.node) for found in nodes]
        for e, (row_ptr, col, edge_id) in enumerate(rows):
            src, dst = ends[e]
            key = (seed + 0x9E3779B97F4A7C15 * e) % 2**64
            old = len(edges[e].row)
            for i in range(begin[dst], end[dst]):
                node, group = nodes[dst].node[i], nodes[dst].batch[i]
                first = row_ptr[node]
                for k in places(row_ptr[node + 1] - first, fanouts[e][hop], replace, draws(key, i)):
                    source = col[first + k]
                    number = known[src].setdefault((group, source), len(nodes[src].node))
                    if number == len(nodes[src].node):
                        nodes[src].node.append(source)
                        nodes[src].batch.append(group)
                    edges[e].row.append(number)
                    edges[e].col.append(i)
                    edges[e].edge.append(first + k if edge_id is None else edge_id[first + k])
            edges[e].per_hop.append(len(edges[e].row) - old)
        for found, last in zip(nodes, end, strict=True):
            found.per_hop.append(len(found.node) - last)
        begin = end
    return nodes, edges

"""The one table of shapes that tests and benches share: patterns of edges, and operands on them.

Everything is drawn from a seed, so a failing case can be drawn again by its name. ``PATTERNS`` are small, for
finite differences; ``MEDIUM`` ones are for values, ``large`` makes those of the benches.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, replace

import torch
from calls import CALLS, Call, Draw
from calls.base import split as split
from calls.lists import draw_matrix as draw_matrix
from calls.trilinear import REDUCTIONS as REDUCTIONS
from torch import Tensor

from fastgmtl import Graph

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Widths that take every path of a kernel: below, at and between vectors and tiles of vectors, of both sizes.
WIDTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 48, 64, 67, 100, 128, 256, 273)
TASKS = (1, 2, 3, 4, 5, 8, 9)


def generator(name: str) -> torch.Generator:
    """A generator seeded by a name: the same numbers for the same case, whichever cases run before it."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


# --------------------------------------------------------------------------------------------------- patterns


@dataclass(frozen=True)
class Pattern:
    """Edges by name; ``wide`` forces 64-bit columns, as more than 2^31 edges would."""

    name: str
    edge_index: Tensor
    num_src: int
    num_dst: int
    wide: bool = False

    def graph(self) -> Graph:
        graph = Graph.from_edge_index(self.edge_index, self.num_src, self.num_dst)
        return with_wide_columns(graph) if self.wide else graph


def with_wide_columns(graph: Graph) -> Graph:
    """The same graph with int64 columns, its transpose too."""

    def widened(g: Graph) -> Graph:
        return Graph(g.row_ptr, g.col.long(), None if g.edge_id is None else g.edge_id.long(), g.num_src)

    out, back = widened(graph), widened(graph.t())
    out._lazy["transpose"], back._lazy["transpose"] = back, out
    return out


def random_edges(num_src: int, num_dst: int, num_edges: int, g: torch.Generator) -> Tensor:
    """Uniform edges [2, E], with repetitions and, where sizes are equal, loops."""
    src = torch.randint(num_src, (num_edges,), generator=g)
    return torch.stack([src, torch.randint(num_dst, (num_edges,), generator=g)])


def power_law_edges(num_nodes: int, num_edges: int, g: torch.Generator, exponent: float = 2.0) -> Tensor:
    """Edges whose in- and out-degrees have a density proportional to degree^-exponent; hubs are at random ids."""
    rank = torch.arange(1, num_nodes + 1, dtype=torch.float64)
    chance = rank.pow(-1 / (exponent - 1) if exponent > 1 else -1).cumsum(0)
    chance /= chance[-1].clone()
    ends = torch.searchsorted(chance, torch.rand(2, num_edges, generator=g, dtype=torch.float64)).clamp(
        max=num_nodes - 1
    )
    return torch.stack([torch.randperm(num_nodes, generator=g)[end] for end in ends])


def _patterns(size: str, n: int, e: int) -> dict[str, Pattern]:
    def draw(name: str) -> torch.Generator:
        return generator(f"{size}-{name}")

    none = torch.zeros(2, 0, dtype=torch.int64)
    typical = random_edges(n, n, e, draw("typical"))
    third = torch.randint(max(1, n // 3), (2, e), generator=draw("isolated"))
    loops = torch.arange(n).repeat(2, 1)
    by_row = random_edges(n, n, e, draw("sorted"))
    half = random_edges(n, n, e // 2 + 1, draw("parallel"))
    listed = [
        Pattern("typical", typical, n, n),
        Pattern("empty", none, 0, 0),
        Pattern("no_edges", none, n, n),
        Pattern("one_node", torch.zeros(2, 1, dtype=torch.int64), 1, 1),
        Pattern("one_row", torch.stack([typical[0], torch.full((e,), n // 2)]), n, n),
        Pattern("one_source", torch.stack([torch.full((e,), n // 2), typical[1]]), n, n),
        Pattern("power_law", power_law_edges(n, e, draw("power_law")), n, n),
        Pattern("isolated", third, n, n),
        Pattern("self_loops", torch.cat([typical[:, : e // 2], loops], 1), n, n),
        Pattern("parallel", torch.cat([half, half.flip(1)], 1), n, n),
        Pattern("bipartite", random_edges(n + 2, n // 2 + 1, e, draw("bipartite")), n + 2, n // 2 + 1),
        Pattern("no_sources", none, 0, 3),
        Pattern("no_destinations", none, 3, 0),
        Pattern("sorted", by_row[:, by_row[1].sort(stable=True).indices], n, n),
    ]
    table = {p.name: p for p in listed}
    for name in ("typical", "sorted", "bipartite"):
        table[f"{name}_wide"] = replace(table[name], name=f"{name}_wide", wide=True)
    return table


PATTERNS = _patterns("small", 5, 9)
MEDIUM = _patterns("medium", 60, 700)


# In the benches' power-law graphs the node of rank r has (expected) degree in proportion to r ** -EXPONENT.
EXPONENT = 0.6
# Nodes and edges of the benches, by name.
SIZES = {
    "tiny": (2_000, 20_000),
    "small": (20_000, 200_000),
    "big": (100_000, 1_000_000),
    "dense": (100_000, 2_000_000),
}


@functools.lru_cache(maxsize=4)
def large(kind: str, num_nodes: int, num_edges: int, distinct: bool = False) -> Pattern:
    """A pattern for benches and for threads: ``kind`` is "power_law" or "uniform".

    ``distinct``: no parallel edges, which the sparse gradients of PyTorch merge, and sorted by destination.
    """
    g = generator(f"{kind}-{num_nodes}-{num_edges}")
    draw = functools.partial(power_law_edges, exponent=1 + 1 / EXPONENT) if distinct else power_law_edges

    def edges(count: int) -> Tensor:
        return draw(num_nodes, count, g) if kind == "power_law" else random_edges(num_nodes, num_nodes, count, g)

    if not distinct:
        return Pattern(kind, edges(num_edges), num_nodes, num_nodes)
    # Drawn at once: another draw would give the nodes other ranks.
    src, dst = edges(2 * num_edges)
    keys = torch.unique(dst * num_nodes + src)
    assert keys.numel() >= num_edges, f"{num_edges} distinct edges are too many for {num_nodes} nodes"
    keys = keys[torch.randperm(keys.numel(), generator=g)[:num_edges]].sort().values
    return Pattern(kind, torch.stack([keys % num_nodes, keys // num_nodes]), num_nodes, num_nodes)


# ------------------------------------------------------------------------------------------------------- calls


def call(
    name: str,
    pattern: Pattern,
    tasks: int = 3,
    width: int = 2,
    dtype: torch.dtype = torch.float64,
    graph: Graph | None = None,
) -> Call:
    """The call ``name`` of :data:`CALLS` on ``pattern``."""
    g = generator(f"{name}-{pattern.name}-{tasks}-{width}")
    return CALLS[name](Draw(pattern.graph() if graph is None else graph, tasks, width, dtype, g))


# The calls that between them take every path of the kernels, for what is too slow or too pointless for all of them.
FEW = (
    "spmm-sum-x2-wnone",
    "spmm-sum-x2-wE",
    "spmm-mean-x3-wE",
    "spmm-sum-x2-wET",
    "spmm-mean-x3-wET",
    "spmm-max-x2-wET",
    "spmm-min-x3-wET",
    "sddmm-22",
    "sddmm-23",
    "sddmm-33",
    "spmm_op-t-mean-x3-wET-sum",
    "spmm_op-t-arg-x3-wET",
    "spmm_op-n-mean-arg-x2-wET",
    "sddmm_op-mean-33",
    "sddmm_op-mean-arg-33-tasks",
    "spmm_backward_op-t-g2-wE-x2",
    "spmm_backward_op-t-mean-g3-wET-x3",
    "spmm_backward_op-t-g3-wET-x2",
    "spmm_backward_op-n-mean-g2-wET-x3",
    "spmm_backward_op-t-mean-arg-g3-wET-x2",
    "gram",
    "gram-stacked",
    "combine-sums-groups",
    "gram_op-stacked-lists",
    "combine_op-lists-stacked",
    "attention-gat",
    "attention-tasks",
    "attention-query-tasks",
    "attention-drop",
    "attention-weights",
    "attention_op-drop-logits",
    "attention_backward_op-plain-31",
    "attention_backward_op-drop-31",
    "attention_backward_op-drop-logits-31",
    "attention-gatv2-tasks",
    "gatv2_score_op-plain",
    "gatv2_score_op-at",
    "gatv2_backward_op-7",
    "gatv2_backward_op-at",
    "relation_gate-w-res-elu",
    "relation_gate-none",
    "relation_gate_op-w",
    "relation_gate_backward_op-w",
    "grouped_matmul-uneven",
    "grouped_matmul_op-t-equal",
    "grouped_outer_op-uneven",
    "flip_energy-E",
    "flip_energy-BE",
    "edge_delta-E-some",
    "edge_delta-BE",
    "edge_energy_op-src-cv-11",
    "edge_energy_op-dst-a-10",
    "edge_energy_op-edge-ac-01",
    "edge_energy_op-each-a-01-each",
    "concrete_op-all-1",
    "concrete_op-listed-2",
    "gather_relu",
    "gather_relu_op-hst",
    "gather_relu_op-s",
    "gather_relu_backward_op-7",
    "gather_relu_backward_op-5",
    "block_spmm",
    "block_spmm_op-back",
    "block_sddmm_op-outer",
    "relu_sum",
    "relu_sum_op-xe",
    "relu_sum_op-e",
    "relu_sum_backward_op-3",
    "relu_sum_backward_op-1",
    "rspmm-mul-sum-33-wE",
    "rspmm-rotate-mean-23-wE",
    "rspmm-add-mean-32-wE",
    "rspmm-mul-max-33-wE",
    "rspmm-rotate-min-22-wE",
    "rspmm-add-max-32-wE",
    "rspmm_op-dst-mul-w-mean",
    "rspmm_op-src-rotate-mean",
    "rspmm_op-rel-rotate-w",
    "rspmm_op-edge-mul-mean",
    "rspmm_op-edge-rotate-none",
    "rspmm_op-dst-rotate-arg",
    "rspmm_op-rel-mul-w-arg",
)

"""The one table of shapes that tests and benches share: patterns of edges, and operands on them.

Everything is drawn from a seed, so a failing case can be drawn again by its name. ``PATTERNS`` are small, for
finite differences; ``MEDIUM`` ones are for values, ``large`` makes those of the benches.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops import attend, bilinear, trilinear
from fastgmtl.ops.lists import ListOperator
from fastgmtl.ops.operator import Operator, flatten

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("sum", "mean", "max", "min")
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
    # A node of rank r has degree in proportion to r^-0.6.
    draw = functools.partial(power_law_edges, exponent=1 + 1 / 0.6) if distinct else power_law_edges

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


# --------------------------------------------------------------------------------------------------- operands


@dataclass
class Draw:
    """Operands for one graph; every draw takes the next numbers of its generator."""

    graph: Graph
    tasks: int
    width: int
    dtype: torch.dtype
    generator: torch.Generator

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def nodes(self, side: str, rank: int) -> Tensor:
        """Features of the "src" or "dst" nodes, [n, d] (rank 2) or [n, T, d] (rank 3)."""
        n = self.graph.num_src if side == "src" else self.graph.num_dst
        return self._normal(n, self.width) if rank == 2 else self._normal(n, self.tasks, self.width)

    def weight(self, kind: str) -> Tensor | None:
        """None, [E] or [E, T]."""
        if kind == "none":
            return None
        return self._normal(self.graph.num_edges, *([self.tasks] if kind == "ET" else []))

    def heads(self, side: str, *axes: int) -> Tensor:
        """[n, *axes] for the "src" or "dst" nodes, the "edge"s or the three "type"s."""
        graph = self.graph
        rows = {"src": graph.num_src, "dst": graph.num_dst, "edge": graph.num_edges, "type": 3}[side]
        return self._normal(rows, *axes)

    def edge_type(self) -> Tensor:
        """The type of each edge, in [0, 3)."""
        return (torch.arange(self.graph.num_edges) % 3).to(self.graph.col.dtype)

    def arg(self, rank: int) -> Tensor:
        """The edge that each output element of an extreme came from, some -1."""
        shape = (self.graph.num_dst, self.width) if rank == 2 else (self.graph.num_dst, self.tasks, self.width)
        message = torch.rand(self.graph.num_edges, *shape[1:], generator=self.generator)
        position = reference.trilinear.winners(self.graph, message, True)
        ids = torch.arange(self.graph.num_edges) if self.graph.edge_id is None else self.graph.edge_id.long()
        if self.graph.num_edges == 0:
            return torch.full(shape, -1, dtype=self.graph.col.dtype)
        return torch.where(position >= 0, ids[position.clamp(min=0)], -1).to(self.graph.col.dtype)


@dataclass(frozen=True)
class Call:
    """An operator on drawn operands: ``run(*tensors)`` is it, ``twin(*tensors)`` the same in plain PyTorch.

    ``operator`` is what runs within (None for the public functions), called as ``operator(graph, *tensors,
    *options)``. ``floats`` are the positions of the tensors that have a gradient.
    """

    name: str
    graph: Graph
    tensors: tuple[Tensor | None, ...]
    run: Callable[..., Tensor | tuple[Tensor, ...]]
    twin: Callable[..., Tensor | tuple[Tensor, ...]]
    operator: Operator | ListOperator | None = None
    options: tuple[object, ...] = ()
    lists: tuple[int, ...] = ()  # of an operator on lists: how many of the tensors belong to each

    def library_arguments(self, tensors: Sequence[Tensor | None]) -> tuple[object, ...]:
        """What the operator takes as an op of ``torch.library``."""
        if not self.lists:
            return (*flatten(self.graph), *tensors, *self.options)
        return (*map(list, split(tensors, self.lists)), *self.options)

    @property
    def floats(self) -> list[int]:
        return [i for i, t in enumerate(self.tensors) if t is not None and t.is_floating_point()]

    def of_floats(
        self, function: Callable[..., Tensor | tuple[Tensor, ...]]
    ) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """``function`` of the floating point tensors alone; of its outputs, those that are floating point."""

        def call(*floats: Tensor) -> Tensor | tuple[Tensor, ...]:
            tensors = list(self.tensors)
            for i, value in zip(self.floats, floats, strict=True):
                tensors[i] = value
            out = function(*tensors)
            if isinstance(out, tuple):
                out = tuple(o for o in out if o.is_floating_point())
                return out[0] if len(out) == 1 else out
            return out

        return call

    def inputs(self, requires_grad: bool = False) -> list[Tensor]:
        """Fresh copies of the floating point tensors."""
        return [self.tensors[i].detach().clone().requires_grad_(requires_grad) for i in self.floats]  # type: ignore[union-attr]


def split(values: Sequence[Tensor | None], lengths: Sequence[int]) -> list[tuple[Tensor | None, ...]]:
    """Consecutive parts of the given lengths."""
    ends = list(itertools.accumulate(lengths))
    return [tuple(values[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


Maker = Callable[[Draw], Call]
CALLS: dict[str, Maker] = {}


def _public_spmm(name: str, rank: int, kind: str, reduce: str) -> Maker:
    def make(draw: Draw) -> Call:
        graph = draw.graph
        return Call(
            name,
            graph,
            (draw.nodes("src", rank), draw.weight(kind)),
            lambda x, w: ops.spmm(graph, x, w, reduce),
            lambda x, w: reference.spmm(graph, x, w, reduce),
        )

    return make


def _public_sddmm(name: str, dst: int, src: int) -> Maker:
    def make(draw: Draw) -> Call:
        graph = draw.graph
        return Call(
            name,
            graph,
            (draw.nodes("dst", dst), draw.nodes("src", src)),
            lambda a, b: ops.sddmm(graph, a, b),
            lambda a, b: reference.sddmm(graph, a, b),
        )

    return make


def _internal(
    name: str, operator: Operator, tensors: Callable[[Draw], tuple[Tensor | None, ...]], **values: object
) -> Maker:
    options = tuple(values[option] for option, _ in operator.options)

    def make(draw: Draw) -> Call:
        graph = draw.graph
        return Call(
            name,
            graph,
            tensors(draw),
            lambda *t: operator(graph, *t, *options),
            lambda *t: operator.reference(graph, *t, *options),
            operator,
            options,
        )

    return make


def _public_attention(name: str, words: tuple[str, ...], axes: dict[str, tuple[str, ...]], **options: object) -> Maker:
    """``axes``: of each tensor, after its rows, of "T", "H" (2, or the tasks where there is no T), "d" and "c" (3)."""

    def make(draw: Draw) -> Call:
        graph, per_task = draw.graph, any("T" in a for a in axes.values())
        sizes = {"T": draw.tasks, "H": 2 if per_task else draw.tasks, "d": draw.width, "c": 3}
        sides = {"value": "src", "key": "src", "query": "dst"}
        tensors = tuple(
            draw.heads(sides.get(n, n.removeprefix("score_")), *(sizes[a] for a in axes[n]))
            if n != "att"
            else draw._normal(*(sizes[a] for a in axes[n]))
            for n in words
        )
        given = dict(options) | ({"edge_type": draw.edge_type()} if "score_type" in words else {})

        def run(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
            return function(graph, **dict(zip(words, tensors, strict=True)), **given)

        return Call(
            name, graph, tensors, functools.partial(run, ops.attention), functools.partial(run, reference.attention)
        )

    return make


def _fill_attention() -> None:
    gat = ("value", "score_dst", "score_src")
    every = (*gat, "score_type", "score_edge")
    one, many = dict.fromkeys(every, ("H",)), dict.fromkeys(every, ("T", "H"))
    features = {"value": ("H", "d"), "query": ("H", "c"), "key": ("H", "c")}
    logits, weights = ({"dropout": 0.4, "dropout_on": on, "seed": 5} for on in ("logits", "weights"))
    for tag, words, axes, options in (
        ("gat", gat, one | features, {}),
        ("tasks", every, many | {"value": ("T", "H", "d")}, {}),
        ("shared", every, one | features | {"score_src": ("T", "H")}, {"negative_slope": None}),
        ("query", ("value", "query", "key"), features, {}),
        ("query-tasks", ("value", "query", "key", "score_edge"), one | features | {"query": ("T", "H", "c")}, logits),
        ("drop", gat, one | features, weights),
        ("drop-logits", every, one | features, logits),
        ("weights", every, one | features, {"return_weights": True}),
        ("weights-drop", gat, one | features, weights | {"return_weights": True}),
    ):
        CALLS[f"attention-{tag}"] = _public_attention(f"attention-{tag}", words, axes, **options)
    for tag, drop, on_logits in (("plain", False, False), ("drop", True, False), ("drop-logits", True, True)):
        values = {"negative_slope": 0.2, "dropout": 0.4 if drop else 0.0, "drop_logits": on_logits}

        def operands(d: Draw, drop: bool = drop, tag: str = tag) -> tuple[Tensor | None, ...]:
            k = d.tasks
            scores = [d.heads("dst", k), d.heads("src", k), d.heads("type", k), d.heads("edge", k)]
            seed = torch.tensor([-3]) if drop else None
            return (d.heads("src", k, d.width), *scores, d.edge_type(), seed)

        def backward(d: Draw, of: Callable[..., tuple[Tensor | None, ...]] = operands) -> tuple[Tensor | None, ...]:
            g, y = (d.heads("dst", d.tasks, d.width) for _ in range(2))
            g_lse, lse = (d.heads("dst", d.tasks).double() for _ in range(2))
            return (g, g_lse, y, lse + 5, *of(d))  # weights below 1, as they are

        CALLS[f"attention_op-{tag}"] = _internal(f"attention_op-{tag}", attend.attention_op, operands, **values)
        for wanted in (31, 10):
            name = f"attention_backward_op-{tag}-{wanted}"
            CALLS[name] = _internal(name, attend.attention_backward_op, backward, **values, wanted=wanted)


def _fill() -> None:
    for reduce in REDUCTIONS:
        for rank in (2, 3):
            for kind in ("none", "E", "ET"):
                name = f"spmm-{reduce}-x{rank}-w{kind}"
                CALLS[name] = _public_spmm(name, rank, kind, reduce)
    for dst in (2, 3):
        for src in (2, 3):
            name = f"sddmm-{dst}{src}"
            CALLS[name] = _public_sddmm(name, dst, src)

    def add(
        name: str, operator: Operator, tensors: Callable[[Draw], tuple[Tensor | None, ...]], **values: bool
    ) -> None:
        CALLS[name] = _internal(name, operator, tensors, **values)

    for transposed in (False, True):
        far, near = ("dst", "src") if transposed else ("src", "dst")  # features are gathered from far, written to near
        way = "t" if transposed else "n"
        for mean in (False, True):
            for taken in (False, True):
                tag = f"{way}{'-mean' if mean else ''}{'-arg' if taken else ''}"

                def arg(d: Draw, rank: int, taken: bool = taken) -> Tensor | None:
                    return d.arg(rank) if taken else None

                for rank, kind in ((2, "none"), (2, "E"), (2, "ET"), (3, "none"), (3, "E"), (3, "ET")):
                    out = 3 if rank == 3 or kind == "ET" else 2
                    add(
                        f"spmm_op-{tag}-x{rank}-w{kind}",
                        trilinear.spmm_op,
                        lambda d, r=rank, k=kind, a=arg, s=far, o=out: (d.nodes(s, r), d.weight(k), a(d, o)),
                        mean=mean,
                        transposed=transposed,
                        x_tasks=rank == 3,
                        y_tasks=out == 3,
                    )
                add(  # the sum over tasks: the gradient of features that the tasks share
                    f"spmm_op-{tag}-x3-wET-sum",
                    trilinear.spmm_op,
                    lambda d, a=arg, s=far: (d.nodes(s, 3), d.weight("ET"), a(d, 3)),
                    mean=mean,
                    transposed=transposed,
                    x_tasks=True,
                    y_tasks=False,
                )
                for g, kind, x in ((2, "E", 2), (3, "E", 3), (3, "ET", 3), (3, "ET", 2), (2, "ET", 3)):
                    add(
                        f"spmm_backward_op-{tag}-g{g}-w{kind}-x{x}",
                        trilinear.spmm_backward_op,
                        lambda d, g=g, k=kind, x=x, a=arg, f=far, n=near: (
                            d.nodes(f, g),
                            d.weight(k),
                            d.nodes(n, x),
                            a(d, max(g, x)),
                        ),
                        mean=mean,
                        transposed=transposed,
                    )
                if not transposed:
                    for dst, src, per_task in ((2, 2, False), (3, 3, False), (3, 3, True), (2, 3, True), (3, 2, True)):
                        add(
                            f"sddmm_op-{tag[2:] or 'sum'}-{dst}{src}{'-tasks' if per_task else ''}",
                            trilinear.sddmm_op,
                            lambda d, i=dst, j=src, a=arg: (d.nodes("dst", i), d.nodes("src", j), a(d, max(i, j))),
                            mean=mean,
                            per_task=per_task,
                        )
    for largest in (True, False):
        for rank in (2, 3):
            for kind in ("none", "E", "ET"):
                add(
                    f"extreme_op-{'max' if largest else 'min'}-x{rank}-w{kind}",
                    trilinear.extreme_op,
                    lambda d, r=rank, k=kind: (d.nodes("src", r), d.weight(k)),
                    largest=largest,
                )


_fill()
_fill_attention()


def _rows(draw: Draw, count: int) -> tuple[Tensor, ...]:
    """``count`` rows of two tensors, one after another."""
    return tuple(v for _ in range(count) for v in (draw.nodes("src", 2), draw.weight("E")) if v is not None)


def draw_matrix(draw: Draw) -> Tensor:
    """[T, P]"""
    return draw.nodes("src", 3).flatten(2).movedim(1, 0).flatten(1)


def _stacked(draw: Draw) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*split(_rows(draw, draw.tasks), [2] * draw.tasks), strict=True))


def _flat(found: object) -> object:
    """A tuple of tensors for lists of lists of them."""
    if isinstance(found, Tensor):
        return found
    return tuple(v for row in found for v in ([row] if isinstance(row, Tensor) else row))  # type: ignore[attr-defined]


def _fill_lists() -> None:
    def small(draw: Draw, *shape: int) -> Tensor:
        return draw._normal(*shape).double()

    def add(name: str, tensors: Callable[[Draw], tuple[Tensor, ...]], of: Callable[..., object]) -> None:
        """``of(module, tasks, *tensors)``."""

        def make(draw: Draw) -> Call:
            run, twin = (lambda *t, m=m: _flat(of(m, draw.tasks, *t)) for m in (ops, reference))
            return Call(name, draw.graph, tensors(draw), run, twin)

        CALLS[name] = make

    def rows(tensors: Sequence[Tensor], tasks: int) -> object:
        return split(tensors, [2] * tasks)

    every = range(2)
    add("gram", lambda d: _rows(d, d.tasks), lambda m, n, *t: m.gram(rows(t, n)))
    add("gram-groups", lambda d: _rows(d, d.tasks), lambda m, n, *t: m.gram(rows(t, n), every))
    add("gram-stacked", _stacked, lambda m, n, *t: m.gram(t))
    add("gram-matrix", lambda d: (draw_matrix(d),), lambda m, n, t: m.gram(t))
    add(
        "combine",
        lambda d: (small(d, d.tasks), *_rows(d, d.tasks)),
        lambda m, n, w, *t: m.combine(rows(t, n), w, scale=0.5),
    )
    add(
        "combine-sums-groups",
        lambda d: (small(d, 2, 3, d.tasks), *_rows(d, d.tasks)),
        lambda m, n, w, *t: m.combine(rows(t, n), w, groups=every),
    )
    add("combine-stacked", lambda d: (small(d, d.tasks), *_stacked(d)), lambda m, n, w, *t: m.combine(t, w))
    add("combine-stacked-sums", lambda d: (small(d, 2, d.tasks), *_stacked(d)), lambda m, n, w, *t: m.combine(t, w))

    def internal(
        name: str,
        operator: ListOperator,
        tensors: Callable[[Draw], tuple[Tensor, ...]],
        lengths: Callable[[int], tuple[int, ...]],
        options: Callable[[int], tuple[object, ...]],
    ) -> None:
        def make(draw: Draw) -> Call:
            many, rest = lengths(draw.tasks), options(draw.tasks)
            return Call(
                name,
                draw.graph,
                tensors(draw),
                lambda *t: operator(split(t, many), *rest),
                lambda *t: operator.reference(split(t, many), *rest),
                operator,
                rest,
                many,
            )

        CALLS[name] = make

    for a, b in itertools.product((False, True), repeat=2):
        form = f"{'stacked' if a else 'lists'}-{'stacked' if b else 'lists'}"
        internal(
            f"gram_op-{form}",
            bilinear.gram_op,
            lambda d, a=a, b=b: (*(_stacked(d) if a else _rows(d, d.tasks)), *(_stacked(d) if b else _rows(d, 2))),
            lambda n, a=a, b=b: (2 if a else 2 * n, 2 if b else 4),
            lambda n, a=a, b=b: (n, a, n if b else 2, b, [1, 0], 2),
        )
        internal(
            f"combine_op-{form}",
            bilinear.combine_op,
            lambda d, a=a: (*(_stacked(d) if a else _rows(d, d.tasks)), small(d, 2, 2, d.tasks)),
            lambda n, a=a: (2 if a else 2 * n, 1),
            lambda n, a=a, b=b: (n, a, 2, b, [1, 0]),
        )


_fill_lists()


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
)

"""spmm, sddmm and what runs within them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops import trilinear
from fastgmtl.ops.operator import Operator

REDUCTIONS = ("sum", "mean", "max", "min")


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
        CALLS[name] = internal(name, operator, tensors, **values)

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

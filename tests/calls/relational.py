"""rspmm and what runs within it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.relational import MESSAGES, rspmm_extreme_op, rspmm_op
from fastgmtl.ops.relations import relations
from fastgmtl.ops.spmm import REDUCTIONS

CALLS: dict[str, Maker] = {}


def _width(draw: Draw, message: str) -> int:
    return 2 * draw.width if message == "rotate" else draw.width


def _plan(draw: Draw) -> tuple[Tensor | None, ...]:
    return tuple(relations("rspmm", draw.graph, draw.edge_type(), 3))


def _public(message: str, reduce: str, ranks: str, kind: str) -> Maker:
    def make(draw: Draw) -> Call:
        graph, width = draw.graph, _width(draw, message)
        axes = [(draw.tasks, width) if rank == "3" else (width,) for rank in ranks]
        tensors = draw.heads("src", *axes[0]), draw.heads("type", *axes[1]), draw.edge_type(), draw.weight(kind)
        run, twin = (
            lambda x, z, types, w, m=m: m.rspmm(graph, x, z, types, w, message, reduce) for m in (ops, reference)
        )
        return Call(f"rspmm-{message}-{reduce}-{ranks}-w{kind}", graph, tensors, run, twin)

    return make


def _product(to: str, message: str, weighted: bool, arg: bool) -> Any:
    def tensors(draw: Draw) -> tuple[Tensor | None, ...]:
        width = _width(draw, message)
        sides = (("dst", "dst"), ("src", "src"), ("rel", "type"))
        dst, src, rel = (None if to == role else draw.heads(side, width) for role, side in sides)
        wide = Draw(draw.graph, draw.tasks, width, draw.dtype, draw.generator)
        return dst, src, rel, draw.weight("E" if weighted else "none"), wide.arg(2) if arg else None, *_plan(draw)

    return tensors


def _fill() -> None:
    # Ranks of x and relation, and weights, in turn.
    forms = (("33", "E"), ("22", "none"), ("23", "E"), ("32", "E"))
    for shift, message in enumerate(MESSAGES):
        for k, reduce in enumerate(REDUCTIONS):
            ranks, kind = forms[(k + shift) % 4]
            CALLS[f"rspmm-{message}-{reduce}-{ranks}-w{kind}"] = _public(message, reduce, ranks, kind)
    for message, reduce, ranks, kind in (
        ("mul", "max", "33", "E"),
        ("rotate", "mean", "23", "E"),
        ("rotate", "min", "22", "E"),
        ("add", "mean", "32", "E"),
        ("add", "max", "32", "E"),
    ):
        CALLS[f"rspmm-{message}-{reduce}-{ranks}-w{kind}"] = _public(message, reduce, ranks, kind)
    for to, message, tags in (
        ("dst", "mul", "w-mean"),
        ("dst", "rotate", "arg"),
        ("dst", "mul", "w-mean-arg"),
        ("src", "mul", "w"),
        ("src", "rotate", "mean"),
        ("src", "rotate", "w-arg"),
        ("rel", "mul", "mean"),
        ("rel", "rotate", "w"),
        ("rel", "mul", "w-arg"),
        ("edge", "mul", "mean"),
        ("edge", "rotate", "none"),
        ("edge", "mul", "arg"),
        ("edge", "rotate", "mean-arg"),
    ):
        name, has = f"rspmm_op-{to}-{message}-{tags}", tags.split("-")
        tensors = _product(to, message, "w" in has, "arg" in has)

        def make(draw: Draw, name: str = name, to: str = to, message: str = message, t: Any = tensors) -> Call:
            half = draw.width if message == "rotate" else 0
            return internal(name, rspmm_op, t, to=to, mean="mean" in name, half=half)(draw)

        CALLS[name] = make
    for message, weighted, largest in (("mul", True, True), ("rotate", False, False), ("add", True, False)):
        name = f"rspmm_extreme_op-{'max' if largest else 'min'}-{message}-{'w' if weighted else 'none'}"

        def extreme(
            draw: Draw,
            name: str = name,
            message: str = message,
            kind: str = "E" if weighted else "none",
            largest: bool = largest,
        ) -> Call:
            width = _width(draw, message)

            def tensors(d: Draw) -> tuple[Tensor | None, ...]:
                return d.heads("src", width), d.heads("type", width), d.weight(kind), *_plan(d)

            half = draw.width if message == "rotate" else 0
            return internal(name, rspmm_extreme_op, tensors, message=message, half=half, largest=largest)(draw)

        CALLS[name] = extreme


_fill()

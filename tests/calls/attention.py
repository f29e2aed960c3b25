"""attention and what runs within it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops import attend, gatv2
from fastgmtl.ops.operator import Operator

CALLS: dict[str, Maker] = {}


def _public_attention(name: str, words: tuple[str, ...], axes: dict[str, tuple[str, ...]], **options: object) -> Maker:
    """``axes``: of each tensor, after its rows, of "T", "H" (2, or the tasks where there is no T), "d" and "c" (3)."""

    def make(draw: Draw) -> Call:
        graph, per_task = draw.graph, any("T" in a for a in axes.values())
        sizes = {"T": draw.tasks, "H": 2 if per_task else draw.tasks, "d": draw.width, "c": 3}
        sides = {"value": "src", "key": "src", "query": "dst"}
        tensors = tuple(
            draw.heads(sides.get(n, n.removeprefix("score_")), *(sizes[a] for a in axes[n]))
            if n != "att"
            else draw.normal(*(sizes[a] for a in axes[n]))
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
        ("gatv2", ("value", "query", "key", "att"), features | {"att": ("H", "c")}, {}),
        ("gatv2-tasks", ("value", "query", "key", "att"), features | {"att": ("T", "H", "c")}, weights),
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

        CALLS[f"attention_op-{tag}"] = internal(f"attention_op-{tag}", attend.attention_op, operands, **values)
        for wanted in (31, 10):
            name = f"attention_backward_op-{tag}-{wanted}"
            CALLS[name] = internal(name, attend.attention_backward_op, backward, **values, wanted=wanted)


def _gatv2_at(name: str, operator: Operator, edges: bool) -> Maker:
    """A gatv2 operator where leaky is of other features, which have no gradient: they are not among the tensors."""

    def make(draw: Draw) -> Call:
        graph, x = draw.graph, _gatv2_operands(draw)
        other = replace(draw, generator=torch.Generator().manual_seed(2))
        at = [*(other.heads(side, draw.tasks, draw.width) for side in ("dst", "src")), 0.2]
        g, options = ((draw.heads("edge", draw.tasks),), (*at, 7)) if edges else ((), at)
        run, twin = (lambda *t, f=f: f(graph, *t, *options) for f in (operator, operator.reference))
        return Call(name, graph, (*g, *x), run, twin)

    return make


def _gatv2_operands(d: Draw) -> tuple[Tensor, ...]:
    return d.heads("dst", d.tasks, d.width), d.heads("src", d.tasks, d.width), d.normal(d.tasks, d.width)


def _fill_gatv2() -> None:
    score, backward = gatv2.gatv2_score_op, gatv2.gatv2_backward_op
    plain = internal("gatv2_score_op-plain", score, lambda d: (*_gatv2_operands(d), None, None), negative_slope=0.2)
    CALLS["gatv2_score_op-plain"] = plain
    for wanted in (7, 5):
        CALLS[f"gatv2_backward_op-{wanted}"] = internal(
            f"gatv2_backward_op-{wanted}",
            backward,
            lambda d: (d.heads("edge", d.tasks), *_gatv2_operands(d), None, None),
            negative_slope=0.2,
            wanted=wanted,
        )
    CALLS["gatv2_score_op-at"] = _gatv2_at("gatv2_score_op-at", score, False)
    CALLS["gatv2_backward_op-at"] = _gatv2_at("gatv2_backward_op-at", backward, True)


_fill_attention()
_fill_gatv2()

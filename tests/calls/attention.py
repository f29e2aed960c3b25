"""attention and what runs within it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops import attend

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


_fill_attention()

"""The meta-step of the GCN encoder: the graphs of all tasks in one block-diagonal pass, gradients derived by hand.

Heads, which are small, go through autograd; the encoder through :class:`fastgmtl.methods.same.tape.Tape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastgmtl.methods.same.episodes import Block, Episode, Query
from fastgmtl.methods.same.inner import Adapt, Params, Rates, head_only
from fastgmtl.methods.same.model import Encoder, Model
from fastgmtl.methods.same.tape import Tape, Weights


def fits(encoder: nn.Module) -> bool:
    """Whether the encoder is one whose gradients are derived by hand."""
    return type(encoder) is Encoder and not encoder.norms


def embed(encoder: nn.Module, block: Block) -> Tensor:
    """The encoder's embeddings [n, d] of a block, for gradients of first order."""
    if not fits(encoder):
        return encoder(block.x, block.graph)
    return _Embed.apply(encoder, block, *_weights(encoder))


def step(
    model: Model, episode: Episode, rates: Rates, adapt: Adapt, inner_steps: int, first_order: bool
) -> dict[str, Tensor]:
    """What :func:`fastgmtl.methods.same.meta.by_autograd` gives; differentiable once."""
    if adapt == "heads":
        return _heads(model, episode, rates, inner_steps, first_order)
    names, params = list(episode.parts), _weights(model.encoder)
    heads = [dict(model.heads[name].named_parameters()) for name in names]
    alpha = torch.stack([torch.as_tensor(rates[name], dtype=params[0].dtype) for name in names]).to(params[0].device)
    plan = _Plan(model, episode, names, [list(head) for head in heads], len(params), inner_steps, first_order)
    losses = _Whole.apply(plan, alpha, *params, *(p for head in heads for p in head.values()))
    return dict(zip(names, losses.unbind(), strict=True))


def _heads(model: Model, episode: Episode, rates: Rates, inner_steps: int, first_order: bool) -> dict[str, Tensor]:
    h = embed(model.encoder, episode.union)
    rows = episode.union_rows
    cuts = sorted({end for pair in rows.values() for side in pair for end in (side.start, side.stop)})
    # Split, not sliced: the gradients of slices would be padded with zeros to the size of h, one by one.
    pieces = dict(zip(cuts, h.split([b - a for a, b in pairwise(cuts)]), strict=False))
    return {
        name: head_only(
            model.heads[name], part, (pieces[left.start], pieces[right.start]), rates[name], inner_steps, first_order
        )
        for (name, part), (left, right) in zip(episode.parts.items(), rows.values(), strict=True)
    }


class _Embed(torch.autograd.Function):
    """h of the encoder, for gradients of first order."""

    @staticmethod
    def forward(ctx: Any, encoder: Encoder, block: Any, *weights: Tensor) -> Tensor:
        ctx.tape = Tape(encoder, block, list(weights))
        ctx.save_for_backward(*weights)
        return ctx.tape.h

    @staticmethod
    def backward(ctx: Any, bar_h: Tensor) -> Any:
        inputs = ctx.saved_tensors
        with torch.no_grad():
            found = ctx.tape.backward(bar_h.contiguous(), True)
        return None, None, *_once(found, inputs)


class _Last(torch.autograd.Function):
    """A gradient as it is; that of its own says that there is none."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "meta_step: its gradient cannot be differentiated again with an Encoder, whose gradients are derived by "
            "hand; fastgmtl.methods.same.meta.by_autograd can"
        )


def _once(found: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients that raise where theirs are asked for, instead of being taken for constants."""
    return [_Last.apply(value, *inputs) for value in found] if torch.is_grad_enabled() else found


@dataclass(frozen=True)
class _Plan:
    """What is not a tensor."""

    model: Model
    episode: Episode
    names: list[str]
    head_names: list[list[str]]
    num_weights: int
    inner_steps: int
    first_order: bool


@dataclass
class _Answer:
    """A head on the embeddings of a task's nodes: its inputs as leaves, its loss, gradients that have a graph."""

    inputs: list[Tensor]
    loss: Tensor
    grads: Sequence[Tensor] = ()


class _Whole(torch.autograd.Function):
    """Outer losses [T] of all tasks, encoder and heads adapted; backward is one pass over the steps, in reverse."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, alpha: Tensor, *params: Tensor) -> Tensor:
        weights, heads = _parted(plan, params)
        block = plan.episode.support
        ctx.steps = []
        for _ in range(plan.inner_steps):
            tape = Tape(_encoder(plan), block, weights)
            answers = [
                _answer(plan, t, tape, heads[t], plan.episode.parts[name].support_query)
                for t, name in enumerate(plan.names)
            ]
            for answer in answers:
                answer.grads = torch.autograd.grad(
                    answer.loss, answer.inputs, create_graph=not plan.first_order, materialize_grads=True
                )
            grads = tape.backward(torch.cat([answer.grads[0].detach() for answer in answers]), False)
            ctx.steps.append((tape, answers, grads))
            weights = [torch.addcmul(w, g, _column(alpha, g), value=-1) for w, g in zip(weights, grads, strict=True)]
            heads = [
                [
                    torch.addcmul(p, g.detach(), alpha[t], value=-1)
                    for p, g in zip(head, answers[t].grads[1:], strict=True)
                ]
                for t, head in enumerate(heads)
            ]
        tape = Tape(_encoder(plan), plan.episode.target, weights)
        answers = [
            _answer(plan, t, tape, heads[t], plan.episode.parts[name].target_query) for t, name in enumerate(plan.names)
        ]
        ctx.last = tape, answers
        ctx.plan = plan
        ctx.save_for_backward(alpha, *params)
        return torch.stack([answer.loss.detach() for answer in answers])

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        inputs = ctx.saved_tensors
        with torch.no_grad():
            found = _Whole.gradients(ctx, inputs[0], bar)
        return None, *_once(found, inputs)

    @staticmethod
    def gradients(ctx: Any, alpha: Tensor, bar: Tensor) -> Sequence[Tensor]:
        """Of alpha, of the encoder's weights, of the heads."""
        plan, (tape, answers) = ctx.plan, ctx.last
        grads = [
            torch.autograd.grad(a.loss, a.inputs, g, materialize_grads=True)
            for a, g in zip(answers, bar.unbind(), strict=True)
        ]
        weights = tape.backward(torch.cat([g[0] for g in grads]), False)
        heads = [list(g[1:]) for g in grads]
        bar_alpha = torch.zeros_like(alpha)
        for place in reversed(range(plan.inner_steps)):
            tape, answers, inner = ctx.steps[place]
            if ctx.needs_input_grad[1]:
                bar_alpha -= _inner_products(weights, inner)
                bar_alpha -= torch.stack([_along(a.grads[1:], h) for a, h in zip(answers, heads, strict=True)])
            first = place == 0
            totals = [w.sum(0) for w in weights] if first else weights
            if not plan.first_order:
                # The product is linear in its direction: alpha goes into that.
                along = [w.mul_(_column(alpha, w)) if first else w * _column(alpha, w) for w in weights]
                found, into_heads = _product(plan, tape, answers, along, heads, alpha, first)
                totals = [w.sub_(f) for w, f in zip(totals, found, strict=True)]
                heads = [[v - f for v, f in zip(*pair, strict=True)] for pair in zip(heads, into_heads, strict=True)]
            weights = totals
        ctx.steps = ctx.last = None
        return [bar_alpha, *weights, *(v for head in heads for v in head)]


def _product(
    plan: _Plan,
    tape: Tape,
    answers: Sequence[_Answer],
    along: Weights,
    heads: Sequence[Sequence[Tensor]],
    alpha: Tensor,
    shared: bool,
) -> tuple[Weights, list[Sequence[Tensor]]]:
    """Hessian of the inner losses times alpha times (``along`` / alpha, ``heads``)."""
    tangent = tape.tangent(along)
    into_h: list[Tensor] = []
    into_heads: list[Sequence[Tensor]] = []
    for t, (answer, rows) in enumerate(zip(answers, tape.slices(), strict=True)):
        # A gradient that is none of the inputs' has no graph: its derivative is 0.
        pairs = zip(answer.grads, [tangent[-1][1][rows], *(alpha[t] * v for v in heads[t])], strict=True)
        outputs, directions = zip(*((g, v) for g, v in pairs if g.requires_grad), strict=True)
        found = torch.autograd.grad(outputs, answer.inputs, directions, materialize_grads=True)
        into_h.append(found[0])
        into_heads.append(found[1:])
    return tape.hessian(tangent, torch.cat(into_h), along, shared), into_heads


def _encoder(plan: _Plan) -> Encoder:
    assert isinstance(plan.model.encoder, Encoder)
    return plan.model.encoder


def _weights(encoder: nn.Module) -> Weights:
    assert isinstance(encoder, Encoder)
    convs: Any = encoder.convs
    return [value for conv in convs for value in (conv.lin.weight, conv.bias)]


def _parted(plan: _Plan, params: Sequence[Tensor]) -> tuple[Weights, list[list[Tensor]]]:
    weights, rest = list(params[: plan.num_weights]), list(params[plan.num_weights :])
    heads = []
    for names in plan.head_names:
        heads.append(rest[: len(names)])
        rest = rest[len(names) :]
    return weights, heads


def _answer(plan: _Plan, task: int, tape: Tape, params: Sequence[Tensor], query: Query) -> _Answer:
    with torch.enable_grad():
        h = tape.h[tape.slices()[task]].detach().requires_grad_()
        leaves = [p.detach().requires_grad_() for p in params]
        named: Params = dict(zip(plan.head_names[task], leaves, strict=True))
        loss = functional_call(plan.model.heads[plan.names[task]], named, (h, query))
    return _Answer([h, *leaves], loss)


def _column(alpha: Tensor, like: Tensor) -> Tensor:
    """alpha [T] with as many axes as ``like``."""
    return alpha.view(-1, *[1] * (like.dim() - 1))


def _inner_products(a: Weights, b: Weights) -> Tensor:
    """<a, b> of each task: [T]."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def _along(grads: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """The slope of a loss with these gradients in a direction."""
    return torch.stack([(g.detach() * v).sum() for g, v in zip(grads, direction, strict=True)]).sum()

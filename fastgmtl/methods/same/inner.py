"""Inner steps of one task, through autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastgmtl.methods.same.episodes import Part

Adapt = Literal["all", "heads"]
Params = dict[str, Tensor]
Rates = Mapping[str, float | Tensor]


def adapted(
    loss: Callable[[Params], Tensor], params: Params, rate: float | Tensor, steps: int, first_order: bool
) -> Params:
    """``params`` after ``steps`` steps down the gradient; differentiable in the first ones.

    ``first_order``: as if the gradients were constants. A parameter that the loss does not depend on stays as it is.
    """
    for _ in range(steps):
        before, graph = list(params.values()), not first_order
        grads = torch.autograd.grad(loss(params), before, create_graph=graph, allow_unused=True)
        params = {k: p if g is None else p - rate * g for (k, p), g in zip(params.items(), grads, strict=True)}
    return params


def head_only(
    head: nn.Module,
    part: Part,
    sides: tuple[Tensor, Tensor],
    rate: float | Tensor,
    steps: int,
    first_order: bool,
) -> Tensor:
    """Outer loss of a task whose head alone is adapted, from the embeddings of its support and target nodes."""

    def loss(params: Params) -> Tensor:
        return functional_call(head, params, (sides[0], part.support_query))

    params = adapted(loss, dict(head.named_parameters()), rate, steps, first_order)
    return functional_call(head, params, (sides[1], part.target_query))


def whole(
    encoder: nn.Module, head: nn.Module, part: Part, rate: float | Tensor, steps: int, first_order: bool
) -> Tensor:
    """Outer loss of a task whose encoder and head are adapted."""
    both = nn.ModuleList((encoder, head))

    def run(params: Params, support: bool) -> Tensor:
        block, query = (part.support, part.support_query) if support else (part.target, part.target_query)
        own = [{k[2:]: v for k, v in params.items() if k.startswith(f"{place}.")} for place in (0, 1)]
        h = functional_call(encoder, own[0], (block.x, block.graph))
        return functional_call(head, own[1], (h, query))

    params = adapted(lambda now: run(now, True), dict(both.named_parameters()), rate, steps, first_order)
    return run(params, False)

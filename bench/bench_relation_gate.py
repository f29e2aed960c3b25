"""relation_gate: gates over tasks, mix, softmax over relations, sum, residual and elu, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import compiled_variants
from fastgmtl import ops, reference

# Nodes, relations, tasks (targets too): DBLP's papers as StrucHIS has them, and many relations as in Debian's packages.
SIZES = {"dblp papers": (14_328, 3, 2), "debian packages": (7_300, 28, 3)}
WIDTH = 64
Tensors = tuple[Tensor, ...]


def is_quick(size: str, threads: int, mode: str) -> bool:
    return size == "dblp papers" and threads == 1 and mode == "fwdbwd"


def moved(n: int, r: int, t: int, d: int, mode: str) -> int:
    """Aggregates, gates, residual and result once; backward: these (but the residual), and gradients of all."""
    z, gates, y = n * r * t * d, n * r * t * t, n * t * d
    forward = z + gates + 2 * y
    return 4 * (forward if mode == "fwd" else forward + 2 * (z + gates) + 3 * y)


def by_products(z: Tensor, logits: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """As the operator's kernel does it: products with the rows of z first, so that m is never written."""
    gate = logits.softmax(2)
    score = (gate * (z @ weight.t())).sum(2)
    part = gate * score.softmax(1).unsqueeze(2)
    y = part.flatten(1, 2).mT @ z.flatten(1, 2)
    return torch.nn.functional.elu(y + residual)


@pytest.mark.parametrize(("size", "threads", "mode"), cases(SIZES, (1, 2), ("fwd", "fwdbwd"), quick=is_quick))
def test_relation_gate(benchmark: Any, settings: Settings, size: str, threads: int, mode: str) -> None:
    torch.set_num_threads(threads)
    n, r, t = SIZES[size]
    shapes = (n, r, t, WIDTH), (n, r, t, t), (t, WIDTH), (n, t, WIDTH)
    inputs = [graphs.random(*shape, seed=seed).requires_grad_(mode == "fwdbwd") for seed, shape in enumerate(shapes)]
    grad = graphs.random(n, t, WIDTH, seed=9)

    def step(function: Callable[..., Tensor], inputs: list[Tensor] = inputs) -> Callable[[], Tensors]:
        def run() -> Tensors:
            y = function(*inputs)
            return (y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))) if mode == "fwdbwd" else (y,)

        return run

    def composed(z: Tensor, logits: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return reference.relation_gate(z, logits, weight, residual, None, "elu")

    exact = step(composed, [i.detach().double().requires_grad_(mode == "fwdbwd") for i in inputs])()
    wanted = [v.float() for v in exact]

    def error(result: Tensors) -> float:
        return difference(result, wanted)

    ours = step(lambda *v: ops.relation_gate(*v, None, "elu"))
    providers: dict[str, Provider | str] = {
        OURS: Provider(ours, error),
        "PyTorch, einsum": Provider(step(composed), error),
        "PyTorch, products first": Provider(step(by_products), error),
    }
    found = compiled_variants(
        "torch.compile, products first", by_products, [*inputs[:2], inputs[3]], threads, settings.quick
    )
    for name, run in found.items():
        providers[name] = run if isinstance(run, str) else Provider(step(run), error, compiles=True)
    case = Case("relation_gate", size, mode, threads, n, n * r, WIDTH, t)
    output = 4 * sum(v.numel() for v in wanted)
    settings.measure(benchmark, case, providers, Floors(moved(n, r, t, WIDTH, mode), None, output))

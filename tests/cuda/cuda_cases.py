"""Cases of the one table with their operands on another device, and what the reference makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cases
import torch
from cases import CALLS, Call, Draw, Pattern
from torch import Tensor

Outputs = Tensor | tuple[Tensor, ...]


def moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


class OnDevice:
    """A Draw whose graph is on ``device``, and whose operands are those that the Draw on the CPU makes."""

    def __init__(self, draw: Draw, device: torch.device) -> None:
        self._draw, self._device = draw, device
        self.graph = draw.graph.to(device)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._draw, name)
        return (lambda *args: moved(found(*args), self._device)) if callable(found) else found


def pair(
    name: str,
    pattern: Pattern,
    device: torch.device,
    tasks: int = 3,
    width: int = 5,
    dtype: torch.dtype = torch.float64,
) -> tuple[Call, Call]:
    """The call ``name`` on ``device``, and the same one on the CPU."""
    made = []
    for where in (device, torch.device("cpu")):
        generator = cases.generator(f"{name}-{pattern.name}-{tasks}-{width}")
        draw = Draw(pattern.graph(), tasks, width, dtype, generator)
        made.append(CALLS[name](OnDevice(draw, where)))  # type: ignore[arg-type]
    return made[0], made[1]


def expected(call: Call) -> Outputs:
    """The reference in float64; that of an extreme, which names edges, in the operands' own type."""
    own = call.twin(*call.tensors)
    if any(not value.is_floating_point() for value in outputs(own)):
        return own
    return call.twin(*[t.double() if t is not None and t.is_floating_point() else t for t in call.tensors])


def outputs(value: Outputs) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def cpu(value: Outputs) -> tuple[Tensor, ...]:
    return tuple(v.detach().cpu() for v in outputs(value))


def same_bits(got: Outputs, want: Outputs) -> bool:
    return all(torch.equal(g, w) for g, w in zip(outputs(got), outputs(want), strict=True))


def weighted(out: Outputs) -> Tensor:
    """A scalar with a different factor for every element, computed where ``out`` is."""
    total = None
    for o in outputs(out):
        factor = torch.arange(1, o.numel() + 1, device=o.device, dtype=torch.float64).cos().to(o.dtype)
        part = (o * factor.reshape(o.shape)).sum()
        total = part if total is None else total + part
    assert total is not None
    return total


def gradients(function: Callable[..., Outputs], inputs: Sequence[Tensor], order: int = 1) -> tuple[Tensor, ...]:
    """All derivatives of the weighted sum of the outputs, up to ``order``."""
    value, found = weighted(function(*inputs)), []
    for _ in range(order):
        if not value.requires_grad:
            break
        parts = torch.autograd.grad(value, inputs, create_graph=order > 1, allow_unused=True)
        parts = tuple(torch.zeros_like(i) if p is None else p for i, p in zip(inputs, parts, strict=True))
        found += [p.detach() for p in parts]
        value = weighted(parts)
    return tuple(found)


def waiting_is(mode: str) -> None:
    """ "error": PyTorch raises where the host would wait for the GPU. "default": it waits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is a prototype, it says
        torch.cuda.set_sync_debug_mode(mode)

"""Comparing the outputs of a model's layers before and after a swap, without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Of the largest entry of an output: float32's for what is computed or accumulated in it.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}

Arguments = tuple[Any, ...] | Mapping[str, Any]
Outputs = dict[nn.Module, list[list[Tensor]]]  # of each layer, for each of its calls, in the order of the first calls


def outputs(model: nn.Module, layers: Mapping[nn.Module, str], arguments: Arguments) -> Outputs:
    """What each of ``layers`` returns in a run of ``model`` in evaluation mode, of which nothing is left."""
    from fastgmtl.accelerate.small import always

    if any(is_lazy(p) for p in (*model.parameters(), *model.buffers())):
        raise RuntimeError("accelerate_: verify needs parameters with a shape; run the lazy model once before")
    found: Outputs = {}

    def keep(layer: nn.Module, args: Any, out: Any) -> None:
        found.setdefault(layer, []).append([t.detach().clone() for t in _tensors(out)])

    with _as_it_was(model), always(), torch.no_grad(), contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        model.eval()
        if isinstance(arguments, Mapping):
            model(**arguments)
        else:
            model(*arguments)
    return found


def check(before: Outputs, after: Outputs, names: Mapping[nn.Module, str]) -> dict[nn.Module, float]:
    """The largest difference of each layer, or RuntimeError for the first that differs by more than rounding."""
    found = {}
    for layer, calls in before.items():
        pairs = [pair for a, b in zip(calls, after[layer], strict=True) for pair in zip(a, b, strict=True)]
        worst = 0.0
        for a, b in pairs:
            # What is equal (infinities, too) differs by 0; NaN equals NaN here.
            same = (a == b) | ((a != a) & (b != b))
            gap = (a.double() - b.double()).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
            diff = float(gap.max()) if gap.numel() else 0.0
            size = float(a.double().abs().masked_fill(~a.isfinite(), 0.0).max()) if a.numel() else 0.0
            allowed = TOLERANCE.get(a.dtype, 0.0) * max(1.0, size)
            if not diff <= allowed or a.dtype != b.dtype:
                raise RuntimeError(
                    f"accelerate_: the output of {names[layer] or 'the model'} ({type(layer).__name__}) differs by "
                    f"{diff:.1e} ({a.dtype} before, {b.dtype} after), more than {allowed:.1e}; the model is as it was"
                )
            worst = max(worst, diff)
        found[layer] = worst
    return found


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out if out.layout == torch.strided else out.to_dense()]
    if isinstance(out, Mapping):
        return [t for value in out.values() for t in _tensors(value)]
    if isinstance(out, (tuple, list)):
        return [t for value in out for t in _tensors(value)]
    return []


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back the modes, attributes and buffers of all modules, and the random number generators."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = [(b, b.clone()) for b in model.buffers()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, attributes, buffers in kept:
                vars(module).clear()
                vars(module).update(attributes)
                module._buffers.clear()
                module._buffers.update(buffers)
            for buffer, value in values:
                buffer.copy_(value)

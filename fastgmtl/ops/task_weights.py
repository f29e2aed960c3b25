"""task_weights: the T x T problem of a gradient aggregator, solved exactly where the Gram matrix lies."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.ops.check import one_of
from fastgmtl.ops.operator import is_transformed
from fastgmtl.reference.task_weights import task_weights as twin

# In the order of csrc/contract/task_weights.h.
METHODS = (
    "pcgrad",
    "gradvac",
    "mgda",
    "cagrad",
    "upgrad",
    "dualproj",
    "imtlg",
    "nashmtl",
    "fairgrad",
    "alignedmtl",
    "config",
    "rcgrad",
    "rotated",
)
_NUMBER = {name: k for k, name in enumerate(METHODS)}


def task_weights(
    gram: Tensor,
    method: str,
    preference: Tensor | None = None,
    order: Tensor | None = None,
    parameter: float = 0.0,
    state: Tensor | None = None,
) -> Tensor:
    r"""Weights of T gradients from their inner products, ``w = f(G)``.

    Args:
        gram: [T, T], or [K, T, T] for K problems; T is at most 64. Solved in float64, to the rounding of the matrix
            and without absolute constants: a factor on gradients is a factor on the result, of whatever size.
        method: one of :data:`METHODS`, whose formulas are in csrc/contract/task_weights.h.
        preference: p, [T]; None for 1/T ("config": ones). Of "rcgrad" and "rotated" the amounts omega.
        order: [T, T] int64 for "pcgrad" and "gradvac": row i lists the tasks in the order in which i meets them.
        parameter: the number that the method has.
        state: float64 and of the shape of gram, for "gradvac"; updated in place.

    Returns:
        [T] or [K, T], float64. Not differentiable. Nothing waits for a device.

    Raises:
        TypeError: gram is not a floating point tensor.
        ValueError: a shape, a device or the method does not fit.
    """
    one_of("task_weights", "method", method, METHODS)
    if not isinstance(gram, Tensor) or not gram.is_floating_point():
        what = gram.dtype if isinstance(gram, Tensor) else type(gram).__name__
        raise TypeError(f"task_weights: gram must be a floating point tensor, got {what}")
    if gram.dim() not in (2, 3) or gram.size(-1) != gram.size(-2) or not 1 <= gram.size(-1) <= 64:
        raise ValueError(f"task_weights: gram must be [T, T] or [K, T, T] with T of 1 to 64, got {list(gram.shape)}")
    if state is not None and state.shape != gram.shape:
        raise ValueError(
            f"task_weights: state must have the shape of gram, {list(gram.shape)}, got {list(state.shape)}"
        )
    number = _NUMBER[method]
    if order is None and number < 2:
        order = torch.arange(gram.size(-1), device=gram.device).expand(gram.shape[-2:])
    if is_transformed():
        return _packet(gram.detach(), number, preference, order, parameter, state)
    return _solve(gram, number, preference, order, parameter, state)


def _solve(
    gram: Tensor, number: int, preference: Tensor | None, order: Tensor | None, parameter: float, state: Tensor | None
) -> Tensor:
    kernels = backend.kernels_for(gram.device)
    with torch.no_grad():
        if kernels is None:
            return twin(gram, METHODS[number], preference, order, parameter, state)
        problems = gram.detach().to(torch.float64).reshape(-1, *gram.shape[-2:]).contiguous()
        out = torch.empty(problems.shape[:-1], dtype=torch.float64, device=gram.device)
        p = None if preference is None else preference.detach().to(torch.float64).contiguous()
        memory = None if state is None else state.reshape(problems.shape).contiguous()
        rows = None if order is None else order.contiguous()
        kernels.task_weights(number, problems, p, rows, parameter, memory, out)
        if state is not None and memory is not None and not state.is_contiguous():
            state.copy_(memory.view(state.shape))
        return out if gram.dim() == 3 else out[0]


def _fake(
    gram: Tensor, number: int, preference: Tensor | None, order: Tensor | None, parameter: float, state: Tensor | None
) -> Tensor:
    return gram.new_empty(gram.shape[:-1], dtype=torch.float64)


torch.library.define(
    "fastgmtl::task_weights",
    "(Tensor gram, int method, Tensor? preference, Tensor? order, float parameter, Tensor(a!)? state) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("fastgmtl::task_weights", ("CPU", "CUDA"), _solve)
torch.library.register_fake("fastgmtl::task_weights", _fake)
_packet = torch.ops.fastgmtl.task_weights.default

r"""grouped_matmul: rows by node type, relation or task, times the matrix of their group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.ops import fold
from fastgmtl.ops.check import floating_tensor
from fastgmtl.ops.operator import Operator
from fastgmtl.reference.grouped_matmul import grouped_outer as outer_twin


def grouped_matmul(x: Tensor, weight: Tensor, group_ptr: Sequence[int] | Tensor) -> Tensor:
    r"""Multiply each group of rows by its own matrix.

    .. math:: y_m = x_m W_g \quad \text{for the rows } p_g \le m < p_{g+1}

    Args:
        x: [M, K], rows sorted by group; float32, float64, bfloat16 or float16.
        weight: W, [G, K, N].
        group_ptr: p, G + 1 integers from 0 to M that do not decrease; a group may have no rows. A sequence, or an
            integer tensor on the CPU: it is read when the call is made, which for a tensor on a GPU would wait for
            all work before it.

    Returns:
        y [M, N], of the promoted dtype of x and weight.

    The arithmetic is PyTorch's: one product where there is one group, a batched one where all groups are equally large,
    else a product for each group, written in place. Differentiable to any order.

    Raises:
        TypeError: x or weight is not floating point, group_ptr holds no integers.
        ValueError: a shape or a device does not fit, or group_ptr does not rise from 0 to M.
    """
    floating_tensor("grouped_matmul", "x", x)
    floating_tensor("grouped_matmul", "weight", weight)
    if x.dim() != 2:
        raise ValueError(f"grouped_matmul: x must have shape [M, K], got {list(x.shape)}")
    if weight.dim() != 3 or weight.size(1) != x.size(1):
        wanted = f"[G, K, N] = [G, {x.size(1)}, N]"
        raise ValueError(f"grouped_matmul: weight must have shape {wanted}, got {list(weight.shape)}")
    if x.device != weight.device:
        raise ValueError(f"grouped_matmul: tensors must be on one device, got {x.device} and {weight.device}")
    bounds = _bounds(group_ptr, weight.size(0), x.size(0))
    dtype = torch.promote_types(x.dtype, weight.dtype)
    x, weight = x.to(dtype), weight.to(dtype)
    if backend.kernels_for(x.device) is None:
        return reference.grouped_matmul(x, weight, bounds)
    return grouped_matmul_op(None, x, weight, bounds, False)


def _bounds(group_ptr: Any, groups: int, rows: Any) -> list[int]:
    """group_ptr as a list, or an error that says what is wrong with it."""
    if isinstance(group_ptr, Tensor):
        if group_ptr.device.type != "cpu":
            raise ValueError(
                f"grouped_matmul: group_ptr must be on the CPU, got {group_ptr.device}; keep the sizes of the groups "
                "as a list beside what is on the GPU"
            )
        group_ptr = group_ptr.tolist()
    if not isinstance(group_ptr, Sequence) or not all(type(p) is int for p in group_ptr):
        given = type(group_ptr).__name__
        raise TypeError(f"grouped_matmul: group_ptr must be integers, a sequence or a tensor [G + 1], got {given}")
    bounds = list(group_ptr)
    if len(bounds) != groups + 1:
        raise ValueError(f"grouped_matmul: group_ptr must have G + 1 = {groups + 1} entries, got {len(bounds)}")
    if bounds[0] != 0 or bounds[-1] != rows or any(b < a for a, b in pairwise(bounds)):
        raise ValueError(f"grouped_matmul: group_ptr must rise from 0 to M = {rows}, got {bounds}")
    return bounds


def _equal(bounds: list[int]) -> int:
    """The number of rows that all groups have, or 0."""
    sizes = {end - begin for begin, end in pairwise(bounds)}
    return sizes.pop() if len(sizes) == 1 else 0


class _GroupedMatmul(Operator):
    """x W_g, or with ``transposed`` x W_g^T."""

    name = "grouped_matmul"
    tensors = ("x", "weight")
    options = (("bounds", "int[]"), ("transposed", "bool"))
    takes_graph = False

    @staticmethod
    def kernel(_: Any, __: None, x: Tensor, weight: Tensor, bounds: list[int], transposed: bool) -> Tensor:
        with torch.no_grad():
            x, weight = x.contiguous(), weight.contiguous()
            matrices = weight.mT if transposed else weight
            rows = _equal(bounds)
            if rows:
                return torch.bmm(x.reshape(len(matrices), rows, x.size(1)), matrices).flatten(0, 1)
            out = x.new_empty(x.size(0), matrices.size(2))
            for (begin, end), matrix in zip(pairwise(bounds), matrices, strict=True):
                if begin < end:
                    torch.mm(x[begin:end], matrix, out=out[begin:end])
            return out

    @staticmethod
    def reference(_: None, x: Tensor, weight: Tensor, bounds: list[int], transposed: bool) -> Tensor:
        return reference.grouped_matmul(x, weight.mT if transposed else weight, bounds)

    @staticmethod
    def fake(_: None, x: Tensor, weight: Tensor, bounds: list[int], transposed: bool) -> Tensor:
        return x.new_empty(x.size(0), weight.size(1 if transposed else 2))

    @staticmethod
    def backward(
        call: Any, needs: Any, grads: Any, outputs: Any, _: None, x: Any, weight: Any, bounds: Any, transposed: bool
    ) -> Any:
        (g,) = grads
        if g is None:
            return None, None
        d_x = call(grouped_matmul_op)(None, g, weight, bounds, not transposed) if needs[0] else None
        pair = (g, x) if transposed else (x, g)
        return d_x, call(grouped_outer_op)(None, *pair, bounds) if needs[1] else None

    @staticmethod
    def vmap(size: int, dims: Any, _: None, *args: Any) -> Any:
        return fold.each(grouped_matmul_op, size, dims, args)


class _GroupedOuter(Operator):
    """The sum of x_m y_m^T over the rows of each group, [G, K, N]."""

    name = "grouped_outer"
    tensors = ("x", "y")
    options = (("bounds", "int[]"),)
    takes_graph = False

    @staticmethod
    def kernel(_: Any, __: None, x: Tensor, y: Tensor, bounds: list[int]) -> Tensor:
        with torch.no_grad():
            x, y, rows = x.contiguous(), y.contiguous(), _equal(bounds)
            if rows:
                groups = len(bounds) - 1
                return torch.bmm(x.reshape(groups, rows, x.size(1)).mT, y.reshape(groups, rows, y.size(1)))
            out = _GroupedOuter.fake(None, x, y, bounds)
            for g, (begin, end) in enumerate(pairwise(bounds)):
                torch.mm(x[begin:end].t(), y[begin:end], out=out[g])
            return out

    @staticmethod
    def reference(_: None, x: Tensor, y: Tensor, bounds: list[int]) -> Tensor:
        return outer_twin(x, y, bounds)

    @staticmethod
    def fake(_: None, x: Tensor, y: Tensor, bounds: list[int]) -> Tensor:
        return x.new_empty(len(bounds) - 1, x.size(1), y.size(1))

    @staticmethod
    def backward(call: Any, needs: Any, grads: Any, outputs: Any, _: None, x: Any, y: Any, bounds: Any) -> Any:
        (g,) = grads
        if g is None:
            return None, None
        times = call(grouped_matmul_op)
        d_x = times(None, y, g, bounds, True) if needs[0] else None
        return d_x, times(None, x, g, bounds, False) if needs[1] else None

    @staticmethod
    def vmap(size: int, dims: Any, _: None, *args: Any) -> Any:
        return fold.each(grouped_outer_op, size, dims, args)


grouped_matmul_op = _GroupedMatmul()
grouped_outer_op = _GroupedOuter()

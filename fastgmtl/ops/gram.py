"""gram: inner products of T gradients, in one pass over their tensors where they lie."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.ops.bilinear import gram_op
from fastgmtl.ops.rows import groups_argument, parse
from fastgmtl.reference.gram import Gradients


def gram(grads: Gradients, groups: Sequence[int] | None = None) -> Tensor:
    r"""Gram matrix of T gradients.

    .. math:: G_{s,t} = \langle g_s, g_t \rangle = \sum_n \sum_p g_{s,n,p} \, g_{t,n,p}

    Args:
        grads: T lists of the same N tensors (None where a task has no gradient: zeros); or N tensors with a first axis
            of T, as ``torch.autograd.grad(..., is_grads_batched=True)`` gives; or a tensor [T, P]. T is at most 64.
            float32, float64, bfloat16 or float16; tensors of different n may differ. Nothing is copied or flattened.
        groups: the group in 0 .. K-1 of each of the N tensors: then a Gram matrix of every group, at no extra traffic.
            ``range(N)`` gives one for each tensor. They add up to the one without groups.

    Returns:
        [T, T], or [K, T, T] with groups; float64. Products of a chunk of 2048 elements are added in float32 (float64
        for float64), chunks in float64, in a fixed order: bit-equal from run to run and for any number of threads.

    Differentiable to any order in the gradients.

    Raises:
        TypeError: something is not a dense floating point tensor.
        ValueError: shapes, dtypes or devices of the tasks differ, T is 0 or above 64, groups do not fit.
    """
    rows = parse("gram", grads)
    key, count = groups_argument("gram", groups, rows.places)
    if backend.kernels_for(rows.device) is None:
        return reference.gram(grads, groups)
    try:
        (out,) = gram_op((rows.tensors, ()), rows.tasks, rows.stacked, 0, True, rows.kept(key), count)
    except (TypeError, ValueError, RuntimeError):
        rows.explain("gram")
        raise
    return out[0] if groups is None else out

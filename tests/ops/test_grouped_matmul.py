"""grouped_matmul by hand and what it refuses. What is generated for every operator is beside this."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgmtl import ops

X, W = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([[[1.0], [0]], [[0], [1]], [[1], [1]]])


@pytest.mark.parametrize(
    ("ptr", "want"),
    [
        ([0, 1, 2, 3], [[1.0], [4.0], [11.0]]),
        ([0, 2, 2, 3], [[1.0], [3.0], [11.0]]),
        ([0, 0, 0, 3], [[3.0], [7.0], [11.0]]),
        ([0, 0, 3, 3], [[2.0], [4.0], [6.0]]),
    ],
)
def test_by_hand(ptr: list[int], want: list[list[float]]) -> None:
    for given in (ptr, tuple(ptr), torch.tensor(ptr), torch.tensor(ptr, dtype=torch.int32)):
        assert ops.grouped_matmul(X, W, given).tolist() == want  # type: ignore[arg-type]


def test_no_rows_no_groups_no_width() -> None:
    assert ops.grouped_matmul(X[:0], W, [0, 0, 0, 0]).shape == (0, 1)
    assert ops.grouped_matmul(X[:0], W[:0], [0]).shape == (0, 1)
    assert ops.grouped_matmul(X[:, :0], W[:, :0], [0, 1, 2, 3]).tolist() == [[0.0]] * 3
    assert ops.grouped_matmul(X[:, :0], W[:, :0], [0, 0, 2, 3]).tolist() == [[0.0]] * 3
    assert ops.grouped_matmul(X, W[:, :, :0], [0, 1, 1, 3]).shape == (3, 0)


def test_a_group_without_rows_has_the_gradient_zero() -> None:
    weight = W.clone().requires_grad_()
    ops.grouped_matmul(X, weight, [0, 1, 1, 3]).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten(1).tolist() == [[1.0, 2.0], [0.0, 0.0], [8.0, 10.0]]


def test_mixed_dtypes_are_promoted() -> None:
    got = ops.grouped_matmul(X.bfloat16(), W.double(), [0, 1, 2, 3])
    assert got.dtype == torch.float64 and got.tolist() == [[1.0], [4.0], [11.0]]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ops.grouped_matmul([1.0], W, [0]),
            TypeError,
            "x must be a tensor, got list; wrap it in torch.as_tensor",
        ),
        (
            lambda: ops.grouped_matmul(X, W.long(), [0]),
            TypeError,
            "weight must be floating point, got int64; convert it with .float()",
        ),
        (lambda: ops.grouped_matmul(X[0], W, [0]), ValueError, "x must have shape [M, K], got [2]"),
        (
            lambda: ops.grouped_matmul(X, W.mT, [0]),
            ValueError,
            "weight must have shape [G, K, N] = [G, 2, N], got [3, 1, 2]",
        ),
        (lambda: ops.grouped_matmul(X, W, [0, 3]), ValueError, "group_ptr must have G + 1 = 4 entries, got 2"),
        (
            lambda: ops.grouped_matmul(X, W, [0, 2, 1, 3]),
            ValueError,
            "group_ptr must rise from 0 to M = 3, got [0, 2, 1, 3]",
        ),
        (
            lambda: ops.grouped_matmul(X, W, [0, 1, 2, 4]),
            ValueError,
            "group_ptr must rise from 0 to M = 3, got [0, 1, 2, 4]",
        ),
        (
            lambda: ops.grouped_matmul(X, W, [0.0, 1, 2, 3]),
            TypeError,
            "group_ptr must be integers, a sequence or a tensor [G + 1], got list",
        ),
        (
            lambda: ops.grouped_matmul(X, W, 3),
            TypeError,
            "group_ptr must be integers, a sequence or a tensor [G + 1], got int",
        ),
        (
            lambda: ops.grouped_matmul(X, W, torch.tensor([0, 1, 2, 3], device="meta")),
            ValueError,
            "group_ptr must be on the CPU, got meta; keep the sizes of the groups as a list beside what is on the GPU",
        ),
        (
            lambda: ops.grouped_matmul(X, W.to("meta"), [0]),
            ValueError,
            "tensors must be on one device, got cpu and meta",
        ),
    ],
)
def test_refused(make: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == "grouped_matmul: " + text

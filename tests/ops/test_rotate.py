"""rotate: by hand, against the vectors, differentiable in gradients and amounts."""

from __future__ import annotations

from math import sqrt

import cases
import pytest
import torch

from fastgmtl import ops


def test_rotate_by_hand() -> None:
    rows = torch.tensor([[5.0, 0.0], [-1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    root = sqrt(2)
    torch.testing.assert_close(ops.rotate(rows, 1.0)[1], torch.tensor([0.0, root]).double())
    torch.testing.assert_close(ops.rotate(rows, 0.0), rows)
    half = root * torch.tensor([-torch.pi / 8]).double().sin(), root * torch.tensor([torch.pi / 8]).double().cos()
    torch.testing.assert_close(ops.rotate(rows, 0.5)[1], torch.cat(half))


def test_norms_stay_and_angles_turn() -> None:
    g = cases.generator("rotate")
    rows = [[torch.randn(3, 2, generator=g).double(), torch.randn(4, generator=g).double()] for _ in range(6)]
    amount = torch.rand(6, generator=g, dtype=torch.float64)
    before, after = ops.gram(rows), ops.gram(ops.rotate(rows, amount, 2))
    torch.testing.assert_close(after.diagonal(), before.diagonal())
    angles = [(m[2] / (m[2, 2] * m.diagonal()).sqrt()).clamp(-1, 1).acos() for m in (before, after)]
    want = torch.where(angles[0] > torch.pi / 2, angles[0] - amount * (angles[0] - torch.pi / 2), angles[0])
    torch.testing.assert_close(angles[1], want, rtol=0, atol=1e-7)
    assert (angles[0] > torch.pi / 2).any()


def test_opposite_and_missing_gradients() -> None:
    rows = torch.tensor([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
    assert ops.rotate(rows, 0.25).tolist() == [[1.0, 2.0], [-1.5, -3.0], [0.0, 0.0]]
    torch.testing.assert_close(ops.rotate(rows, 0.25, 2), rows)


def test_rotate_is_differentiable() -> None:
    rows = torch.randn(3, 4, generator=cases.generator("derivative"), dtype=torch.float64, requires_grad=True)
    amount = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    assert (ops.gram(rows)[0] < 0).any()
    assert torch.autograd.gradcheck(ops.rotate, (rows, amount))
    assert torch.autograd.gradgradcheck(ops.rotate, (rows, amount))


def test_no_such_target() -> None:
    with pytest.raises(IndexError, match="rotate: target must be one of 2 tasks, got -3"):
        ops.rotate(torch.ones(2, 3), 1.0, -3)


def test_amounts_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"rotate: amount must be a number or have shape \[T\] = \[2\], got \[3\]"):
        ops.rotate(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(TypeError, match=r"rotate: amount must be a number or a tensor .*, got str"):
        ops.rotate(torch.ones(2, 3), "half")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"floating point tensor .*, got torch.int64"):
        ops.rotate(torch.ones(2, 3), torch.ones(2).long())

"""project: by hand, against the vectors, differentiable."""

from __future__ import annotations

import cases
import pytest
import torch

from fastgmtl import ops


def test_project_by_hand() -> None:
    rows = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [1.0, 3.0]])
    assert ops.project(rows).tolist() == [[2.0, 0.0], [0.0, 1.0], [1.0, 3.0]]
    assert ops.project(rows, 1)[0].tolist() == [1.0, 1.0]
    assert ops.project(rows * torch.tensor([[0.0], [1.0], [1.0]])).tolist() == [[0.0, 0.0], [-1.0, 1.0], [1.0, 3.0]]


def test_nothing_goes_against_the_target_in_any_form() -> None:
    g = cases.generator("project")
    rows = [[torch.randn(3, 2, generator=g).double(), None, torch.randn(4, generator=g).double()] for _ in range(5)]
    for target in (0, 3, -1):
        found = ops.project(rows, target)
        assert all(row[1] is None for row in found)
        products = ops.gram(found)
        assert (products[target] > -1e-12).all()
        torch.testing.assert_close(found[target][0], rows[target][0])
        stacked = ops.project([torch.stack([row[n] for row in rows]) for n in (0, 2)], target)
        for n, place in enumerate((0, 2)):
            torch.testing.assert_close(stacked[n], torch.stack([row[place] for row in found]))


def test_project_is_differentiable() -> None:
    rows = torch.randn(3, 4, generator=cases.generator("derivative"), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.project, (rows,))
    assert torch.autograd.gradgradcheck(ops.project, (rows,))


def test_no_such_target() -> None:
    with pytest.raises(IndexError, match="project: target must be one of 2 tasks, got 2"):
        ops.project(torch.ones(2, 3), 2)

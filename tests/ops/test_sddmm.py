"""sddmm by hand. What is generated for every operator is beside this."""

from __future__ import annotations

import pytest
import torch

from fastgmtl import Graph, ops

TRIANGLE = torch.tensor([[0, 1, 2, 0, 0], [1, 2, 1, 1, 2]])


def test_sddmm_by_hand() -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x_dst, x_src = torch.tensor([[1.0, 0], [0, 1], [2, 2]]), torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    assert ops.sddmm(graph, x_dst, x_src).tolist() == [2.0, 14.0, 6.0, 2.0, 6.0]


def test_tasks_share_what_has_no_task_axis() -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x_dst, x_src = torch.randn(3, 2, 4), torch.randn(3, 4)
    got = ops.sddmm(graph, x_dst, x_src)
    assert got.shape == (5, 2)
    for t in range(2):
        torch.testing.assert_close(got[:, t], ops.sddmm(graph, x_dst[:, t], x_src))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    graph, wide = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.long)), torch.ones(1, 3000, dtype=dtype)
    assert (ops.sddmm(graph, wide, wide) == torch.tensor(3000, dtype=dtype)).all()


def test_mixed_dtypes_are_promoted() -> None:
    graph, x = Graph.from_edge_index(TRIANGLE), torch.randn(3, 4, dtype=torch.bfloat16)
    got = ops.sddmm(graph, x, x.double())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, ops.sddmm(graph, x.double(), x.double()), rtol=0, atol=0)


def test_nan_goes_where_its_node_goes() -> None:
    graph, x = Graph.from_edge_index(TRIANGLE), torch.ones(3, 40)
    x[2, 39] = torch.nan
    assert ops.sddmm(graph, torch.ones(3, 40), x).isnan().tolist() == [False, False, True, False, False]

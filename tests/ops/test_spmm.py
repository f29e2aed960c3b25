"""spmm by hand: values, special numbers, half precision, ties. What is generated for every operator is beside this."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import cases
import pytest
import torch
from cases import DTYPES
from compare import case, close

from fastgmtl import Graph, ops, reference


@pytest.fixture
def simd(kernels: ModuleType) -> Iterator[ModuleType]:
    before = kernels.simd()
    yield kernels
    kernels.set_simd(before)


TRIANGLE = torch.tensor([[0, 1, 2, 0, 0], [1, 2, 1, 1, 2]])  # node 0 has no edge in; 0 -> 1 is there twice


@pytest.mark.parametrize(
    ("reduce", "want"),
    [
        ("sum", [[0.0], [1 * 1 + 3 * 4 + 4 * 1], [2 * 2 + 5 * 1]]),
        ("mean", [[0.0], [17 / 3], [4.5]]),
        ("max", [[0.0], [12.0], [5.0]]),
        ("min", [[0.0], [1.0], [4.0]]),
    ],
)
def test_spmm_by_hand(reduce: str, want: list[list[float]]) -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x, weight = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    torch.testing.assert_close(ops.spmm(graph, x, weight, reduce), torch.tensor(want))


@pytest.mark.parametrize("reduce", cases.REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_goes_where_its_edge_goes(reduce: str, dtype: torch.dtype) -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    weight = torch.ones(5, dtype=dtype)
    weight[2] = torch.nan  # 2 -> 1
    y = ops.spmm(graph, torch.ones(3, 33, dtype=dtype), weight, reduce)
    assert y.isnan().all(1).tolist() == [False, True, False]
    assert not y[0].any() and not y[2].isnan().any()


@pytest.mark.parametrize("reduce", cases.REDUCTIONS)
def test_infinities(reduce: str) -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x = torch.tensor([[torch.inf, -torch.inf], [1, 1], [torch.inf, torch.inf]])
    close(
        ops.spmm(graph, x, None, reduce).nan_to_num(9),
        reference.spmm(graph, x, None, reduce).nan_to_num(9),
        torch.float64,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    edges = 3000
    graph = Graph.from_edge_index(torch.stack([torch.zeros(edges, dtype=torch.long)] * 2))
    one = torch.ones(1, 3, dtype=dtype)
    assert (ops.spmm(graph, one) == torch.tensor(3000, dtype=dtype)).all()  # a sum in half stops at 256 or 2048
    assert (ops.spmm(graph, 60000 * one, None, "mean") == torch.tensor(60000, dtype=dtype)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_number_survives(dtype: torch.dtype, simd: ModuleType) -> None:
    """One edge of weight 1 copies: all 65,536 bit patterns, on every level."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, -1)
    graph = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.long))
    for level in simd.simd_levels():
        simd.set_simd(level)
        with case(level):
            torch.testing.assert_close(ops.spmm(graph, x), x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_to_half_is_torch_s(dtype: torch.dtype, simd: ModuleType) -> None:
    """Products of halves, rounded once: to nearest, ties to even, subnormal results and overflow included."""
    g = cases.generator("rounding")
    x = (torch.randn(1, 50000, generator=g) * torch.randint(-24, 18, (1, 50000), generator=g).float().exp2()).to(dtype)
    w = torch.tensor([1 + 2**-7], dtype=dtype)
    graph = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.long))
    want = (x.float() * w.float()).to(dtype)
    for level in simd.simd_levels():
        simd.set_simd(level)
        with case(level):
            assert torch.equal(ops.spmm(graph, x, w), want)


def test_mixed_dtypes_are_promoted() -> None:
    graph = Graph.from_edge_index(TRIANGLE)
    x, weight = torch.randn(3, 4, dtype=torch.bfloat16), torch.randn(5)
    y = ops.spmm(graph, x, weight)
    assert y.dtype == torch.float32
    assert torch.equal(y, ops.spmm(graph, x.float(), weight))


@pytest.mark.parametrize(("reduce", "first"), [("max", 0), ("min", 0)])
def test_of_equal_extremes_the_edge_given_first_gets_the_gradient(reduce: str, first: int) -> None:
    # 1 -> 0 is given before 0 -> 0, though columns in row order could say otherwise.
    graph = Graph.from_edge_index(torch.tensor([[1, 0, 1], [0, 0, 1]]))
    weight = torch.ones(3, requires_grad=True)
    ops.spmm(graph, torch.ones(2, 1), weight, reduce).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [1.0, 0.0, 1.0]

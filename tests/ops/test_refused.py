"""What operators refuse, with the exact words, and what they must take: nothing crashes the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import PATTERNS, REDUCTIONS

from fastgmtl import Graph, ops, reference

GRAPH = PATTERNS["bipartite"].graph()  # 7 sources, 3 destinations, 9 edges
SRC, DST, W = torch.randn(7, 4), torch.randn(3, 4), torch.randn(9)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ops.spmm(torch.zeros(2, 9, dtype=torch.long), SRC),  # type: ignore[arg-type]
            TypeError,
            "spmm: graph must be a fastgmtl.Graph, got Tensor; build one with Graph.from_edge_index(edge_index)",
        ),
        (
            lambda: ops.spmm(GRAPH, [1.0]),  # type: ignore[arg-type]
            TypeError,
            "spmm: x must be a tensor, got list; wrap it in torch.as_tensor",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC.long()),
            TypeError,
            "spmm: x must be floating point, got int64; convert it with .float()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC > 0),
            TypeError,
            "spmm: x must be floating point, got bool; convert it with .float()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC.to(torch.complex64)),
            TypeError,
            "spmm: x must be floating point, got complex64; convert it with .float()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC.to(torch.float8_e4m3fn)),
            TypeError,
            "spmm: x must be float32, float64, bfloat16 or float16, got float8_e4m3fn; convert it with .float()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC.to_sparse()),
            TypeError,
            "spmm: x must be a dense tensor, got layout torch.sparse_coo; convert it with .to_dense()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC[:, 0]),
            ValueError,
            "spmm: x must have shape [N, d] or [N, T, d], got [7]",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC[None, None]),
            ValueError,
            "spmm: x must have shape [N, d] or [N, T, d], got [1, 1, 7, 4]",
        ),
        (
            lambda: ops.spmm(GRAPH, DST),
            ValueError,
            "spmm: x must have num_src = 7 rows (one for each node of the graph), got [3, 4]",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, 2.0),  # type: ignore[arg-type]
            TypeError,
            "spmm: weight must be a tensor or None, got float",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, W.int()),
            TypeError,
            "spmm: weight must be floating point, got int32; convert it with .float()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, W.to_sparse()),
            TypeError,
            "spmm: weight must be a dense tensor, got layout torch.sparse_coo; convert it with .to_dense()",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, W[:8]),
            ValueError,
            "spmm: weight must have shape [E] or [E, T] = [9, T], got [8]",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, W[:, None, None]),
            ValueError,
            "spmm: weight must have shape [E] or [E, T] = [9, T], got [9, 1, 1]",
        ),
        (
            lambda: ops.spmm(GRAPH, torch.randn(7, 4, 2), torch.randn(9, 3)),
            ValueError,
            "spmm: weight must have shape [E] or [E, T] = [9, 4], got [9, 3]",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, None, "prod"),
            ValueError,
            "spmm: reduce must be one of sum, mean, max, min, got 'prod'",
        ),
        (
            lambda: ops.spmm(GRAPH, SRC, None, None),  # type: ignore[arg-type]
            ValueError,
            "spmm: reduce must be one of sum, mean, max, min, got None",
        ),
        (
            lambda: ops.sddmm(GRAPH, SRC, SRC),
            ValueError,
            "sddmm: x_dst must have num_dst = 3 rows (one for each node of the graph), got [7, 4]",
        ),
        (
            lambda: ops.sddmm(GRAPH, DST, DST),
            ValueError,
            "sddmm: x_src must have num_src = 7 rows (one for each node of the graph), got [3, 4]",
        ),
        (
            lambda: ops.sddmm(GRAPH, DST.int(), SRC),
            TypeError,
            "sddmm: x_dst must be floating point, got int32; convert it with .float()",
        ),
        (
            lambda: ops.sddmm(GRAPH, DST[:, :3], SRC),
            ValueError,
            "sddmm: x_dst and x_src must agree in d (and T, where both have tasks), got [3, 3] and [7, 4]",
        ),
        (
            lambda: ops.sddmm(GRAPH, torch.randn(3, 2, 4), torch.randn(7, 5, 4)),
            ValueError,
            "sddmm: x_dst and x_src must agree in d (and T, where both have tasks), got [3, 2, 4] and [7, 5, 4]",
        ),
        (
            lambda: ops.sddmm("graph", DST, SRC),  # type: ignore[arg-type]
            TypeError,
            "sddmm: graph must be a fastgmtl.Graph, got str; build one with Graph.from_edge_index(edge_index)",
        ),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(
    ("x", "weight"),
    [((0, 4), None), ((0, 3, 4), (0,)), ((0, 0), (0, 2)), ((0, 0, 0), (0, 0)), ((0, 0, 3), None)],
)
def test_empty_everything(reduce: str, x: tuple[int, ...], weight: tuple[int, ...] | None) -> None:
    graph = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.long))
    features = torch.zeros(x, requires_grad=True)
    w = None if weight is None else torch.zeros(weight, requires_grad=True)
    y = ops.spmm(graph, features, w, reduce)
    assert y.shape == reference.spmm(graph, features, w, reduce).shape
    y.sum().backward()
    assert features.grad is not None and features.grad.shape == x


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("shape", [(7, 0), (7, 0, 4), (7, 3, 0), (7, 1, 1)])
def test_axes_of_length_zero_and_one(reduce: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    y = ops.spmm(GRAPH, x, None, reduce)
    assert y.shape == (3, *shape[1:])
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == shape
    w = torch.randn(9, 0, requires_grad=True)
    y = ops.spmm(GRAPH, SRC, w, reduce)
    assert y.shape == (3, 0, 4)
    y.sum().backward()
    assert w.grad is not None and w.grad.shape == (9, 0)
    assert ops.sddmm(GRAPH, torch.randn(3, *shape[1:]), torch.randn(shape)).shape == (
        (9,) if len(shape) == 2 else (9, shape[1])
    )


def test_parameters_and_subclasses() -> None:
    class Named(torch.Tensor):
        pass

    weight = torch.nn.Parameter(W.clone())
    want = reference.spmm(GRAPH, SRC, W)
    torch.testing.assert_close(ops.spmm(GRAPH, SRC, weight).detach(), want)
    named = ops.spmm(GRAPH, SRC.as_subclass(Named), weight)
    torch.testing.assert_close(named.detach().as_subclass(torch.Tensor), want)
    named.sum().backward()
    assert weight.grad is not None

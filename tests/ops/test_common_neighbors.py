"""common_neighbors: its sums against products of dense matrices, derivatives, and the doors of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS
from compare import close
from torch import Tensor

from fastgmtl import Graph, backend, ops

DTYPE = torch.float64
NAMES = ("typical", "parallel", "one_row", "power_law", "isolated", "bipartite", "bipartite_wide", "no_edges", "empty")


def drawn(name: str, *axes: int) -> tuple[Graph, Tensor, Tensor, Tensor]:
    """Graph, pairs, features and weights."""
    pattern, g = MEDIUM[name], cases.generator(name)
    pairs = torch.randint(max(1, pattern.num_dst), (2, 40 if pattern.num_dst else 0), generator=g)
    h = torch.randn(pattern.num_src, *axes, generator=g, dtype=DTYPE)
    return pattern.graph(), pairs, h, torch.rand(pattern.num_src, generator=g, dtype=DTYPE)


@pytest.mark.parametrize("choice", ["auto", "reference"])
@pytest.mark.parametrize("axes", [(3,), (2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_product_of_adjacencies(name: str, axes: tuple[int, ...], choice: str) -> None:
    graph, pairs, h, p = drawn(name, *axes)
    src, dst = graph.edge_index()
    there = torch.zeros(graph.num_dst, graph.num_src, dtype=DTYPE).index_put((dst, src), torch.ones((), dtype=DTYPE))
    both = there[pairs[0]] * there[pairs[1]]
    with backend.use_backend(choice):
        close(ops.common_neighbors(graph, pairs, h), torch.einsum("qn,n...->q...", both, h), DTYPE)
        if graph.is_square:
            both = both.scatter(1, pairs.t(), 0)
            want = torch.einsum("qn,n,n...->q...", both, p, h)
            close(ops.common_neighbors(graph, pairs, h, p, without=pairs), want, DTYPE)


@pytest.mark.parametrize("name", ["typical", "parallel", "bipartite"])
def test_derivatives(name: str) -> None:
    graph, g = PATTERNS[name].graph(), cases.generator(name)
    pairs = torch.randint(graph.num_dst, (2, 6), generator=g)
    pairs[:, 0] = int(graph.in_degree().argmax())
    inputs = [torch.randn(graph.num_src, *axes, generator=g, dtype=DTYPE, requires_grad=True) for axes in ((2,), ())]

    def call(h: Tensor, p: Tensor) -> Tensor:
        return ops.common_neighbors(graph, pairs, h, p)

    assert call(*inputs).abs().sum() > 0
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_doors(fresh_dynamo: None, kernels: Any) -> None:
    """torch.func and, with a break where pairs are gone through, torch.compile; without one where they were before."""
    graph, pairs, h, p = drawn("typical", 3)
    want = ops.common_neighbors(graph, pairs, h, p)
    several = torch.stack([h, 2 * h, -h])
    got = torch.func.vmap(lambda h: ops.common_neighbors(graph, pairs, h, p))(several)
    close(got, torch.stack([want, 2 * want, -want]), DTYPE)
    leaf = h.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ops.common_neighbors(graph, pairs, leaf, p).square().sum(), leaf)
    close(torch.func.grad(lambda h: ops.common_neighbors(graph, pairs, h, p).square().sum())(h), grad, DTYPE)
    close(
        torch.compile(lambda h: 2 * ops.common_neighbors(graph, pairs, h, p), backend="aot_eager")(h), 2 * want, DTYPE
    )
    found = ops.intersect(graph, pairs)
    whole = torch.compile(lambda h: ops.spmm(found, p[:, None] * h), backend="aot_eager", fullgraph=True)
    close(whole(h), want, DTYPE)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"h": torch.zeros(4, 2)}, ValueError, r"common_neighbors: h must have num_src = 5 rows"),
        ({"h": torch.zeros(5, 2).long()}, TypeError, "common_neighbors: h must be floating point, got int64"),
        ({"weight": torch.zeros(2)}, ValueError, r"common_neighbors: weight must have shape \[N\] = \[5\], got \[2\]"),
        ({"weight": 2.0}, TypeError, "common_neighbors: weight must be a tensor, got float"),
        ({"graph": None}, TypeError, "common_neighbors: graph must be a fastgmtl.Graph, got NoneType"),
        ({"pairs": torch.tensor([[9], [0]])}, IndexError, "intersect: every node of pairs must be in"),
    ],
)
def test_refused(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    graph = PATTERNS["typical"].graph()
    given = {"graph": graph, "pairs": torch.tensor([[0], [1]]), "h": torch.zeros(5, 2)} | changes
    with pytest.raises(error, match=text):
        ops.common_neighbors(**given)

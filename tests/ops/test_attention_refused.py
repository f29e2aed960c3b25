"""What attention refuses, with the exact words, and the strange sizes it must take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import PATTERNS

from fastgmtl import Graph, ops, reference

GRAPH = PATTERNS["bipartite"].graph()  # 7 sources, 3 destinations, 9 edges
V, DST, SRC, EDGE = torch.randn(7, 2, 4), torch.randn(3, 2), torch.randn(7, 2), torch.randn(9, 2)
Q, K, TYPE, KIND = torch.randn(3, 2, 5), torch.randn(7, 2, 5), torch.randn(3, 2), torch.zeros(9, dtype=torch.long)


def attention(value: Any = V, **options: Any) -> Any:
    return ops.attention(GRAPH, value, **options)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ops.attention(KIND, V, score_src=SRC),  # type: ignore[arg-type]
            TypeError,
            "attention: graph must be a fastgmtl.Graph, got Tensor; build one with Graph.from_edge_index(edge_index)",
        ),
        (
            lambda: attention([1.0], score_src=SRC),
            TypeError,
            "attention: value must be a tensor, got list; wrap it in torch.as_tensor",
        ),
        (
            lambda: attention(V.long(), score_src=SRC),
            TypeError,
            "attention: value must be floating point, got int64; convert it with .float()",
        ),
        (
            lambda: attention(score_src=SRC.to_sparse()),
            TypeError,
            "attention: score_src must be a dense tensor, got layout torch.sparse_coo; convert it with .to_dense()",
        ),
        (
            lambda: attention(score_edge=3.0),
            TypeError,
            "attention: score_edge must be a tensor, got float; wrap it in torch.as_tensor",
        ),
        (
            lambda: attention(V[:, 0], score_src=SRC),
            ValueError,
            "attention: value must have shape [N, H, d] or [N, T, H, d], got [7, 4]",
        ),
        (
            lambda: attention(V[:3], score_src=SRC),
            ValueError,
            "attention: value must have shape [N, H, d] or [N, T, H, d] = [7, 2, 4] or [7, T, 2, 4], got [3, 2, 4]",
        ),
        (
            lambda: attention(score_src=SRC[:, :1]),
            ValueError,
            "attention: score_src must have shape [N, H] or [N, T, H] = [7, 2] or [7, T, 2], got [7, 1]",
        ),
        (
            lambda: attention(score_dst=SRC),
            ValueError,
            "attention: score_dst must have shape [M, H] or [M, T, H] = [3, 2] or [3, T, 2], got [7, 2]",
        ),
        (
            lambda: attention(torch.randn(7, 3, 2, 4), score_edge=torch.randn(9, 5, 2)),
            ValueError,
            "attention: score_edge must have shape [E, H] or [E, T, H] = [9, 2] or [9, 3, 2], got [9, 5, 2]",
        ),
        (
            lambda: attention(score_edge=EDGE[0, 0]),
            ValueError,
            "attention: score_edge must have shape [E, H] or [E, T, H] = [9, 2] or [9, T, 2], got []",
        ),
        (
            lambda: attention(query=Q, key=K[..., :3]),
            ValueError,
            "attention: key must have shape [N, H, c] or [N, T, H, c] = [7, 2, 5] or [7, T, 2, 5], got [7, 2, 3]",
        ),
        (
            lambda: attention(query=torch.tensor(1.0), key=K),
            ValueError,
            "attention: query must have shape [M, H, c] or [M, T, H, c] = [3, 2, 0] or [3, T, 2, 0], got []",
        ),
        (
            lambda: attention(query=Q, key=K, att=torch.randn(2, 4)),
            ValueError,
            "attention: att must have shape [H, c] or [T, H, c] = [2, 5] or [T, 2, 5], got [2, 4]",
        ),
        (
            lambda: attention(score_type=torch.randn(()), edge_type=KIND),
            ValueError,
            "attention: score_type must have shape [R, H] or [R, T, H] = [0, 2] or [0, T, 2], got []",
        ),
        (
            lambda: attention(),
            ValueError,
            "attention: at least one of score_dst, score_src, score_type, score_edge, or query and key, is required",
        ),
        (lambda: attention(query=Q), ValueError, "attention: query and key go together, got query alone"),
        (lambda: attention(key=K), ValueError, "attention: query and key go together, got key alone"),
        (
            lambda: attention(att=torch.randn(2, 5), score_src=SRC),
            ValueError,
            "attention: att needs query and key, the features that it scores",
        ),
        (
            lambda: attention(score_src=SRC, scale=2.0),
            ValueError,
            "attention: scale is for query and key without att; multiply the scores by it instead",
        ),
        (
            lambda: attention(score_type=TYPE),
            ValueError,
            "attention: score_type and edge_type go together, got score_type alone",
        ),
        (
            lambda: attention(score_src=SRC, edge_type=KIND),
            ValueError,
            "attention: score_type and edge_type go together, got edge_type alone",
        ),
        (
            lambda: attention(score_type=TYPE, edge_type=KIND.float()),
            TypeError,
            "attention: edge_type must be an int32 or int64 tensor, got float32",
        ),
        (
            lambda: attention(score_type=TYPE, edge_type=[0] * 9),
            TypeError,
            "attention: edge_type must be an int32 or int64 tensor, got list",
        ),
        (
            lambda: attention(score_type=TYPE, edge_type=KIND[:8]),
            ValueError,
            "attention: edge_type must have shape [E] = [9], got [8]",
        ),
        (
            lambda: attention(score_type=TYPE, edge_type=KIND + 3),
            IndexError,
            "attention: edge_type must be in [0, R) = [0, 3), got 3",
        ),
        (
            lambda: attention(score_type=TYPE, edge_type=KIND - 1),
            IndexError,
            "attention: edge_type must be in [0, R) = [0, 3), got -1",
        ),
        (
            lambda: attention(score_src=SRC, dropout=1.0),
            ValueError,
            "attention: dropout must be in [0, 1), got 1.0",
        ),
        (
            lambda: attention(score_src=SRC, dropout=-0.1),
            ValueError,
            "attention: dropout must be in [0, 1), got -0.1",
        ),
        (
            lambda: attention(score_src=SRC, dropout_on="values"),
            ValueError,
            "attention: dropout_on must be one of weights, logits, got 'values'",
        ),
        (
            lambda: attention(score_src=SRC, dropout=0.5, seed=torch.tensor([1, 2])),
            ValueError,
            "attention: seed must be an int or an int64 tensor of one element, got a tensor of shape [2]",
        ),
        (
            lambda: attention(score_src=SRC, dropout=0.5, seed=0.5),
            TypeError,
            "attention: seed must be an int or an int64 tensor of one element, got float",
        ),
        (
            lambda: attention(score_src=SRC, dropout=0.5, seed=torch.tensor([1.0])),
            TypeError,
            "attention: seed must be an int or an int64 tensor of one element, got float32",
        ),
        (
            lambda: attention(V.to("meta"), score_src=SRC),
            ValueError,
            "attention: graph and tensors must be on one device, got cpu and meta; move the graph with .to(device)",
        ),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize("sizes", [(0, 0, 0), (4, 0, 3), (4, 2, 0), (4, 1, 1), (0, 2, 3)])
def test_axes_of_length_zero_and_one(sizes: tuple[int, int, int]) -> None:
    nodes, heads, width = sizes
    edges = torch.zeros(2, 3 if nodes else 0, dtype=torch.long)
    graph = Graph.from_edge_index(edges, nodes, nodes)
    found = []
    for function in (ops.attention, reference.attention):
        value, dst, src = (torch.ones(nodes, heads, *last, requires_grad=True) for last in ((width,), (), ()))
        y = function(graph, value, score_dst=dst, score_src=src)
        grads = torch.autograd.grad(y.sum(), (value, dst, src))
        assert y.shape == (nodes, heads, width)
        found.append((y.detach(), *grads))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_no_types_and_no_edges() -> None:
    graph = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.long), 3)
    of_type, value = torch.zeros(0, 2, requires_grad=True), torch.ones(3, 2, 4, requires_grad=True)
    y = ops.attention(graph, value, score_type=of_type, edge_type=torch.zeros(0, dtype=torch.int32))
    y.sum().backward()
    assert torch.equal(y, torch.zeros(3, 2, 4)) and of_type.grad is not None and of_type.grad.shape == (0, 2)

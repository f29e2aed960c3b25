"""NBFNet against messages that are written out, edge by edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, nn
from fastgmtl.nn.nbfnet import AGGREGATIONS, square_sum
from fastgmtl.ops.relational import MESSAGES

N, E, R, B, D = 9, 30, 4, 3, 6


@pytest.fixture
def edges() -> tuple[Tensor, Tensor]:
    """Random edges into all nodes but the last one, and their relations."""
    g = torch.Generator().manual_seed(1)
    ends = torch.stack([torch.randint(N, (E,), generator=g), torch.randint(N - 1, (E,), generator=g)])
    return ends, torch.randint(R, (E,), generator=g)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def messages(x: Tensor, z: Tensor, message: str) -> Tensor:
    if message == "rotate":
        a, b = (torch.complex(*v.chunk(2, -1)) for v in (x, z))
        return torch.cat([(a * b).real, (a * b).imag], -1)
    return x * z if message == "mul" else x + z


@pytest.mark.parametrize("aggr", AGGREGATIONS)
@pytest.mark.parametrize("message", MESSAGES)
def test_layer_is_the_formula(message: str, aggr: str, edges: tuple[Tensor, Tensor]) -> None:
    (src, dst), types = edges
    conv = nn.NBFNetConv(D, R, message, aggr).double()
    x, query, boundary = random(N, B, D, seed=2), random(B, D, seed=3), random(N, B, D, seed=4)
    relation = conv.relation(query).reshape(B, R, D).transpose(0, 1)
    made = messages(x[src], relation[types], message)
    rows = []
    for v in range(N):
        mine = torch.cat([made[dst == v], boundary[v : v + 1]])
        if aggr == "pna":
            deviation = mine.var(0, unbiased=False).clamp(min=1e-6).sqrt()
            rows.append(torch.cat([mine.mean(0), mine.amax(0), mine.amin(0), deviation], -1))
        else:
            rows.append({"sum": mine.sum(0), "mean": mine.mean(0), "max": mine.amax(0)}[aggr])
    found = torch.stack(rows)
    if aggr == "pna":
        scale = torch.stack([torch.log((dst == v).sum().double() + 1) for v in range(N)]).reshape(-1, 1, 1)
        scale = scale / scale.mean()
        found = torch.cat([found, found * scale, found / scale.clamp(min=1e-2)], -1)
    want = x + torch.relu(conv.norm(conv.lin(torch.cat([x, found], -1))))
    graph = Graph.from_edge_index(torch.stack([src, dst]), N, N)
    torch.testing.assert_close(conv(graph, types, x, query, boundary), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("message", MESSAGES)
def test_squares_of_messages(message: str, edges: tuple[Tensor, Tensor]) -> None:
    (src, dst), types = edges
    x, z, w = random(N, D, seed=5), random(R, D, seed=6), random(E, seed=7)
    want = torch.zeros(N, D).double().index_add(0, dst, (w[:, None] * messages(x[src], z[types], message)).square())
    graph = Graph.from_edge_index(torch.stack([src, dst]), N, N)
    torch.testing.assert_close(square_sum(graph, x, z, types, w, message), want, rtol=1e-10, atol=1e-10)


def test_scores_of_candidates_are_those_of_all(edges: tuple[Tensor, Tensor]) -> None:
    ends, types = edges
    graph = Graph.from_edge_index(ends, N, N)
    model = nn.NBFNet(D, 2, R)
    source, relation = torch.tensor([0, 3, 8]), torch.tensor([1, 0, 3])
    every = model(graph, types, source, relation)
    assert every.shape == (3, N)
    candidates = torch.tensor([[0, 5], [3, 3], [8, 1]])
    some = model(graph, types, source, relation, candidates)
    torch.testing.assert_close(some, every.gather(1, candidates))


def test_queries_do_not_see_each_other(edges: tuple[Tensor, Tensor]) -> None:
    ends, types = edges
    graph, model = Graph.from_edge_index(ends, N, N), nn.NBFNet(D, 3, R, aggr="sum")
    source, relation = torch.tensor([0, 3, 8]), torch.tensor([1, 0, 3])
    every = model(graph, types, source, relation)
    for k in range(3):
        torch.testing.assert_close(model(graph, types, source[k : k + 1], relation[k : k + 1])[0], every[k])


def test_paths_are_as_long_as_there_are_layers() -> None:
    """On the path 0 -> 1 -> 2 -> 3 two layers reach node 2 and not node 3."""
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, 4)
    model = nn.NBFNet(D, 2, 1, aggr="sum")
    for layer in model.layers:  # a node that nothing reaches stays at zero
        torch.nn.init.zeros_(layer.lin.bias)
    one = torch.zeros(1, dtype=torch.long)
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(graph, torch.zeros(3, dtype=torch.long), one, one)
    reached = seen[0][0, :, :D].abs().sum(1) > 0
    assert reached.tolist() == [True, True, True, False]


def test_derivatives(edges: tuple[Tensor, Tensor]) -> None:
    ends, types = edges
    graph, conv = Graph.from_edge_index(ends, N, N), nn.NBFNetConv(2, R, "rotate", "sum").double()
    inputs = [v.requires_grad_() for v in (random(N, 1, 2, seed=8), random(1, 2, seed=9), random(E, seed=10))]

    def run(x: Tensor, query: Tensor, weight: Tensor) -> Tensor:
        return conv(graph, types, x, query, x, weight)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_refused() -> None:
    with pytest.raises(ValueError, match="NBFNetConv: message must be one of mul, add, rotate, got 'dot'"):
        nn.NBFNetConv(4, 2, "dot")
    with pytest.raises(ValueError, match="NBFNetConv: aggr must be one of sum, mean, max, pna, got 'min'"):
        nn.NBFNetConv(4, 2, "mul", "min")


def test_repr() -> None:
    layer = nn.NBFNetConv(4, 2)
    assert repr(layer).startswith("NBFNetConv(\n  4, num_relations=2, message=mul, aggr=pna")
    before = layer.lin.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.lin.weight, before)

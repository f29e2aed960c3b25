"""Shared layers and mixtures of experts against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from fastgmtl import Graph, nn

N, F, D, E, T = 12, 6, 5, 4, 3


@pytest.fixture
def graph(edge_index: Tensor) -> Graph:
    return Graph.from_edge_index(edge_index, N, N)


def both_kinds(width: int, out: int, count: int) -> tuple[tnn.Module, tnn.Module]:
    """The same experts as one layer and as separate ones."""
    joint, each = nn.SAGEConv(width, out, num_tasks=count), [nn.SAGEConv(width, out) for _ in range(count)]
    for e, layer in enumerate(each):
        layer.load_state_dict({k: v[e] for k, v in joint.state_dict().items()})
    return joint, nn.Experts(each)


def test_shared_bottom(x: Tensor, graph: Graph) -> None:
    layer = nn.GCNConv(F, D)
    out = nn.SharedBottom(layer, T)(x, graph)
    assert out.shape == (N, T, D) and out.stride(1) == 0
    assert all(torch.equal(out[:, t], layer(x, graph)) for t in range(T))


def test_experts_with_one_input_and_with_their_own(x: Tensor, graph: Graph) -> None:
    joint, separate = both_kinds(F, D, E)
    for given in (x, torch.randn(N, E, F)):
        torch.testing.assert_close(separate(given, graph), joint(given, graph))


@pytest.mark.parametrize("kind", [0, 1], ids=["one layer", "separate"])
def test_mmoe(kind: int, x: Tensor, graph: Graph) -> None:
    experts = both_kinds(F, D, E)[kind]
    model = nn.MMoE(experts, F, E, T)
    assert {k: tuple(v.shape) for k, v in model.gate.state_dict().items()} == {"weight": (T, E, F)}
    outputs = experts(x, graph)
    gates = torch.stack([(x @ model.gate.weight[t].t()).softmax(1) for t in range(T)], 1)
    out = model(x, graph)
    torch.testing.assert_close(out, torch.einsum("nte,ned->ntd", gates, outputs))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def ple_by_hand(model: nn.PLE, x: Tensor, graph: Graph) -> Tensor:
    """Task by task and gate by gate, over lists of the experts that each may use."""
    m, k, states = model.num_specific, model.num_shared, [x] * (T + 1)
    for depth, (level, gate) in enumerate(zip(model.levels, model.gates, strict=True)):
        own = [t for t in range(T) for _ in range(m)] + [T] * k
        outputs = [layer(states[o], graph) for layer, o in zip(level, own, strict=True)]  # type: ignore[call-overload]
        new = []
        for target in range(T + 1 if depth < len(model.levels) - 1 else T):
            mine = [e for e, o in enumerate(own) if target in (o, T) or o == T]
            logits = states[target] @ gate.weight[target].t()  # type: ignore[union-attr,index]
            share = logits[:, mine].softmax(1)
            new.append(sum(share[:, i : i + 1] * outputs[e] for i, e in enumerate(mine)))
        states = new
    return torch.stack(states, 1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ple(depth: int, x: Tensor, graph: Graph) -> None:
    m, k = 2, 1
    widths = [F, D, D][:depth]
    pairs = [both_kinds(width, D, T * m + k) for width in widths]
    separate, joint = (nn.PLE([pair[kind] for pair in pairs], widths, T, m, k) for kind in (1, 0))
    joint.gates.load_state_dict(separate.gates.state_dict())
    want = ple_by_hand(separate, x, graph)
    torch.testing.assert_close(separate(x, graph), want)
    torch.testing.assert_close(joint(x, graph), want)
    got, expected = (
        torch.autograd.grad(out.square().sum(), list(separate.parameters())) for out in (separate(x, graph), want)
    )
    for g, w in zip(got, expected, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
    assert not any(name.startswith(("owner", "allowed")) for name in separate.state_dict())


def test_a_task_does_not_reach_the_experts_of_another(x: Tensor, graph: Graph) -> None:
    model = nn.PLE([nn.SAGEConv(F, D, num_tasks=T + 1)], [F], T, 1, 1)
    grad = torch.autograd.grad(model(x, graph)[:, 1].sum(), model.levels[0].lin_l.weight)[0]  # type: ignore[union-attr]
    assert [bool(g.any()) for g in grad] == [False, True, False, True]


def test_multisfs_keeps_what_matters_to_each_task() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(40, 6), nn.Linear(6, 1, num_tasks=2)
    model = nn.MultiSFS(layer, 2, num_fields=3)
    targets = torch.stack([3 * x[:, 0], 3 * x[:, 5]], 1)
    torch.nn.init.constant_(layer.weight, 0.1)

    def losses() -> list[Tensor]:
        return list((model(x)[..., 0] - targets).square().mean(0))

    assert torch.equal(model(x), layer(x))
    saliency = model.select(losses, keep=1)
    mask = torch.ones(2, 3, requires_grad=True)
    by_hand = (layer(x.unsqueeze(1) * mask.repeat_interleave(2, 1))[..., 0] - targets).square().mean(0)
    want = torch.stack([torch.autograd.grad(by_hand[t], mask, retain_graph=True)[0][t] for t in range(2)]).abs()
    torch.testing.assert_close(saliency, want)
    assert model.mask.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert not model.mask.requires_grad and "mask" in model.state_dict()
    torch.testing.assert_close(model(x)[:, 0], x[:, :2] @ layer.weight[0, :, :2].t() + layer.bias[0])  # type: ignore[index]
    again = nn.MultiSFS(nn.Linear(6, 1, num_tasks=2), 2, 3)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_mixtures_are_differentiable_twice(x: Tensor, graph: Graph) -> None:
    model = nn.PLE([nn.SAGEConv(F, 2, num_tasks=5)] * 1, [F], 2, 2, 1).double()
    names = [k for k, _ in model.named_parameters()]

    def call(*values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x.double(), graph)).square()

    inputs = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_compile_without_graph_breaks(name: str, x: Tensor, graph: Graph) -> None:
    torch._dynamo.reset()
    layer = nn.SAGEConv(F, D, num_tasks=4)
    model: Any = nn.MMoE(layer, F, 4, T) if name == "mmoe" else nn.PLE([layer], [F], T, 1, 1)
    out = torch.compile(model, fullgraph=True, backend="aot_eager")(x, graph)
    torch.testing.assert_close(out, model(x, graph))
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


SAGE = nn.SAGEConv(F, D, num_tasks=2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.SharedBottom(SAGE, 0), "SharedBottom: num_tasks must be an integer of at least 1, got 0"),
        (lambda: nn.MMoE(SAGE, F, True, 2), "MMoE: num_experts must be an integer of at least 1, got True"),
        (lambda: nn.PLE([SAGE], [F, F], 2, 1, 1), "PLE: channels must have an entry for each level, got 2 for 1"),
        (lambda: nn.PLE([SAGE], [F], 2, 1, 0), "PLE: num_shared must be an integer of at least 1, got 0"),
        (
            lambda: nn.MMoE(SAGE, F, 3, 2)(torch.zeros(3, F), torch.zeros(2, 0, dtype=torch.long)),
            "MMoE: experts must put out [N, E, d] with E = 3, got [3, 2, 5]; give the layer num_tasks",
        ),
        (
            lambda: nn.MultiSFS(SAGE, 2, 4)(torch.zeros(3, F)),
            "MultiSFS: num_fields must divide the 6 features, got 4",
        ),
        (lambda: nn.MultiSFS(SAGE, 2, 3).select(list, keep=4), "MultiSFS: keep must be in [1, 3], got 4"),
    ],
)
def test_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text

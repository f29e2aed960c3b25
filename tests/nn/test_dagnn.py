"""DAGNN against its formula with a dense matrix, T gates against T layers, what it keeps, and a short training."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastgmtl import Graph, nn
from fastgmtl.data import load
from fastgmtl.nn import dagnn

N, C, T, K = 12, 8, 3, 4


def dense(edge_index: Tensor, weight: Tensor | None) -> Tensor:
    """The normalised adjacency matrix with loops [N, N], rows destinations, of edges without loops."""
    weight = torch.ones(edge_index.size(1), dtype=torch.float64) if weight is None else weight
    a = torch.eye(N, dtype=torch.float64).index_put((edge_index[1], edge_index[0]), weight, accumulate=True)
    root = a.sum(1).rsqrt()
    return root.unsqueeze(1) * a * root


def formula(x: Tensor, a: Tensor, gate: Tensor, bias: Tensor | None, hops: int = K) -> Tensor:
    """Of one task: x [N, C], a [N, N], gate [C]."""
    states = [x]
    for _ in range(hops):
        states.append(a @ states[-1])
    stack = torch.stack(states, 1)
    score = stack @ gate if bias is None else stack @ gate + bias
    return (score.sigmoid().unsqueeze(-1) * stack).sum(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_layer_is_the_formula(bias: bool, weighted: bool, simple_edges: Tensor) -> None:
    conv = nn.DAGNNConv(C, K, bias).double()
    x = torch.randn(N, C, dtype=torch.float64)
    weight = torch.rand(simple_edges.size(1), dtype=torch.float64) if weighted else None
    want = formula(x, dense(simple_edges, weight), conv.proj.weight[0], conv.proj.bias)
    torch.testing.assert_close(conv(x, simple_edges, weight), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("per_task", [True, False])
@pytest.mark.parametrize("weights", ["none", "E", "ET"])
def test_tasks_are_separate_layers(per_task: bool, weights: str, edge_index: Tensor) -> None:
    layers = [nn.DAGNNConv(C, K).double() for _ in range(T)]
    joint = nn.DAGNNConv(C, K, num_tasks=T).double()
    state = [layer.state_dict() for layer in layers]
    joint.load_state_dict({k: torch.stack([s[k] for s in state]) for k in state[0]})
    graph = Graph.from_edge_index(edge_index, N, N)
    x = torch.randn(N, *([T] if per_task else []), C, dtype=torch.float64, requires_grad=True)
    shape = {"none": None, "E": (), "ET": (T,)}[weights]
    weight = None if shape is None else torch.rand(edge_index.size(1), *shape, dtype=torch.float64, requires_grad=True)
    out = joint(x, graph, weight)
    each = [
        layer(x[:, t] if per_task else x, graph, weight[:, t] if weight is not None and weight.dim() == 2 else weight)
        for t, layer in enumerate(layers)
    ]
    want = torch.stack(each, 1)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    probe = torch.randn_like(out)
    inputs = [x] if weight is None else [x, weight]
    for a, b in zip(*(torch.autograd.grad((v * probe).sum(), inputs) for v in (out, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(N, C), (N, T, C)])
@pytest.mark.parametrize("per_task", [True, False])
def test_derivatives(shape: tuple[int, ...], per_task: bool, edge_index: Tensor) -> None:
    """In features, weights, gates and biases, of the first and second order; without and with a plain composition."""
    if per_task and len(shape) == 2:
        shape = (N, 1, C)
    tasks = T if len(shape) == 3 and shape[1] == T else 1
    graph = Graph.from_edge_index(edge_index[:, :14], N, N)
    x = torch.randn(N, tasks if per_task else 1, C, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(14, *([tasks] if per_task else []), dtype=torch.float64, requires_grad=True)
    gate = torch.randn(tasks, C, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(tasks, dtype=torch.float64, requires_grad=True)

    def run(*values: Tensor) -> Tensor:
        return dagnn.gated_hops(graph, *values, 3)

    inputs = (x, weight, gate, bias)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)
    plain = torch.autograd.grad(dagnn._sum(graph, *inputs, 3).square().sum(), inputs)
    ours = torch.autograd.grad(run(*inputs).square().sum(), inputs)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("sets", "tasks"), [(1, 1), (1, T), (T, T)])
def test_a_batch_of_gradients(sets: int, tasks: int, edge_index: Tensor) -> None:
    graph = Graph.from_edge_index(edge_index, N, N)
    shapes = [(N, sets, C), (edge_index.size(1), *([T] if sets == T else [])), (tasks, C), (tasks,)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    out = dagnn.gated_hops(graph, *inputs, 3)
    grads = torch.randn(4, *out.shape, dtype=torch.float64)
    together = torch.autograd.grad(out, inputs, grads, retain_graph=True, is_grads_batched=True)
    for k, grad in enumerate(grads):
        for found, want in zip(together, torch.autograd.grad(out, inputs, grad, retain_graph=True), strict=True):
            torch.testing.assert_close(found[k], want, rtol=1e-10, atol=1e-10)


def test_only_what_is_asked_for_gets_a_gradient(edge_index: Tensor) -> None:
    graph = Graph.from_edge_index(edge_index, N, N)
    x, gate = torch.randn(N, 1, C), torch.randn(1, C, requires_grad=True)
    dagnn.gated_hops(graph, x, None, gate, None, K).sum().backward()
    assert x.grad is None and gate.grad is not None


def test_what_is_kept_for_the_backward(edge_index: Tensor) -> None:
    """The K hops, x, gates and the weights of the edges: no stack, no score, no product. Without gradients nothing."""
    graph = Graph.from_edge_index(edge_index, N, N)
    conv, x = nn.DAGNNConv(C, K), torch.randn(N, C, requires_grad=True)
    kept: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        conv(x, graph)
        wide = [v for v in kept if v.numel() >= N * C and v.size(-1) == C]
        assert len(wide) == K + 1 and all(v.numel() == N * C for v in wide)
        kept.clear()
        with torch.no_grad():
            conv(x, graph)
    assert kept == []


def test_memory_of_inference(monkeypatch: pytest.MonkeyPatch, edge_index: Tensor) -> None:
    """Of the hops two are alive at a time, however many there are."""
    alive: list[int] = []
    seen: list[Any] = []
    spmm = dagnn.spmm

    def counted(*args: Any) -> Tensor:
        out = spmm(*args)
        seen.append(weakref.ref(out))
        alive.append(sum(ref() is not None for ref in seen))
        return out

    monkeypatch.setattr(dagnn, "spmm", counted)
    with torch.no_grad():
        nn.DAGNNConv(C, 20)(torch.randn(N, C), edge_index)
    assert len(alive) == 20 and max(alive) <= 2


def test_half_precision_sums_in_float32(edge_index: Tensor) -> None:
    conv, x = nn.DAGNNConv(C, 20), torch.randn(N, C)
    want = conv(x, edge_index)
    found = conv.to(torch.bfloat16)(x.bfloat16(), edge_index)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), want, rtol=2e-2, atol=2e-2 * float(want.detach().abs().max()))


def test_compile_and_functional_transforms(edge_index: Tensor) -> None:
    torch._dynamo.reset()
    conv, x = nn.DAGNNConv(C, K, num_tasks=T), torch.randn(N, C)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(conv, fullgraph=True, backend=counter)
    want = conv(x, edge_index)
    torch.testing.assert_close(compiled(x, edge_index), want, rtol=1e-5, atol=1e-5)
    params = dict(conv.named_parameters())

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(conv, params, (x, edge_index)).square().sum()

    found = torch.func.grad(loss)(params, x)
    want.square().sum().backward()
    for key, value in params.items():
        torch.testing.assert_close(found[key], value.grad, rtol=1e-5, atol=1e-5)
    many = torch.func.vmap(loss, in_dims=(None, 0))(params, torch.stack([x, 2 * x]))
    torch.testing.assert_close(many[1], loss(params, 2 * x), rtol=1e-5, atol=1e-5)
    weight = torch.rand(2, edge_index.size(1))
    many = torch.func.vmap(lambda w: conv(x, edge_index, w))(weight)
    torch.testing.assert_close(many[1], conv(x, edge_index, weight[1]), rtol=1e-5, atol=1e-5)


def test_cached_is_forgotten(edge_index: Tensor) -> None:
    conv, x = nn.DAGNNConv(C, K, cached=True), torch.randn(N, C)
    first = conv(x, edge_index)
    assert torch.equal(conv(x, edge_index[:, :4]), first)
    conv.reset_parameters()
    assert not torch.equal(conv(x, edge_index[:, :4]), first)


def test_model_has_the_names_of_the_released_code(edge_index: Tensor) -> None:
    model = nn.DAGNN(7, 4, C, K, dropout=0.0)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        "lin1.weight": (4, 7),
        "lin1.bias": (4,),
        "lin2.weight": (C, 4),
        "lin2.bias": (C,),
        "prop.proj.weight": (1, C),
        "prop.proj.bias": (1,),
    }
    x = torch.randn(N, 7)
    h = model.lin2(model.lin1(x).relu())
    torch.testing.assert_close(model(x, edge_index), model.prop(h, edge_index))
    assert nn.DAGNN(7, 4, C, num_tasks=T)(x, edge_index).shape == (N, T, C)
    before = model.lin1.weight.clone()
    model.reset_parameters()
    assert not torch.equal(model.lin1.weight, before)


def test_refused(edge_index: Tensor) -> None:
    with pytest.raises(ValueError, match="DAGNNConv: K must be an integer of at least 1, got 0"):
        nn.DAGNNConv(C, 0)
    with pytest.raises(ValueError, match=r"DAGNNConv: x must have 8 features, got \[12, 6\]"):
        nn.DAGNNConv(C)(torch.zeros(N, 6), edge_index)
    with pytest.raises(ValueError, match="DAGNNConv: x must be one tensor, got a tuple"):
        nn.DAGNNConv(C)((torch.zeros(N, C), None), edge_index)  # type: ignore[arg-type]
    assert repr(nn.DAGNNConv(C, K, num_tasks=T)) == "DAGNNConv(8, K=4, num_tasks=3)"


@pytest.mark.usefixtures("data_root")
def test_it_learns_cora() -> None:
    """Ten hops see more of the graph than the few labels: far better than the largest class, after 25 steps."""
    data = load("planetoid:cora")
    task = data.tasks["node_class"]
    model = nn.DAGNN(data.num_features, 32, task.num_outputs, K=10, dropout=0.5)
    x = data.x / data.x.sum(1, keepdim=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.02, weight_decay=5e-3)
    for _ in range(25):
        total, count = task.loss(model(x, data.graph), "train")
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.score(model.eval()(x, data.graph), "test") > 0.6

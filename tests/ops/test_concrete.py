"""concrete: frequencies, gradients by the written-out formula, what a seed decides, graphs, and what it refuses."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops.concrete import concrete_op
from fastgmtl.reference.concrete import noise, pairs

pytestmark = pytest.mark.usefixtures("kernels")
DTYPE = torch.float64


def odds(tasks: int, seed: int = 0, dtype: torch.dtype = DTYPE) -> Tensor:
    return 2 * torch.randn(tasks, tasks, generator=torch.Generator().manual_seed(seed), dtype=DTYPE).to(dtype)


def soft(logits: Tensor, temperature: float, explore: float, seed: int) -> Tensor:
    """The sample whose gradient it is, written out."""
    if explore > 0:
        most = math.log((1 - explore) / explore)
        logits = logits.clamp(-most, most)
    g = noise(torch.tensor([seed]), *pairs(len(logits), logits.device), logits.dtype)
    return ((logits + g) / temperature).sigmoid() * ~torch.eye(len(logits), dtype=torch.bool)


@pytest.mark.parametrize("explore", [0.0, 0.1])
def test_edges_are_drawn_as_often_as_they_are_likely(explore: float) -> None:
    logits, draws = odds(40), 4000
    total = torch.zeros_like(logits)
    for seed in range(draws):
        total += ops.concrete(logits, explore=explore, seed=seed, dense=True)
    p = logits.sigmoid().clamp(explore, 1 - explore) if explore else logits.sigmoid()
    own = torch.eye(40, dtype=torch.bool)
    assert not total[own].any()
    z = ((total / draws - p) / (p * (1 - p) / draws).sqrt())[~own]
    # Of 1560 independent standard normal numbers.
    assert z.abs().max() < 4.5 and abs(float(z.mean())) < 0.1 and abs(float(z.std()) - 1) < 0.08


def test_the_noise_is_logistic_and_independent_between_pairs_and_seeds() -> None:
    g = noise(torch.tensor([7]), *pairs(500, torch.device("cpu")), DTYPE).flatten()
    u = g.sigmoid().sort().values
    assert (u - torch.linspace(0, 1, len(u), dtype=DTYPE)).abs().max() < 1.7 / len(u) ** 0.5  # Kolmogorov
    other = noise(torch.tensor([8]), *pairs(500, torch.device("cpu")), DTYPE).flatten()
    for a, b in ((g[1:], g[:-1]), (g[4:], g[:-4]), (g[500:], g[:-500]), (g, other)):
        assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1])) < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 31, 32, 33, 127, 128, 129, 300])
def test_draws_are_those_of_the_twin(tasks: int, dtype: torch.dtype, kernels: ModuleType) -> None:
    """Both forms, on every instruction set."""
    logits, before = odds(tasks, dtype=dtype), kernels.simd()
    want = reference.concrete(logits, 0.5, 0.05, 9 << 50, dense=True)
    graph, _ = reference.concrete(logits, 0.5, 0.05, 9 << 50)
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            with case(level):
                found = ops.concrete(logits, 0.5, 0.05, 9 << 50, dense=True)
                assert found.dtype == dtype and torch.equal(found, want)
                drawn, there = ops.concrete(logits, 0.5, 0.05, torch.tensor([9 << 50]))
                assert torch.equal(drawn.row_ptr, graph.row_ptr) and torch.equal(drawn.col, graph.col)
                assert drawn.edge_id is None and torch.equal(there, torch.ones(drawn.num_edges, dtype=dtype))
    finally:
        kernels.set_simd(before)


def test_the_graph_has_the_edges_that_were_drawn_from_cause_to_effect_in_order() -> None:
    logits = odds(70)
    dense = ops.concrete(logits, seed=1, dense=True)
    graph, there = ops.concrete(logits, seed=1)
    src, dst = graph.edge_index()
    rebuilt = torch.zeros(70, 70, dtype=DTYPE).index_put((src, dst), there)
    assert torch.equal(rebuilt, dense) and 0 < graph.num_edges < 70 * 69
    key = dst * 70 + src
    assert (key.diff() > 0).all()
    same = Graph.from_edge_index(graph.edge_index(), 70, 70)
    assert torch.equal(same.row_ptr, graph.row_ptr) and torch.equal(same.col, graph.col)
    assert graph.col.dtype == same.col.dtype and torch.equal(graph.t().col, same.t().col)


@pytest.mark.parametrize(("temperature", "explore"), [(1.0, 0.0), (0.3, 0.05), (2.5, 0.2)])
def test_gradients_of_both_forms_are_those_of_the_soft_sample(temperature: float, explore: float) -> None:
    logits = odds(30).requires_grad_()
    g = odds(30, 1)
    (want,) = torch.autograd.grad((soft(logits, temperature, explore, 4) * g).sum(), logits)
    (got,) = torch.autograd.grad(ops.concrete(logits, temperature, explore, 4, dense=True), logits, g)
    close(got, want, DTYPE)
    assert (got == 0).sum() >= 30 and not got.diagonal().any()
    graph, there = ops.concrete(logits, temperature, explore, 4)
    src, dst = graph.edge_index()
    (sparse,) = torch.autograd.grad(there, logits, g[src, dst])
    drawn = torch.zeros(30, 30, dtype=torch.bool).index_put((src, dst), torch.tensor(True))
    close(sparse, want * drawn, DTYPE)


def test_a_clamped_edge_has_no_gradient() -> None:
    most = math.log(9)
    logits = torch.tensor([[0.0, most - 1e-9], [most + 1e-9, 0.0]], dtype=DTYPE, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.concrete(logits, 1.0, 0.1, 3, dense=True).sum(), logits)
    assert grad[0, 1] > 0 and grad[1, 0] == 0
    assert not torch.autograd.grad(ops.concrete(logits * 0 + 3, 1.0, 0.5, 3, dense=True).sum(), logits)[0].any()


def test_derivatives_up_to_the_eighth() -> None:
    logits = odds(6).requires_grad_()
    value, twin = (ops.concrete(logits, 1.5, 0.0, 2, dense=True), soft(logits, 1.5, 0.0, 2))
    for _ in range(8):
        (value,), (twin,) = (torch.autograd.grad(v.sum(), logits, create_graph=True) for v in (value, twin))
        close(value.detach(), twin.detach(), DTYPE)
    with pytest.raises(ValueError, match="order must be 0 to 8, got 9"):
        torch.autograd.grad(value.sum(), logits)


def test_extreme_odds_and_temperatures() -> None:
    for dtype in (torch.float64, torch.float32):
        big = torch.tensor([[0.0, 1e4, -1e4], [math.inf, 0, -math.inf], [300.0, -300.0, math.nan]], dtype=dtype)
        for temperature in (1.0, 1e-3, 1e3):
            logits = big.clone().requires_grad_()
            there = ops.concrete(logits, temperature, 0.0, 1, dense=True)
            assert there.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
            (grad,) = torch.autograd.grad(there.sum(), logits)
            assert grad.isfinite().all()


def test_numbers_depend_on_the_seed_and_the_pair_alone(threads: None) -> None:
    logits = odds(200, dtype=torch.float32).requires_grad_()
    seeds = (5, torch.tensor([5]), torch.tensor(5))
    want = ops.concrete(logits, 0.5, 0.05, 5, dense=True)
    (slope,) = torch.autograd.grad(want.sum(), logits)
    for number in (1, 2, 3, 9):
        torch.set_num_threads(number)
        for seed in seeds:
            got = ops.concrete(logits, 0.5, 0.05, seed, dense=True)
            assert torch.equal(got, want) and torch.equal(torch.autograd.grad(got.sum(), logits)[0], slope)
            graph, there = ops.concrete(logits, 0.5, 0.05, seed)
            src, dst = graph.edge_index()
            (some,) = torch.autograd.grad(there.sum(), logits)
            assert torch.equal(some[src, dst], slope[src, dst]) and torch.equal(some != 0, (want > 0) & (slope != 0))
    assert torch.equal(ops.concrete(logits[:50, :50], 0.5, 0.05, 5, dense=True), want[:50, :50])
    assert not torch.equal(ops.concrete(logits, 0.5, 0.05, 6, dense=True), want)
    drawn = [ops.concrete(logits, generator=torch.Generator().manual_seed(1), dense=True) for _ in range(2)]
    assert torch.equal(*drawn)


def test_it_trains_towards_the_edges_that_pay() -> None:
    """The gradient is useful: odds of edges that a loss rewards rise, of others fall."""
    wanted = torch.rand(8, 8, generator=torch.Generator().manual_seed(3)) < 0.4
    wanted &= ~torch.eye(8, dtype=torch.bool)
    logits = torch.zeros(8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.1)
    for seed in range(200):
        optimiser.zero_grad()
        (ops.concrete(logits, 1.0, 0.05, seed, dense=True) - wanted.float()).square().sum().backward()
        optimiser.step()
    assert torch.equal((logits > 0) & ~torch.eye(8, dtype=torch.bool), wanted)


def test_transforms_and_compilation() -> None:
    logits = odds(9)
    compiled = torch.compile(
        lambda x: ops.concrete(x, 0.5, 0.05, torch.tensor([1]), dense=True), backend="aot_eager", fullgraph=True
    )
    assert torch.equal(compiled(logits), ops.concrete(logits, 0.5, 0.05, 1, dense=True))

    def total(logits: Tensor) -> Tensor:
        graph, there = ops.concrete(logits, 0.5, 0.05, 1)
        src, dst = graph.edge_index()
        return (there * (src - 2.0 * dst)).sum()

    close(torch.compile(total, backend="aot_eager")(logits), total(logits), DTYPE)
    with pytest.raises(TypeError, match="logits must be a plain tensor where a graph is drawn"):
        torch.func.grad(total)(logits)
    batch = torch.stack([logits, odds(9, 1)])
    got = torch.func.vmap(lambda x: ops.concrete(x, seed=2, dense=True))(batch)
    assert torch.equal(got, torch.stack([ops.concrete(x, seed=2, dense=True) for x in batch]))
    args = (logits, None, None, None, torch.tensor([1]), 0, 0.5, 0.05)
    torch.library.opcheck(torch.ops.fastgmtl.concrete.default, args)


def test_layouts_of_memory_and_leaves() -> None:
    logits = odds(21)
    want = ops.concrete(logits, seed=3, dense=True)
    turned = logits.t().contiguous().t()
    assert not turned.is_contiguous() and torch.equal(ops.concrete(turned, seed=3, dense=True), want)
    graph, _ = ops.concrete(turned, seed=3)
    assert torch.equal(graph.col, ops.concrete(torch.nn.Parameter(logits), seed=3)[0].col)
    assert torch.equal(concrete_op(None, logits, None, None, None, torch.tensor([3]), 0, 1.0, 0.0), want)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"logits": torch.zeros(2, 3)}, ValueError, r"logits must have shape \[T, T\], got \[2, 3\]$"),
        ({"logits": torch.zeros(4)}, ValueError, r"logits must have shape \[T, T\], got \[4\]$"),
        ({"logits": torch.zeros(2, 2).int()}, TypeError, "logits must be floating point, got int32; convert it with "),
        ({"logits": None}, TypeError, "logits must be a tensor, got NoneType; wrap it in torch.as_tensor$"),
        ({"temperature": 0}, ValueError, "temperature must be positive, got 0$"),
        ({"temperature": math.nan}, ValueError, "temperature must be positive, got nan$"),
        ({"explore": 0.6}, ValueError, r"explore must be in \[0, 0.5\], got 0.6$"),
        ({"explore": -0.1}, ValueError, r"explore must be in \[0, 0.5\], got -0.1$"),
        ({"seed": 1.5}, TypeError, "seed must be an int or an int64 tensor of one element, got float$"),
        ({"seed": torch.zeros(2).long()}, ValueError, "seed must be an int or an int64 tensor of one element, got a "),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_refused(change: dict[str, object], error: type[Exception], text: str, dense: bool) -> None:
    with pytest.raises(error, match=f"^concrete: {text}"):
        ops.concrete(**{"logits": torch.zeros(3, 3), "dense": dense} | change)  # type: ignore[call-overload]

"""What is known exactly of the energy of a task graph: by enumeration, by brute force, and at the truth."""

from __future__ import annotations

import itertools

import pytest
import torch
from compare import close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.nn.causal_energy import fields, intervention_loss, mechanism_energy

DTYPE = torch.float64


def acyclic(tasks: int, edges: int, seed: int) -> Graph:
    """Distinct edges that agree with a random order of the tasks."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(tasks, generator=g)
    first, second = torch.triu_indices(tasks, tasks, 1)
    kept = torch.randperm(len(first), generator=g)[:edges]
    return Graph.from_edge_index(order[torch.stack((first[kept], second[kept]))], tasks, tasks)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def every_label(tasks: int) -> Tensor:
    """All of 2^T labellings, bool [2^T, T]."""
    return torch.tensor(list(itertools.product([False, True], repeat=tasks)))


def energy(graph: Graph, bias: Tensor, y: Tensor, coupling: Tensor, without: int | None = None) -> Tensor:
    """E of every row of y [B, T], by a matrix and a loop; ``without``: the label whose mechanism is taken out."""
    src, dst = graph.edge_index()
    y = y.to(DTYPE)
    total = torch.zeros(len(y), dtype=DTYPE)
    for t in range(y.size(1)):
        field = bias[..., t].expand(len(y)).clone()
        for e in range(graph.num_edges):
            if dst[e] == t:
                field += (coupling[..., e] if coupling.dim() == 2 else coupling[e]) * (2 * y[:, src[e]] - 1)
        if t != without:
            total += field.logaddexp(torch.zeros_like(field)) - y[:, t] * field
    return total


@pytest.mark.parametrize("tasks", [1, 4, 8])
def test_mechanisms_are_a_probability_and_stay_one_under_interventions(tasks: int) -> None:
    graph = acyclic(tasks, tasks * (tasks - 1) // 3, 0)
    bias, coupling, y = normal(1, tasks), 2 * normal(2, graph.num_edges), every_label(tasks)
    whole = energy(graph, bias, y, coupling)
    assert float((-whole).exp().sum()) == pytest.approx(1, abs=1e-12)
    field = fields(graph, bias.expand(len(y), -1), y, coupling)
    torch.testing.assert_close(mechanism_energy(field, y).sum(1), whole, rtol=0, atol=1e-12)
    for k in range(tasks):
        for value in (False, True):
            rest = energy(graph, bias, y[y[:, k] == value], coupling, without=k)
            assert float((-rest).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("each", [False, True])
def test_flips_are_differences_of_energies(each: bool) -> None:
    tasks = 6
    graph = acyclic(tasks, 9, 3)
    y, bias = every_label(tasks), normal(4, 2**tasks, tasks)
    coupling = normal(5, *([len(y)] if each else []), graph.num_edges)
    gap = ops.flip_energy(graph, fields(graph, bias, y, coupling), y, coupling)
    for k in range(tasks):
        flipped = y.clone()
        flipped[:, k] = ~flipped[:, k]
        wanted = energy(graph, bias, flipped, coupling, without=k) - energy(graph, bias, y, coupling, without=k)
        torch.testing.assert_close(gap[:, k], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("each", [False, True])
def test_ratios_of_edges_are_differences_of_energies(each: bool) -> None:
    tasks = 5
    graph = acyclic(tasks, 8, 6)
    y, bias = every_label(tasks), normal(7, 2**tasks, tasks)
    coupling = normal(8, *([len(y)] if each else []), graph.num_edges)
    there = torch.arange(graph.num_edges) % 3 > 0
    field = fields(graph, bias, y, coupling * there)
    delta = ops.edge_delta(graph, field, y, coupling, there)
    for e in range(graph.num_edges):
        energies = []
        for present in (False, True):
            mask = there.clone()
            mask[e] = present
            energies.append(energy(graph, bias, y, coupling * mask))
        torch.testing.assert_close(delta[e], (energies[0] - energies[1]).sum(), rtol=0, atol=1e-9)
    all_there = ops.edge_delta(graph, fields(graph, bias, y, coupling), y, coupling)
    none_there = ops.edge_delta(graph, bias, y, coupling, torch.zeros_like(there))
    assert not torch.allclose(all_there, none_there)
    assert torch.equal(all_there, ops.edge_delta(graph, fields(graph, bias, y, coupling), y, coupling, there | True))


def test_missing_labels_take_no_part() -> None:
    """A missing child is as if its edges were not there, a missing label has no D, and its fields do not matter."""
    graph = acyclic(7, 12, 9)
    y, field, coupling = (normal(10, 20, 7) > 0).long(), normal(11, 20, 7), normal(12, graph.num_edges)
    gone = normal(13, 20, 7) > 0.5
    label = y.masked_fill(gone, -1)
    src, dst = graph.edge_index()
    of_sample = coupling * ~(gone[:, src] | gone[:, dst])
    poisoned = field.masked_fill(gone, torch.nan)
    close(ops.flip_energy(graph, poisoned, label, coupling), ops.flip_energy(graph, field, y, of_sample), DTYPE)
    close(ops.edge_delta(graph, poisoned, label, coupling), ops.edge_delta(graph, field, y, of_sample), DTYPE)
    assert (ops.flip_energy(graph, poisoned, label, coupling)[gone] == 0).all()
    assert (mechanism_energy(poisoned, label)[gone] == 0).all()
    assert torch.equal(
        ops.flip_energy(graph, field, 7 * y - 3 * gone * 7, coupling), ops.flip_energy(graph, field, label, coupling)
    )


def test_without_edges_it_is_single_task_heads_to_the_bit() -> None:
    graph = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 5, 5)
    bias, none = normal(14, 30, 5).requires_grad_(), torch.zeros(0, dtype=DTYPE, requires_grad=True)
    y = normal(15, 30, 5) > 0
    field = fields(graph, bias, y, none)
    assert torch.equal(field, bias)
    heads = torch.nn.functional.binary_cross_entropy_with_logits(bias, y.to(DTYPE), reduction="none")
    assert torch.equal(mechanism_energy(field, y), heads)
    (grad,) = torch.autograd.grad(mechanism_energy(field, y).mean(), bias)
    assert torch.equal(grad, torch.autograd.grad(heads.mean(), bias)[0])
    assert torch.equal(ops.flip_energy(graph, field, y, none), torch.zeros_like(bias))
    loss = intervention_loss(graph, field, y, none)
    assert torch.autograd.grad(loss, bias, allow_unused=True)[0].eq(0).all()
    _, mean = ops.gibbs(graph, bias, none, sweeps=3, seed=1)
    close(mean, bias.detach().sigmoid(), DTYPE)


@pytest.mark.parametrize("each", [False, True])
def test_the_order_of_tasks_does_not_matter(each: bool) -> None:
    graph, order = acyclic(9, 20, 16), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    src, dst = graph.edge_index()
    turned = Graph.from_edge_index(torch.stack((place[src], place[dst])), 9, 9)
    y, field = normal(17, 6, 9) > 0, normal(18, 6, 9)
    coupling = normal(19, *([6] if each else []), graph.num_edges)
    close(
        ops.flip_energy(turned, field[:, order], y[:, order], coupling),
        ops.flip_energy(graph, field, y, coupling)[:, order],
        DTYPE,
    )
    close(
        ops.edge_delta(turned, field[:, order], y[:, order], coupling), ops.edge_delta(graph, field, y, coupling), DTYPE
    )


def drawn(graph: Graph, bias: Tensor, coupling: Tensor, seed: int) -> Tensor:
    """Labels from the mechanisms, causes before effects."""
    g, y = torch.Generator().manual_seed(seed), torch.zeros(bias.shape, dtype=torch.bool)
    uniform = torch.rand(bias.shape, generator=g, dtype=DTYPE)
    for _ in range(bias.size(1)):  # after as many rounds as tasks all parents are right
        y = uniform < fields(graph, bias, y, coupling).sigmoid()
    return y


def truth(samples: int) -> tuple[Graph, Tensor, Tensor, Tensor]:
    graph = acyclic(6, 7, 20)
    size = 0.7 + 0.7 * torch.rand(7, generator=torch.Generator().manual_seed(21), dtype=DTYPE)
    coupling = size * normal(22, 7).sign()
    bias = 0.7 * normal(23, samples, 6) + torch.tensor([0.6, -0.6, 0.6, -0.6, 0.6, -0.6], dtype=DTYPE)
    return graph, bias, coupling, drawn(graph, bias, coupling, 24)


def scores(samples: int, **options: bool) -> Tensor:
    """Of each coupling, the mean over samples of its derivative at the truth, in standard errors."""
    graph, bias, coupling, y = truth(samples)
    own = coupling.expand(samples, -1).clone().requires_grad_()
    loss = intervention_loss(graph, fields(graph, bias, y, own), y, own, **options)
    (grad,) = torch.autograd.grad(loss * y.numel(), own)
    return grad.mean(0) / (grad.std(0) / samples**0.5)


def test_the_contrast_has_no_slope_at_the_truth_and_the_unweighted_one_has() -> None:
    assert scores(200_000).abs().max() < 3
    assert scores(200_000, own=True).abs().max() < 3
    assert scores(200_000, weighted=False).abs().max() > 10


def test_the_contrast_finds_the_couplings() -> None:
    graph, bias, coupling, y = truth(100_000)
    found = torch.zeros_like(coupling)
    # Newton's method on the gradient; the weights are constants of a step, so the loss does not fall monotonically.
    for _ in range(15):
        found.requires_grad_()
        loss = intervention_loss(graph, fields(graph, bias, y, found), y, found)
        (slope,) = torch.autograd.grad(loss, found, create_graph=True)
        bend = torch.stack([torch.autograd.grad(s, found, retain_graph=True)[0] for s in slope])
        found = (found - torch.linalg.solve(bend, slope)).detach()
        if slope.abs().max() < 1e-7:
            break
    assert slope.abs().max() < 1e-7
    assert ((found - coupling).abs() / coupling.abs()).max() < 0.05


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda f, y, j: (f[:, :2], y, j), ValueError, r"field must have shape \[B, T\] = \[B, 3\], got \[4, 2\]"),
        (lambda f, y, j: (f, y[:2], j), ValueError, r"label must have shape \[B, T\] = \[4, 3\], got \[2, 3\]"),
        (lambda f, y, j: (f, y.float(), j), TypeError, r"label must be a tensor of bool or integers .*, got float32"),
        (lambda f, y, j: (f, None, j), TypeError, r"label must be a tensor of bool or integers .*, got NoneType"),
        (
            lambda f, y, j: (f, y, j[:1]),
            ValueError,
            r"coupling must have shape \[E\] or \[B, E\] = \[4, 2\], got \[1\]",
        ),
        (lambda f, y, j: (f.long(), y, j), TypeError, "field must be floating point, got int64"),
    ],
)
@pytest.mark.parametrize("name", ["flip_energy", "edge_delta"])
def test_refused(name: str, make: object, error: type[Exception], text: str) -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)
    given = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool), torch.zeros(2)
    with pytest.raises(error, match=f"^{name}: {text}"):
        getattr(ops, name)(graph, *make(*given))  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"^{name}: graph must be over T tasks, got 2 sources and 3 targets$"):
        getattr(ops, name)(Graph.from_edge_index(torch.tensor([[0], [1]]), 2, 3), *given)


def test_present_must_be_one_bool_an_edge() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)
    given = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool), torch.zeros(2)
    for present, got in (
        (torch.ones(2), r"torch.float32 \[2\]"),
        (torch.ones(3) > 0, r"torch.bool \[3\]"),
        (True, "bool"),
    ):
        with pytest.raises(TypeError, match=rf"present must be a tensor of bool \[E\] = \[2\], got {got}"):
            ops.edge_delta(graph, *given, present)  # type: ignore[arg-type]


def test_the_tenth_derivative_is_refused() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0], [1]]), 2, 2)
    field, coupling = torch.zeros(1, 2, dtype=DTYPE, requires_grad=True), torch.ones(1, dtype=DTYPE)
    y = torch.ones(1, 2, dtype=torch.bool)
    value, twin = (m.flip_energy(graph, field, y, coupling).sum() for m in (ops, reference))
    for _ in range(9):
        (value,), (twin,) = (torch.autograd.grad(v.sum(), field, create_graph=True) for v in (value, twin))
        close(value.detach(), twin.detach(), DTYPE)
    with pytest.raises(ValueError, match="orders must be 0 or more and 9 at most together, got 10 and 0"):
        torch.autograd.grad(value.sum(), field)

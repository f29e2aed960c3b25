"""fastgmtl.gradients.backward on several ranks equals one process with all of the data, for every aggregator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_properties import LEAST, MAKE
from torch import Tensor, nn

from fastgmtl import gradients
from fastgmtl.distributed import World, all_reduce

T, ROWS, WIDTH = 4, 24, 5


class Model(nn.Module):
    """A trunk, a layer of the first two tasks, a head for each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.pair = nn.Linear(WIDTH, 7), nn.Linear(7, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(T))
        self.double()

    def features(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())

    def losses(self, z: Tensor, y: Tensor, counts: Tensor) -> list[Tensor | None]:
        """Squared errors of the labels that are there, by those of all ranks; None for a task that has none here."""
        found: list[Tensor | None] = []
        for t, head in enumerate(self.heads):
            known = ~y[:, t].isnan()
            out = head(self.pair(z).tanh() if t < 2 else z)[:, 0][known]
            found.append(((out - y[known, t]) ** 2).sum() / counts[t] if bool(known.any()) else None)
        return found


def data(missing: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x, y with gaps, and how many labels a task has. Task 3 has labels in the first rows alone, or nowhere."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(ROWS, WIDTH, generator=g, dtype=torch.float64)
    y = torch.randn(ROWS, T, generator=g, dtype=torch.float64) + torch.tensor([0.0, 2.0, -2.0, 1.0])
    y[torch.rand(ROWS, T, generator=g) < 0.3] = torch.nan
    y[3:, 3] = torch.nan
    if missing:
        y[:, 3] = torch.nan
    return x, y, (~y.isnan()).sum(0).clamp(min=1)


def mine(world: World) -> slice:
    """Unequal shares of the rows."""
    cuts = [0, *(ROWS * (r + 1) ** 2 // world.size**2 for r in range(world.size))]
    return slice(cuts[world.rank], cuts[world.rank + 1])


Step = Callable[[Model, gradients.Aggregator, slice, dict[str, Any]], gradients.Report]


def plain(model: Model, method: gradients.Aggregator, rows: slice, options: dict[str, Any]) -> gradients.Report:
    x, y, counts = data(options.pop("missing", False))
    losses = model.losses(model.features(x[rows]), y[rows], counts)
    return gradients.backward(losses, model, method, **options)


def at_features(model: Model, method: gradients.Aggregator, rows: slice, options: dict[str, Any]) -> gradients.Report:
    x, y, counts = data()
    z = model.features(x[rows])
    return gradients.backward(model.losses(z, y[rows], counts), model, method, features=z, **options)


def compare(world: World, make: Callable[[], gradients.Aggregator], step: Step, sync: str, **options: Any) -> None:
    """Three steps, whose gradients add up, of the ranks and of one process."""
    results = []
    for rows, more in ((slice(0, ROWS), {}), (mine(world), {"sync": sync})):
        torch.manual_seed(8)
        model, method = Model(), make()
        reports = [step(model, method, rows, {**options, **more}) for _ in range(3)]
        results.append((model, reports))
    (one, expected), (several, found) = results
    for (name, p), q in zip(several.named_parameters(), one.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            away = (p.grad - q.grad).abs().max().item() / (1 + q.grad.abs().max().item())
            assert away < 1e-10, (sync, name, away)
    for a, b in zip(found, expected, strict=True):
        for left, right in ((a.weights, b.weights), (a.gram, b.gram)):
            if left is not None and right is not None:
                torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


def _aggregators() -> dict[str, Callable[[], gradients.Aggregator]]:
    assert max(LEAST.values()) <= T
    given = {name: (lambda make=make: make(T, 9)) for name, make in MAKE.items()}
    # Draws of PyTorch's own generator, and the aggregators that need more than their number of tasks.
    drawn = {
        "PCGrad drawn": gradients.PCGrad,
        "Random drawn": gradients.Random,
        "GradDrop drawn": gradients.GradDrop,
        "Constant": lambda: gradients.Constant(torch.tensor([0.1, 0.4, 0.2, 0.3])),
        "NashMTL every second": lambda: gradients.NashMTL(update_weights_every=2),
    }
    return {**given, **drawn}


def check_every_aggregator_is_here(world: World) -> None:
    made = {type(make()) for make in _aggregators().values()}
    public = {getattr(gradients, name) for name in gradients.__all__}
    abstract = {gradients.Aggregator, gradients.GramAggregator}
    assert {c for c in public if isinstance(c, type) and issubclass(c, gradients.Aggregator)} - abstract == made


def check_all_reduce(world: World) -> None:
    for make in _aggregators().values():
        compare(world, make, plain, "all_reduce")


def check_reduce_scatter(world: World) -> None:
    for make in _aggregators().values():
        if isinstance(make(), gradients.GramAggregator):
            compare(world, make, plain, "reduce_scatter")


def check_features(world: World) -> None:
    for make in _aggregators().values():
        if isinstance(make(), gradients.GramAggregator) and not make().per_tensor:
            compare(world, make, at_features, "auto")


def check_options(world: World) -> None:
    """Groups, a bound on the norm, another capture, a task that nobody has."""
    for sync in ("all_reduce", "reduce_scatter"):
        for options in (
            {"groups": "tensor"},
            {"groups": "module"},
            {"max_norm": 0.05},
            {"capture": "batched"},
            {"missing": True},
            {"missing": True, "groups": "tensor", "max_norm": 0.05},
        ):
            compare(world, gradients.UPGrad, plain, sync, **options)
            compare(world, gradients.PCGrad, plain, sync, **options)


def check_auto_on_gloo_adds_all_gradients_up(world: World) -> None:
    compare(world, gradients.UPGrad, plain, "auto")
    compare(world, gradients.GradDrop, plain, "auto")


def check_one_loss_alone_has_its_plain_gradient(world: World) -> None:
    x, y, counts = data()
    for sync in ("all_reduce", "reduce_scatter"):
        model, rows = Model(), mine(world)
        one = model.losses(model.features(x[rows]), y[rows], counts)[0]
        gradients.backward([one, None], model, gradients.UPGrad(), sync=sync)
        found = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        whole = model.losses(model.features(x), y, counts)[0]
        assert whole is not None
        whole.backward()
        for p, g in zip(model.parameters(), found, strict=True):
            assert (p.grad is None) == (g is None)
            if p.grad is not None and g is not None:
                assert (p.grad - g).abs().max() < 1e-12


def check_local_gram_is_biased_as_it_says(world: World) -> None:
    """Its weights are those of W times the sum of local Gram matrices, its update of the true gradients."""
    x, y, counts = data()
    model, rows, method = Model(), mine(world), gradients.MGDA()
    report = plain(model, method, rows, {"sync": "local_gram"})
    trunk = [*model.first.parameters(), *model.second.parameters()]
    losses = model.losses(model.features(x[rows]), y[rows], counts)
    whole = model.losses(model.features(x), y, counts)
    true = [torch.autograd.grad(v, trunk, retain_graph=True) for v in whole if v is not None]
    assert report.gram is not None and report.weights is not None
    torch.testing.assert_close(report.weights, method.weights(report.gram))
    part = [*trunk, *model.pair.parameters()]
    mine_j = torch.stack([_flat(v, part) for v in losses])
    expected = world.size * all_reduce(mine_j @ mine_j.t())
    torch.testing.assert_close(report.gram, expected)
    exact = torch.stack([_flat(v, part) for v in whole])
    assert (expected - exact @ exact.t()).abs().max() > 1e-3
    for n, p in enumerate(trunk):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, sum(w * g[n] for w, g in zip(report.weights, true, strict=True)))


def _flat(loss: Tensor | None, parameters: list[Tensor]) -> Tensor:
    if loss is None:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
    )


def check_draws_leave_the_generators_of_others_alone(world: World) -> None:
    model = Model()
    torch.manual_seed(world.rank)
    before = torch.random.get_rng_state()
    plain(model, gradients.PCGrad(), mine(world), {"sync": "all_reduce"})
    assert torch.equal(torch.random.get_rng_state(), before) == (world.rank > 0)


def check_a_rank_that_differs_is_named(world: World) -> None:
    last = world.size - 1
    for sync in ("all_reduce", "reduce_scatter"):
        model = Model()
        if world.rank == last:
            with torch.no_grad():
                model.second.weight[0, 0] += 1e-12
        with pytest.raises(RuntimeError, match=rf"^backward: parameters of rank {last} differ from those of rank 0;"):
            plain(model, gradients.UPGrad(), mine(world), {"sync": sync})
        assert all(p.grad is None for p in model.first.parameters())
        method = gradients.Constant(torch.full((T,), 0.2 if world.rank == last else 0.1))
        with pytest.raises(RuntimeError, match=rf"^backward: task weights of rank {last} differ"):
            plain(Model(), method, mine(world), {"sync": sync})


def check_options_that_do_not_fit(world: World) -> None:
    for method, options, message in (
        (gradients.UPGrad(), {"sync": "mean"}, "sync must be one of auto, all_reduce, reduce_scatter, local_gram"),
        (gradients.GradDrop(), {"sync": "reduce_scatter"}, "GradDrop reads no Gram matrix"),
        (gradients.GradDrop(), {"sync": "local_gram"}, "GradDrop reads no Gram matrix"),
    ):
        with pytest.raises(ValueError, match=message):
            plain(Model(), method, mine(world), options)
    with pytest.raises(ValueError, match="with features there is one way, sync='auto', got 'local_gram'"):
        at_features(Model(), gradients.UPGrad(), mine(world), {"sync": "local_gram"})
    with pytest.raises(ValueError, match="GradDrop reads no Gram matrix"):
        at_features(Model(), gradients.GradDrop(), mine(world), {"sync": "auto"})


def check_a_group_of_some_ranks(world: World) -> None:
    """The last rank is not among them, and does nothing."""
    some = list(range(max(1, world.size - 1)))
    group = dist.new_group(some)
    if world.rank in some:
        part = World(world.rank, len(some), group)
        one, several = Model(), Model()
        plain(one, gradients.UPGrad(), slice(0, ROWS), {})
        plain(several, gradients.UPGrad(), mine(part), {"process_group": group})
        for p, q in zip(several.parameters(), one.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert (p.grad - q.grad).abs().max() < 1e-10

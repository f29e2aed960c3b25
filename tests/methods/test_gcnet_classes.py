"""Labels, classes and numbers that cause one another: by enumeration, by brute force, and at the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data import Dataset, Task, TaskSet, load
from fastgmtl.graph import Graph
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.gcnet import mixed
from fastgmtl.methods.gcnet.contrasts import contrast
from fastgmtl.methods.gcnet.given import given_graph
from fastgmtl.methods.gcnet.mechanisms import Energy
from fastgmtl.methods.gcnet.samples import Labels
from fastgmtl.methods.gcnet.structure import Structure
from fastgmtl.methods.gcnet.variables import Variables
from fastgmtl.nn.causal_energy import MOST_WEIGHT

WIDTHS = [3, 1, 2, 1]
EDGES = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 3]])


def _energy(samples: int, numbers: int = 0, seed: int = 0, scale: float = 1.0) -> Energy:
    """Of 3 classes, a label, 2 classes and a label (the last ``numbers`` of which are numbers instead), on EDGES."""
    g = torch.Generator().manual_seed(seed)
    variables = Variables(WIDTHS, [False] * (4 - numbers) + [True] * numbers)
    edges, _ = variables.expand(EDGES)
    width = variables.width
    a, c = torch.randn(2, samples, width, generator=g, dtype=torch.float64)
    weight = scale * torch.randn(edges.shape[1], generator=g, dtype=torch.float64)
    graph = Graph.from_edge_index(edges, width, width)
    return Energy(variables, a, c, graph, weight, torch.zeros(width, dtype=torch.float64))


def _every() -> Tensor:
    """All 3 * 2 * 2 * 2 values, [24, 7]."""
    parts = [torch.eye(w) if w > 1 else torch.tensor([[0.0], [1.0]]) for w in WIDTHS]
    return torch.stack([torch.cat(row) for row in itertools.product(*parts)]).double()


def _one(energy: Energy, samples: int) -> Energy:
    """The first sample of an energy, as many times as there are values."""
    return replace(energy, a=energy.a[:1].expand(samples, -1), c=energy.c[:1].expand(samples, -1))


def _ancestral(energy: Energy) -> Tensor:
    """Draws by mechanism, causes first."""
    variables = energy.variables
    y = torch.zeros_like(energy.c)
    for t in range(variables.count):
        columns = variables.variable == t
        y[:, columns] = variables.draw(energy.field(y))[:, columns]
    return y


# ----------------------------------------------------------------------------------------------------------- variables


def test_an_edge_is_one_between_all_columns() -> None:
    variables = Variables([2, 1, 3], [False] * 3)
    edges, owner = variables.expand(torch.tensor([[0, 1], [2, 0]]))
    pairs = [(0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 0), (2, 1)]
    assert [tuple(pair) for pair in edges.t().tolist()] == pairs
    assert owner.tolist() == [0] * 6 + [1] * 2
    table = torch.arange(36.0).view(6, 6)
    blocks = variables.blocks(table)
    assert blocks[1, 1] == table[2, 2]
    torch.testing.assert_close(blocks[0, 2], table[:2, 3:].square().mean().sqrt())


def test_losses_and_draws_are_those_of_the_distributions() -> None:
    torch.manual_seed(0)
    variables = Variables([3, 1, 1], [False, False, True])
    logits = torch.randn(1, 5).double()
    y = torch.tensor([[0, 1, 0, 1, 0.5], [torch.nan] * 3 + [0, torch.nan]]).double()
    found = variables.cross_entropy(logits.expand(2, -1), y)
    categorical = torch.distributions.Categorical(logits=logits[0, :3])
    coin = torch.distributions.Bernoulli(logits=logits[0, 3])
    wanted = [-categorical.log_prob(torch.tensor(1)), -coin.log_prob(torch.tensor(1.0).double()), 0]
    torch.testing.assert_close(found[0], torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in wanted]))
    assert found[1, 0] == found[1, 2] == 0
    torch.testing.assert_close(found[1, 1], -coin.log_prob(torch.tensor(0.0).double()))
    drawn = variables.draw(logits.expand(40_000, -1))
    assert (drawn[:, :3].sum(1) == 1).all() and torch.equal(drawn[:, 4], logits[0, 4].expand(40_000))
    torch.testing.assert_close(drawn.mean(0), variables.probabilities(logits)[0], atol=0.01, rtol=0)
    torch.testing.assert_close(variables.probabilities(logits)[0, :3], categorical.probs)
    assert variables.likeliest(logits)[0, :3].argmax() == categorical.probs.argmax()


def test_labels_of_classes(make_mixed: Callable[..., Dataset]) -> None:
    data = make_mixed()
    labels = Labels(data, ["class", "labels", "number"])
    assert (labels.count, labels.width) == (5, 7) and labels.names[0] == "class"
    y, task = labels.of(data, "train"), data.tasks["class"]
    here = task.split["train"] & (task.target >= 0)
    assert torch.equal(y[here, :3].argmax(1), task.target[here]) and y[~here, :3].isnan().all()
    z = torch.randn(y.shape)
    loss = labels.by_task(labels.loss(z, y), labels.known(y))
    total, count = task.loss(labels.outputs(z)["class"], "train")
    torch.testing.assert_close(loss["class"], total / count)
    graph = given_graph("correlation", data, y, labels.variable)
    assert graph.num_dst == 5 and not bool((graph.edge_index()[0] == graph.edge_index()[1]).any())


def test_a_structure_pools_classes() -> None:
    structure = Structure(torch.tensor([0, 0, 1]), 3, 4)
    e = torch.randn(3, 4)
    assert structure.prior(e).shape == (2, 2)
    torch.testing.assert_close(structure.pool(e), torch.stack((e[:2].mean(0), e[2])))


# -------------------------------------------------------------------------------------------------------------- energy


def test_mechanisms_are_a_probability_and_stay_one_under_interventions() -> None:
    energy, y = _one(_energy(1), 24), _every()
    each = energy(y)
    torch.testing.assert_close((-each.sum(1)).exp().sum(), torch.tensor(1.0).double(), rtol=1e-12, atol=0)
    for k, width in enumerate(WIDTHS):
        rest = (-each.sum(1) + each[:, k]).exp().sum()
        torch.testing.assert_close(rest, torch.tensor(float(max(2, width))).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("numbers", [0, 1])
def test_alternatives_are_energies_without_the_mechanism(numbers: int) -> None:
    energy, g = _energy(6, numbers), torch.Generator().manual_seed(3)
    y = energy.variables.draw(torch.randn(6, 7, generator=g).double())
    y[0, :3] = torch.nan  # a missing variable takes no part, and counts as guessed
    y[1, 6] = torch.nan
    table = mixed.couplings(energy)
    for k in range(4 - numbers):
        found = mixed.alternatives(energy, y, energy.field(y), table, k)
        columns = (energy.variables.variable == k).nonzero()[:, 0]
        values = torch.eye(len(columns)) if len(columns) > 1 else torch.tensor([[0.0], [1.0]])
        for place, value in enumerate(values.double()):
            changed = y.clone()
            changed[:, columns] = value
            each = energy(changed)
            torch.testing.assert_close(found[:, place], each.sum(1) - each[:, k], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [False, True])
def test_ratios_of_edges_are_differences_of_energies(rank: bool) -> None:
    energy = _energy(5, numbers=1)
    if rank:
        energy = replace(energy, weight=torch.randn(5, len(energy.weight)).double())
    torch.manual_seed(1)
    y = energy.variables.draw(torch.randn(5, 7).double())
    y[0, :3] = torch.nan
    y[2, 3] = torch.nan
    present = torch.zeros(4, 4, dtype=torch.bool)
    present[0, 1] = present[1, 2] = True
    _, owner = energy.variables.expand(EDGES)
    there = torch.stack([present[s, t] for s, t in EDGES.t().tolist()])[owner]
    found = mixed.edge_ratios(replace(energy, weight=energy.weight * there), y, mixed.couplings(energy), present)
    known = energy.variables.known(y)
    for at, (s, t) in enumerate(EDGES.t().tolist()):
        here = there.clone()
        each = []
        for value in (False, True):
            here[owner == at] = value
            each.append(replace(energy, weight=energy.weight * here)(y)[:, t])
        both = known[:, s] & known[:, t]
        torch.testing.assert_close(found[s, t], (each[0] - each[1])[both].sum(), rtol=1e-10, atol=1e-10)


def test_without_edges_it_is_heads_alone_to_the_bit() -> None:
    energy = _energy(9)
    none = torch.zeros(2, 0, dtype=torch.int64)
    energy = replace(energy, graph=Graph.from_edge_index(none, 7, 7), weight=torch.zeros(0).double())
    y = energy.variables.draw(torch.zeros(9, 7).double())
    assert torch.equal(energy(y), energy.variables.cross_entropy(energy.c, y))


def test_the_order_of_variables_does_not_matter() -> None:
    energy = _energy(7)
    y = energy.variables.draw(torch.zeros(7, 7).double())
    order = [2, 0, 3, 1]  # of variables
    columns = torch.cat([(energy.variables.variable == k).nonzero()[:, 0] for k in order])
    variables = Variables([WIDTHS[k] for k in order], [False] * 4)
    place = torch.empty(7, dtype=torch.int64)
    place[columns] = torch.arange(7)
    graph = Graph.from_edge_index(place[energy.graph.edge_index()], 7, 7)
    turned = Energy(
        variables, energy.a[:, columns], energy.c[:, columns], graph, energy.weight, torch.zeros(7).double()
    )
    torch.testing.assert_close(turned(y[:, columns]), energy(y)[:, order], rtol=1e-12, atol=1e-12)
    found = [contrast("ice", e, v) for e, v in ((energy, y), (turned, y[:, columns]))]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_sweeps_have_the_marginals() -> None:
    energy = _one(_energy(1, scale=0.8), 24)
    chance = (-energy(_every()).sum(1)).exp()
    wanted = (chance[:, None] * _every()).sum(0) / chance.sum()
    torch.manual_seed(0)
    many = _one(energy, 2000)
    _, mean = mixed.sweep(many, torch.zeros(2000, 7).double(), torch.zeros(2000, 4, dtype=torch.bool), 12)
    torch.testing.assert_close(mean.mean(0), wanted, atol=0.02, rtol=0)
    # What is fixed stays, and what depends on it is drawn given it.
    fixed = torch.zeros(2000, 4, dtype=torch.bool)
    fixed[:, 0] = True
    start = torch.zeros(2000, 7).double()
    start[:, 1] = 1
    y, mean = mixed.sweep(many, start, fixed, 12)
    assert torch.equal(y[:, :3], start[:, :3])
    torch.testing.assert_close(mean[:, :3], start[:, :3])
    given = _every()[:, 1] == 1
    wanted = (chance[given][:, None] * _every()[given]).sum(0) / chance[given].sum()
    torch.testing.assert_close(mean.mean(0), wanted, atol=0.02, rtol=0)


def test_numbers_move_towards_their_distribution() -> None:
    """0 -> 1, both numbers of deviation 1: the mean of the effect is that of its field."""
    graph = Graph.from_edge_index(torch.tensor([[0], [1]]), 2, 2)
    c = torch.tensor([[0.5, -1.0]]).double().expand(4000, -1)
    energy = Energy(Variables([1, 1], [True, True]), c, c, graph, torch.tensor([2.0]).double(), torch.zeros(2).double())
    fixed = torch.tensor([[True, False]]).expand(4000, -1)
    torch.manual_seed(0)
    y, mean = mixed.sweep(energy, torch.tensor([[1.0, 0.0]]).double().expand(4000, -1), fixed, 4)
    assert (y[:, 0] == 1).all()
    torch.testing.assert_close(mean[:, 1], torch.ones(4000).double(), atol=1e-9, rtol=0)  # 2 * 1 - 1
    assert y[:, 1].mean().item() == pytest.approx(1.0, abs=0.1)
    assert y[:, 1].std().item() == pytest.approx(1.0, abs=0.1)


# ---------------------------------------------------------------------------------------------------------- contrasts


@pytest.mark.parametrize("kind", ["ice", "unweighted", "pseudo"])
def test_for_labels_of_two_values_it_is_the_kernels_loss(kind: Any) -> None:
    torch.manual_seed(0)
    graph = Graph.from_edge_index(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3, 3)
    c, weight = torch.randn(8, 3).double(), torch.randn(3).double()
    energy = Energy(Variables([1] * 3, [False] * 3), c, c, graph, weight, torch.zeros(3).double())
    y = (torch.rand(8, 3) < 0.5).double()
    y[0, 0] = y[1, 2] = torch.nan
    found = mixed.intervention_loss(energy, y, kind == "ice", kind == "pseudo")
    torch.testing.assert_close(found, contrast(kind, energy, y), rtol=1e-12, atol=1e-12)


def test_the_contrast_has_no_slope_at_the_truth_and_the_unweighted_one_has() -> None:
    torch.manual_seed(5)
    energy, parts = _energy(60_000, seed=5, scale=0.7), 60
    energy = replace(energy, c=0.5 * energy.c + torch.tensor([0.8, -0.3, 0.0, 0.7, 0.6, -0.4, 0.5]).double())
    y = _ancestral(energy)
    field = energy.field(y)
    rare = [mixed.own(energy, field, k).exp().max() / max(2, w) for k, w in enumerate(WIDTHS)]
    assert max(rare) < MOST_WEIGHT  # what the bound on the weights cuts off is no part of this test

    def slopes(kind: Any) -> Tensor:
        rows = []
        for part in torch.arange(60_000).split(60_000 // parts):
            weight = energy.weight.clone().requires_grad_()
            some = replace(energy, a=energy.a[part], c=energy.c[part], weight=weight)
            rows.append(torch.autograd.grad(contrast(kind, some, y[part]), weight)[0])
        slope = torch.stack(rows)
        return slope.mean(0) / (slope.std(0) / parts**0.5)

    assert slopes("ice").abs().max() < 3.5  # of 13 couplings
    assert slopes("unweighted").abs().max() > 5


@pytest.mark.parametrize("kind", ["ice", "pseudo", "ancestral", "nce"])
def test_contrasts_find_a_table_of_couplings(kind: Any) -> None:
    """Of three classes that cause two: what of a table the energies depend on is the difference within a row."""
    torch.manual_seed(2)
    variables = Variables([3, 2], [False] * 2)
    edges, _ = variables.expand(torch.tensor([[0], [1]]))
    graph = Graph.from_edge_index(edges, 5, 5)
    truth = torch.tensor([1.5, -0.5, -1.0, 0.5, 0.0, 0.0]).double()
    c = 0.7 * torch.randn(8000, 5).double()
    energy = Energy(variables, c, c, graph, truth, torch.zeros(5).double())
    y = _ancestral(energy)
    weight = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.08)
    kept = []
    for _ in range(60):
        optimizer.zero_grad()
        contrast(kind, replace(energy, weight=weight), y).backward()
        optimizer.step()
        kept.append(weight.detach().clone())

    def odds(table: Tensor) -> Tensor:
        found = table.view(3, 2)[:, 0] - table.view(3, 2)[:, 1]
        return found - found.mean()  # c is given, but only differences between the causes are of the coupling alone

    found = odds(torch.stack(kept[-20:]).mean(0))
    torch.testing.assert_close(found, odds(truth), atol=0.25, rtol=0)


@pytest.mark.parametrize("kind", ["ice", "unweighted", "pseudo", "ancestral", "infonce", "nce"])
def test_contrasts_of_missing_values(kind: Any) -> None:
    energy = _energy(40, numbers=1)
    y = energy.variables.draw(torch.zeros(40, 7).double())
    gone = torch.rand(40, 4) < 0.4
    y[gone[:, energy.variables.variable]] = torch.nan
    weight = energy.weight.clone().requires_grad_()
    loss = contrast(kind, replace(energy, weight=weight), y)
    (slope,) = torch.autograd.grad(loss, weight)
    assert loss.isfinite() and slope.isfinite().all() and slope.abs().max() > 0
    assert contrast(kind, energy, torch.full_like(y, torch.nan)) == 0


# ------------------------------------------------------------------------------------------------------------ training


def _causal(samples: int) -> Dataset:
    """Three classes that are a cause of a label and of two classes, which are one of a number."""
    torch.manual_seed(0)
    x = torch.randn(samples, 6)
    first = torch.distributions.Categorical(logits=2 * x[:, :3]).sample()
    label = (torch.rand(samples) < (3 * (first == 1) - 1.5 + x[:, 3]).sigmoid()).float()
    second = (torch.rand(samples) < (3 * (first == 2) - 1.5 + x[:, 4]).sigmoid()).long()
    number = 2.0 * second + x[:, 5] + 0.3 * torch.randn(samples)
    where = torch.rand(samples)
    split = {"train": where < 0.7, "val": (where >= 0.7) & (where < 0.85), "test": where >= 0.85}
    tasks = [
        Task("first", "class", "node", first, split, "accuracy", num_outputs=3),
        Task("label", "multilabel", "node", label[:, None], split, "roc_auc"),
        Task("second", "class", "node", second, split, "accuracy", num_outputs=2),
        Task("number", "regression", "node", number, split, "r2"),
    ]
    graph = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), samples, samples)
    truth = Graph.from_edge_index(torch.tensor([[0, 0, 2], [1, 2, 3]]), 4, 4)
    return Dataset(name="causal", graph=graph, x=x, tasks=TaskSet(tasks), task_graph=truth)


@pytest.mark.parametrize(
    "settings",
    [{}, {"predictions": "gibbs", "graph": "known", "sweeps": 16, "evaluate_every": 15}, {"contrast": "ancestral"}],
)
def test_classes_train(settings: dict[str, Any]) -> None:
    data = _causal(1500)
    config = {"epochs": 15, "hidden": 16, "lr": 1e-2, "batch": 128, **settings}
    trainer = Trainer(METHODS["gcnet"], data, METHODS["gcnet"].config_type(**config), seed=0)
    losses = [record.loss for record in trainer]
    assert all(losses[-1][task] < losses[0][task] for task in data.tasks)
    scores = trainer.evaluate_best("test")
    assert scores["first"] > 0.5 and scores["label"] > 0.6 and scores["second"] > 0.6 and scores["number"] > 0.05
    assert set(trainer.panels_best()) == {"edges", "couplings"}


def test_edges_between_classes_are_found() -> None:
    data = _causal(4000)
    config = {"epochs": 12, "hidden": 16, "lr": 1e-2, "batch": 128}
    trainer = Trainer(METHODS["gcnet"], data, METHODS["gcnet"].config_type(**config), seed=0)
    for _ in trainer:
        pass
    method: Any = trainer.method
    found = {tuple(pair) for pair in (method.probability() > 0.5).nonzero().tolist()}
    assert found >= {(0, 1), (0, 2), (2, 3)} and len(found) <= 4


@pytest.mark.parametrize("name", ["labels", "gcnet"])
def test_debian_has_classes_labels_and_numbers(name: str) -> None:
    config = METHODS[name].config_type(epochs=2, hidden=16, tasks="section,installed_size")
    trainer = Trainer(METHODS[name], load("debian"), config, seed=0)
    losses = [record.loss for record in trainer]
    assert losses[1]["section"] < losses[0]["section"]

"""GCNet and SGNN: samples and labels, task graphs, the network over them, the structure, the losses, training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data import Dataset, load
from fastgmtl.data.molecules import Molecules
from fastgmtl.data.scm import scm
from fastgmtl.graph import Graph
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.gcnet.contrasts import contrast
from fastgmtl.methods.gcnet.given import correlation, given_graph
from fastgmtl.methods.gcnet.mechanisms import Energy, codes
from fastgmtl.methods.gcnet.pictures import metrics
from fastgmtl.methods.gcnet.samples import Batch, Labels
from fastgmtl.methods.gcnet.sgnn import EnergyNetwork
from fastgmtl.methods.gcnet.sgnn_ebm import as_field, log_weight
from fastgmtl.methods.gcnet.structure import NEVER, Structure, closes_cycle, cyclicity, divergence, sample
from fastgmtl.methods.gcnet.variables import Variables

NAMES = ("labels", "sgnn", "sgnn_ebm", "gcnet")


def _trainer(name: str, data: Dataset, **settings: Any) -> Trainer:
    return Trainer(METHODS[name], data, METHODS[name].config_type(**{"epochs": 5, "hidden": 16, **settings}), seed=0)


# ----------------------------------------------------------------------------------------------- labels, given graphs


def test_labels_side_by_side(make_mixed: Callable[..., Dataset]) -> None:
    data = make_mixed()
    several, number = (next(t for t in data.tasks.values() if t.kind == kind) for kind in ("multilabel", "regression"))
    labels = Labels(data, [several.name, number.name])
    y = labels.of(data, "train")
    assert y.shape == (data.num_nodes, several.num_outputs + 1) and labels.count == y.shape[1] == len(labels.names)
    assert labels.numbers.tolist() == [False] * several.num_outputs + [True]
    here = number.split["train"] & ~number.target.isnan()
    torch.testing.assert_close(y[here, -1].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert y[~number.split["train"], -1].isnan().all()
    # Back in units of the target, and losses are of what is known.
    torch.testing.assert_close(labels.outputs(y)[number.name][here, 0], number.target[here])
    value = torch.rand(y.shape)
    found = labels.by_task(value, ~y.isnan())[several.name]
    part = slice(0, several.num_outputs)
    torch.testing.assert_close(found, value[:, part][~y[:, part].isnan()].mean())
    zero = labels.loss(torch.zeros_like(y), y)
    torch.testing.assert_close(zero[:, -1], y[:, -1].square().nan_to_num() / 2)
    torch.testing.assert_close(zero[:, part], math.log(2) * (~y[:, part].isnan()).float())


def test_labels_refuse(make_mixed: Callable[..., Dataset]) -> None:
    data = make_mixed()
    classes, links = (next(t for t in data.tasks.values() if t.kind == kind) for kind in ("class", "link"))
    with pytest.raises(ValueError, match=f"labels of 0 and 1 or numbers are required, {classes.name} is of kind class"):
        _trainer("sgnn", data, tasks=classes.name)
    with pytest.raises(ValueError, match=f"classes or numbers are required, {links.name} is of kind link"):
        Labels(data, [links.name])
    with pytest.raises(ValueError, match=r"tasks: must be some of .*, got 'nothing'"):
        _trainer("gcnet", data, tasks="nothing")


def test_correlation_is_that_of_pairs_that_are_there() -> None:
    torch.manual_seed(0)
    y = (torch.rand(200, 4) < torch.tensor([0.2, 0.5, 0.7, 0.5])).double()
    y[:, 3] = 1 - y[:, 1]
    y[torch.rand(200, 4) < 0.3] = torch.nan
    y[:, 2] = 1.0  # constant
    found = correlation(y)
    for s in range(4):
        for t in range(4):
            both = ~(y[:, s].isnan() | y[:, t].isnan())
            pair = torch.stack((y[both, s], y[both, t]))
            wanted = 0.0 if 2 in (s, t) else torch.corrcoef(pair)[0, 1].item()
            assert found[s, t].item() == pytest.approx(wanted, abs=1e-10)
    graph = given_graph("correlation", load("debian"), y[:, :2])
    assert graph.edge_index().tolist() == [[0, 1], [1, 0]]


def test_given_graphs() -> None:
    data = scm("S1", num_tasks=6, num_samples=50)
    y = torch.zeros(3, 6)
    assert given_graph("empty", data, y).num_edges == 0
    assert given_graph("full", data, y).num_edges == 30
    assert data.task_graph is not None
    known = {tuple(pair) for pair in given_graph("known", data, y).edge_index().t().tolist()}
    true = [tuple(pair) for pair in data.task_graph.edge_index().t().tolist()]
    assert known == {*true, *((b, a) for a, b in true)}
    with pytest.raises(ValueError, match="known requires a data set with a task graph over all 6 labels"):
        given_graph("known", load("debian"), y)


# ------------------------------------------------------------------------------------------------------------ SGNN


@pytest.mark.parametrize("as_released", [False, True])
def test_energy_network_is_its_formula(as_released: bool) -> None:
    torch.manual_seed(0)
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2]]), 4, 4)
    network = EnergyNetwork(5, 3, 2, 2, as_released).double()
    h, e = torch.randn(6, 5).double(), torch.randn(4, 3).double()
    f1, f2 = network(h, e, graph)
    edges = graph.edge_index().t().tolist()

    def first(pairs: Any, *parts: Tensor) -> Tensor:
        total = sum(layer(part) for layer, part in zip(pairs.parts, parts, strict=True))
        return pairs.out(torch.relu(total))

    def state(b: int) -> tuple[Tensor, Tensor]:
        u = [[torch.stack([first(network.nodes, h[b], e[t]).view(2, 5)[x] for x in range(2)]) for t in range(4)]]
        v = [[first(network.edges, h[b], e[s], e[t]).view(2, 2, 5) for s, t in edges]]
        for layer in range(2):
            nodes, links = [], []
            for t in range(4):
                total = u[-1][t].clone()
                for m, (source, target) in enumerate(edges):
                    own_source, own_target = v[-1][m].sum(1), v[-1][m].sum(1 if as_released else 0)
                    total += own_target / 2 * (target == t) + own_source / 2 * (source == t)
                new = network.of_nodes[layer](total)
                nodes.append(new.relu() if layer == 0 else new)
            for m, (source, target) in enumerate(edges):
                ends = network.of_ends[layer]
                both = ends(u[-1][source])[:, None] + ends(u[-1][target])[None]
                links.append(network.of_edges[layer](v[-1][m] + both) + v[-1][m])
            u.append(nodes)
            v.append(links)
        assert network.read_edges is not None
        nodes = torch.stack([network.read_nodes(torch.cat([u[k][t] for k in range(3)], -1))[:, 0] for t in range(4)])
        links = torch.stack(
            [
                network.read_edges(torch.cat([v[k][m] for k in range(3)], -1))[..., 0].flatten()
                for m in range(len(edges))
            ]
        )
        return nodes, links

    for b in range(6):
        nodes, links = state(b)
        torch.testing.assert_close(f1[:, b], nodes, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(f2[:, b], links, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------------------- structure


def test_cycles_are_broken_at_their_weakest_edge() -> None:
    logits = torch.full((4, 4), -3.0)
    for s, t, value in ((0, 1, 5.0), (1, 2, 4.0), (2, 0, 1.0), (2, 3, 2.0), (3, 2, 3.0), (0, 3, 0.5)):
        logits[s, t] = value
    assert closes_cycle(logits).nonzero().tolist() == [[2, 0], [2, 3]]


def test_sampled_graphs_have_the_probabilities_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[NEVER, 1.0], [-50.0, NEVER]], requires_grad=True)
    drawn = torch.stack([sample(logits, 0.5, 0.05, generator) for _ in range(20_000)])
    assert set(drawn.detach().unique().tolist()) <= {0.0, 1.0}
    share = drawn.detach().mean(0)
    assert share[0, 0] == share[1, 1] == 0
    assert share[0, 1].item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.015)
    assert share[1, 0].item() == pytest.approx(0.05, abs=0.008)
    (grad,) = torch.autograd.grad(drawn.mean(0)[0, 1], logits)
    assert grad[0, 1] > 0.05 and grad[0, 0] == 0


def test_cyclicity_and_divergence() -> None:
    chain = torch.zeros(3, 3).double()
    chain[0, 1] = chain[1, 2] = 0.9
    assert cyclicity(chain).item() == pytest.approx(0, abs=1e-12)
    chain[2, 0] = 0.5
    assert cyclicity(chain).item() > 0.01
    big = torch.zeros(201, 201).double()
    big[0, 1] = 1
    assert cyclicity(big).item() == pytest.approx(0, abs=1e-9)
    big[1, 0] = 1
    assert cyclicity(big).item() > 0.5
    logits = torch.randn(3, 3)
    assert divergence(logits, logits).item() == 0
    off = ~torch.eye(3, dtype=torch.bool)
    p, q = logits.sigmoid(), torch.tensor(0.5)
    wanted = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())[off].mean()
    torch.testing.assert_close(divergence(logits, torch.zeros(3, 3)), wanted)


def test_signatures_follow_the_means() -> None:
    structure = Structure(torch.arange(2), 3, 4)
    h = torch.randn(6, 3)
    y = torch.tensor([[1, 0], [1, 0], [0, 0], [0, math.nan], [math.nan, math.nan], [0, 0.0]])
    structure.observe(h, y)
    torch.testing.assert_close(structure.signature[1, 0], 0.1 * h[:2].mean(0))
    torch.testing.assert_close(structure.signature[0, 0], 0.1 * h[[2, 3, 5]].mean(0))
    assert structure.signature[1, 1].abs().max() == 0  # nobody has it
    structure.observe(h, y)
    torch.testing.assert_close(structure.signature[1, 0], 0.19 * h[:2].mean(0))


def test_structure_metrics() -> None:
    truth = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)
    right = torch.tensor([[0, 0.9, 0.1], [0.2, 0, 0.8], [0, 0, 0]])
    assert metrics(right, truth) == (pytest.approx(2.0), 1.0, pytest.approx(1.0), 0.0)
    turned = torch.tensor([[0, 0.1, 0.9], [0.9, 0, 0.8], [0, 0, 0]])  # one turned round, one too much
    assert metrics(turned, truth)[3] == 2.0
    assert math.isnan(metrics(right, None)[1])


# ---------------------------------------------------------------------------------------------------------- losses


def _labels(count: int, numbers: int = 0) -> Variables:
    return Variables([1] * count, [False] * (count - numbers) + [True] * numbers)


def test_fields_and_mechanisms() -> None:
    labels, graph = _labels(3, numbers=1), Graph.from_edge_index(torch.tensor([[0, 2, 1], [1, 1, 2]]), 3, 3)
    weight = torch.tensor([0.5, -2.0, 0.25])
    a, c = torch.randn(4, 3), torch.randn(4, 3)
    y = torch.tensor([[1, 0, 0.5], [0, 1, -1], [math.nan, 1, math.nan], [1, math.nan, 2]])
    value = torch.where(y.isnan(), torch.stack((2 * a[:, 0].sigmoid() - 1, 2 * a[:, 1].sigmoid() - 1, a[:, 2]), 1), y)
    sign = torch.where(y.isnan(), value, torch.stack((2 * y[:, 0] - 1, 2 * y[:, 1] - 1, y[:, 2]), 1))
    wanted = c.clone()
    for (s, t), j in zip(graph.edge_index().t().tolist(), weight.tolist(), strict=True):
        wanted[:, t] += j * sign[:, s]
    energy = Energy(labels, a, c, graph, weight, torch.tensor([0.0, 0.0, 0.3]))
    torch.testing.assert_close(energy.field(y), wanted)
    torch.testing.assert_close(replace(energy, weight=weight.expand(4, 3)).field(y), wanted)
    loss = energy(y)
    assert loss[2, 0] == loss[2, 2] == loss[3, 1] == 0
    normal = -torch.distributions.Normal(wanted[0, 2], math.exp(0.3)).log_prob(y[0, 2]) - math.log(2 * math.pi) / 2
    torch.testing.assert_close(loss[0, 2], normal)
    torch.testing.assert_close(loss[0, 0], -torch.distributions.Bernoulli(logits=wanted[0, 0]).log_prob(y[0, 0]))
    assert codes(y[:, :2]).tolist() == [[1, 0], [0, 1], [-1, 1], [1, -1]]


@pytest.mark.parametrize("kind", ["ice", "unweighted", "pseudo"])
def test_contrast_is_the_probability_of_a_coin(kind: str) -> None:
    """By energies of all labels, flipped one at a time."""
    torch.manual_seed(0)
    labels, edges = _labels(3), torch.tensor([[0, 0, 1], [1, 2, 2]])
    graph, weight, c = Graph.from_edge_index(edges, 3, 3), torch.randn(3).double(), torch.randn(5, 3).double()
    y = (torch.rand(5, 3) < 0.5).double()

    model = Energy(labels, c, c, graph, weight, torch.zeros(3).double())

    def energy(labelled: Tensor) -> Tensor:
        f = model.field(labelled)
        return torch.nn.functional.softplus(f) - labelled * f

    total, f = torch.zeros((), dtype=torch.float64), model.field(y)
    for k in range(3):
        flipped = y.clone()
        flipped[:, k] = 1 - y[:, k]
        odds = (energy(flipped) - energy(y)).sum(1)
        own = energy(flipped)[:, k] - energy(y)[:, k]
        odds = odds if kind == "pseudo" else odds - own
        likely = torch.where(y[:, k] > 0, f[:, k], -f[:, k]).sigmoid()
        scale = (0.5 / likely).clamp(max=100) if kind == "ice" else 1
        total += (-torch.nn.functional.logsigmoid(odds) * scale).sum()
    torch.testing.assert_close(contrast(kind, model, y), total / 15)  # type: ignore[arg-type]


def _cause_and_effect(samples: int, missing: float = 0.0) -> tuple[Any, Tensor, Tensor]:
    """Labels 0 -> 1 with coupling 1.2, and what the features give; a function from a coupling to the energy."""
    g = torch.Generator().manual_seed(0)
    c, uniform = torch.randn(samples, 2, generator=g).double(), torch.rand(samples, 2, generator=g).double()
    y = (uniform < c.sigmoid()).double()
    y[:, 1] = (uniform[:, 1] < (c[:, 1] + 1.2 * (2 * y[:, 0] - 1)).sigmoid()).double()
    y[torch.rand(samples, 2, generator=g) < missing] = torch.nan
    labels, graph = _labels(2), Graph.from_edge_index(torch.tensor([[0], [1]]), 2, 2)

    def energy(weight: Tensor) -> Energy:
        return Energy(labels, c, c, graph, weight, torch.zeros(2).double())

    return energy, y, c


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("ice", 1.1, 1.3),
        ("pseudo", 1.1, 1.3),
        ("ancestral", 1.1, 1.3),
        ("nce", 1.1, 1.3),
        ("infonce", 0.6, 1.1),  # too small: its negatives are likely ones, which the softmax does not take into account
    ],
)
def test_contrasts_find_the_coupling(kind: Any, least: float, most: float) -> None:
    energy, y, _ = _cause_and_effect(20_000)
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    torch.manual_seed(0)
    steps = []
    for _ in range(100):
        optimizer.zero_grad()
        contrast(kind, energy(weight), y).backward()
        optimizer.step()
        steps.append(weight.item())
    assert least < sum(steps[-40:]) / 40 < most


@pytest.mark.parametrize("kind", ["ice", "ancestral", "infonce", "nce"])
def test_contrasts_of_missing_labels_and_of_numbers(kind: Any) -> None:
    energy, y, c = _cause_and_effect(300, missing=0.4)
    y[0] = torch.nan
    weight = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    loss = contrast(kind, energy(weight), y)
    loss.backward()
    assert loss.isfinite() and weight.grad is not None and weight.grad.isfinite().all()
    nothing = contrast(kind, energy(weight), torch.full_like(y, torch.nan))
    assert nothing == 0
    numbers = Energy(_labels(2, numbers=2), c, c, energy(weight).graph, weight, torch.zeros(2).double())
    assert contrast(kind, numbers, c) == 0  # nothing can be turned over


def test_noise_contrast_is_its_formula_for_mechanisms() -> None:
    energy, y, c = _cause_and_effect(50)
    weight = torch.tensor([0.7], dtype=torch.float64)
    torch.manual_seed(1)
    found = contrast("nce", energy(weight), y)
    torch.manual_seed(1)
    noise = (torch.rand_like(c) < c.sigmoid()).double()

    def densities(v: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.stack((c[:, 0], c[:, 1] + 0.7 * (2 * v[:, 0] - 1)), 1)
        return tuple(torch.distributions.Bernoulli(logits=z).log_prob(v).sum(1).exp() for z in (f, c))

    (p, q), (p_noise, q_noise) = densities(y), densities(noise)
    torch.testing.assert_close(found, (-(p / (p + q)).log() - (q_noise / (p_noise + q_noise)).log()).mean())


# ----------------------------------------------------------------------------------------------------- without graphs


@pytest.mark.parametrize("balance", ["sum", "uw", "pcgrad", "upgrad"])
def test_label_heads_have_the_gradients_of_their_balance(balance: str) -> None:
    """One label of all is missing in the batch, and nothing of the others is lost."""
    data = scm("S1", num_tasks=4, num_samples=100)
    method: Any = _trainer("labels", data, balance=balance).method
    y = (torch.rand(40, 4) < 0.5).float()
    y[:, 2] = torch.nan
    x = data.x[:40]
    z = method.predict(x)
    means = [torch.nn.functional.binary_cross_entropy_with_logits(z[:, t], y[:, t]) for t in (0, 1, 3)]
    # What comes after the shared representation has plain gradients, however the representation's are balanced.
    (sum(means) / (2 if balance == "uw" else 1)).backward()
    wanted = {k: p.grad.clone() for k, p in method.heads.named_parameters()}
    encoder = [p.grad.clone() for p in method.encoder.parameters()]
    method.zero_grad()
    torch.manual_seed(0)
    method.backward(method.step(Batch(x, y)))
    for key, parameter in method.heads.named_parameters():
        torch.testing.assert_close(parameter.grad[[0, 1, 3]], wanted[key][[0, 1, 3]])
        assert (parameter.grad[2] == 0).all()
    if balance in ("sum", "uw"):
        for found, grad in zip(method.encoder.parameters(), encoder, strict=True):
            torch.testing.assert_close(found.grad, grad)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.encoder.parameters())


# --------------------------------------------------------------------------------------------------------- SGNN-EBM


@pytest.mark.parametrize("count", [6, 1, 0])
def test_a_field_has_the_energy_of_the_states(count: int) -> None:
    """For every labelling, up to one constant a sample."""
    g = torch.Generator().manual_seed(1)
    edges = torch.tensor([[0, 1, 1, 2, 0, 3], [1, 0, 2, 1, 3, 0]])[:, :count]
    graph = Graph.from_edge_index(edges, 4, 4)
    own = torch.randn(2, 4, 2, generator=g, dtype=torch.float64)
    pair = torch.randn(2, count, 4, generator=g, dtype=torch.float64)
    bias, coupling = as_field(graph, own, pair)
    differences = []
    for labelling in itertools.product((0, 1), repeat=4):
        y = torch.tensor(labelling).expand(2, 4)
        found = bias.index_add(1, edges[1], coupling * (2 * y[:, edges[0]] - 1))
        wanted = torch.stack(
            [
                sum(own[b, t, labelling[t]] for t in range(4))
                + sum(pair[b, m, 2 * labelling[s] + labelling[t]] for m, (s, t) in enumerate(edges.t().tolist()))
                for b in range(2)
            ]
        )
        torch.testing.assert_close(log_weight(graph, own, pair, y), wanted, rtol=0, atol=1e-12)
        differences.append(wanted - (found * y).sum(1))
    assert torch.stack(differences).std(0).max() < 1e-12


def test_the_energy_begins_with_what_sgnn_has_learned() -> None:
    data = scm("S1", num_tasks=4, num_samples=300, missing=0.2)
    method: Any = _trainer("sgnn_ebm", data, epochs=4).method
    for epoch in range(1, 5):
        batch = next(method.batches(data, torch.Generator().manual_seed(epoch)))
        assert method.warming == (epoch <= 2)
        pairs = zip(method.network.parameters(), method.energy[1].parameters(), strict=True)
        method.zero_grad()
        losses = method.step(batch)
        assert ("nce" in losses) == (epoch > 2)
        method.backward(losses)
        if epoch == 2:  # SGNN moves on before it is copied
            with torch.no_grad():
                method.network.nodes.out.bias.add_(1.0)
        elif epoch > 2:
            assert all(torch.equal(a, b) for a, b in pairs)
        learning = [any(p.grad is not None for p in m.parameters()) for m in (method.network, method.energy)]
        assert learning == [epoch <= 2, epoch > 2]
        assert any(p.grad is not None for p in method.encoder.parameters()) == (epoch <= 2)


def test_noise_contrast_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scm("S1", num_tasks=4, num_samples=60)
    method: Any = _trainer("sgnn_ebm", data, epochs=2).method
    method.epoch += 2
    q = torch.full((60, 4), 0.25)
    monkeypatch.setattr(method, "marginals", lambda *args: q)
    y = (torch.rand(60, 4) < 0.5).float()
    torch.manual_seed(3)
    found = method.step(Batch(data.x, y))["nce"]
    torch.manual_seed(3)
    noise = (torch.rand(60, 4) < q).float()
    own, pair = method.states_of(method.encoder(data.x))
    model = [log_weight(method.graph, own, pair, labels.long()).exp() for labels in (y, noise)]
    chance = [torch.where(labels > 0, 0.25, 0.75).prod(1) for labels in (y, noise)]
    total = -(model[0] / (model[0] + chance[0])).log() - (chance[1] / (model[1] + chance[1])).log()
    torch.testing.assert_close(found, total.mean())


def test_an_energy_of_numbers_is_refused(data_root: Any) -> None:
    with pytest.raises(ValueError, match=r"sgnn_ebm requires labels of 0 and 1, .* is a number"):
        _trainer("sgnn_ebm", load("mtl:Parkinsons"))


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_exact(name: str) -> None:
    data = scm("S1", num_tasks=5, num_samples=300, missing=0.3)
    whole, first, second = (_trainer(name, data, epochs=6, batch=64) for _ in range(3))
    for _ in whole:
        pass
    for _ in range(4):
        first.run_epoch()
    second.load_state_dict(first.state_dict())
    for _ in second:
        pass
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[key]) or value.isnan().any(), key
    assert whole.evaluate_best("test") == second.evaluate_best("test")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("labels", {}),
        ("labels", {"balance": "uw"}),
        ("labels", {"balance": "pcgrad"}),
        ("labels", {"balance": "upgrad"}),
        ("sgnn", {}),
        ("sgnn", {"graph": "full"}),
        ("sgnn_ebm", {"warm": 0.9, "graph": "known"}),
        ("gcnet", {}),
        ("gcnet", {"contrast": "unweighted", "rank": 2, "predictions": "gibbs"}),
        ("gcnet", {"contrast": "pseudo", "prior": "uniform", "acyclic": False, "dag": 1.0}),
        ("gcnet", {"contrast": "ancestral", "acyclic": False}),
        ("gcnet", {"contrast": "infonce"}),
        ("gcnet", {"contrast": "nce"}),
        ("gcnet", {"contrast": "none", "refine": False, "shared_structure": False}),
        ("gcnet", {"graph": "known"}),
        ("gcnet", {"graph": "empty", "predictions": "gibbs"}),
    ],
)
def test_losses_fall_and_labels_are_found(name: str, settings: dict[str, Any]) -> None:
    data = scm("S1", num_tasks=5, num_samples=1500, num_features=10)
    trainer = _trainer(name, data, epochs=12, batch=128, lr=1e-2, **settings)
    losses = [record.loss for record in trainer]
    for task in data.tasks:
        assert losses[-1][task] < losses[0][task]
    assert all(math.isfinite(v) for record in losses for v in record.values())
    scores = trainer.evaluate_best("test")
    assert sum(scores.values()) / len(scores) > 0.6


def test_without_edges_the_logits_are_those_of_heads_alone() -> None:
    data = scm("S1", num_tasks=5, num_samples=200)
    method: Any = _trainer("gcnet", data, graph="empty").method.eval()
    with torch.no_grad():
        h = method.encoder(data.x)
        network = method.network
        z = (network.of_samples(h) + network.of_tasks(method.tasks.weight)[:, None]).relu()
        for own in network.own:
            z = own(z).relu() + z
        wanted = torch.einsum("tbd,td->bt", z, network.weight) + network.bias
        assert torch.equal(method.predict(data.x), wanted)


def test_known_labels_help_where_one_causes_another() -> None:
    data = scm("S1", num_tasks=5, num_samples=3000, num_features=5, seed=1)
    trainer = _trainer("gcnet", data, epochs=20, batch=128, lr=1e-2, graph="known", predictions="gibbs", sweeps=16)
    for _ in trainer:
        pass
    method: Any = trainer.method.eval()
    y = method.labels.of(data, "test")
    rows = (~y.isnan()).any(1)
    torch.manual_seed(0)
    with torch.no_grad():
        alone = method.predict(data.x[rows])
        gain = 0.0
        for task in range(5):
            given = y[rows].clone()
            given[:, task] = torch.nan
            helped = method.predict(data.x[rows], given)[:, task]
            right = [((z > 0) == (y[rows, task] > 0)).float().mean().item() for z in (alone[:, task], helped)]
            gain += right[1] - right[0]
            assert (helped.isfinite()).all()
    assert gain / 5 > 0.02


def test_molecules_and_numbers(make_molecules: Callable[..., Molecules], data_root: Any) -> None:
    for name in NAMES:
        trainer = _trainer(name, make_molecules(24), epochs=2, batch=8)
        for _ in trainer:
            pass
        assert all(math.isfinite(v) for v in trainer.evaluate("train").values())
    school = load("mtl:Parkinsons")
    for name in ("labels", "sgnn", "gcnet"):
        trainer = _trainer(name, school, epochs=2, batch=512)
        assert all(math.isfinite(v) for record in trainer for v in record.loss.values())


@pytest.mark.parametrize("name", NAMES)
def test_tox21_trains(name: str, data_root: Any) -> None:
    data = load("moleculenet:tox21")
    trainer = _trainer(name, data, epochs=2, hidden=32)
    losses = [record.loss["tox21"] for record in trainer]
    assert losses[1] < losses[0]
    assert trainer.evaluate_best("test")["tox21"] > 0.55


def test_pictures() -> None:
    data = scm("S1", num_tasks=5, num_samples=300)
    trainer = _trainer("gcnet", data, epochs=3)
    for _ in trainer:
        pass
    (learned, true) = trainer.networks_best()["task_graph"]
    assert learned.nodes == true.nodes == tuple(data.tasks)
    assert data.task_graph is not None and len(true.edges) == data.task_graph.num_edges
    assert set(trainer.panels_best()) == {"edges", "couplings"}
    (plots,) = trainer.method.history().values()
    assert [plot.title for plot in plots] == ["edges", "AUROC", "AUPRC", "SHD"]
    assert all(len(next(iter(plot.series.values()))) == 3 for plot in plots if isinstance(plot, type(plots[0])))

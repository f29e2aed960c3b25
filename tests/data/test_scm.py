"""Tasks with known causes: the truth is in the labels, and in no other form than the docstring says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.data import Dataset, load
from fastgmtl.data.scm import CLUSTER, NOISE, scm


def _truth(data: Dataset) -> tuple[Tensor, Tensor]:
    assert data.task_graph is not None and data.coupling is not None
    return data.task_graph.edge_index(), data.coupling.double()


def _labels(data: Dataset) -> Tensor:
    return torch.cat([task.target.reshape(data.num_nodes, 1) for task in data.tasks.values()], 1).double()


def _logistic(design: Tensor, y: Tensor) -> Tensor:
    """The most likely coefficients, by Newton's method."""
    beta = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(12):
        p = (design @ beta).sigmoid()
        beta += torch.linalg.solve(design.t() @ (design * (p * (1 - p))[:, None]), design.t() @ (y - p))
    return beta


@pytest.mark.parametrize("kind", ["S1", "S2", "S3", "S4"])
def test_graphs_have_no_cycle_and_couplings_their_sizes(kind: str) -> None:
    data = scm(kind, num_tasks=30, num_samples=10, seed=3)
    edges, coupling = _truth(data)
    adjacency = torch.zeros(30, 30, dtype=torch.float64)
    adjacency[edges[0], edges[1]] = 1
    assert edges.shape[1] == adjacency.sum() and edges.shape[1] >= 10
    assert torch.linalg.matrix_power(adjacency, 30).sum() == 0
    assert coupling.abs().min() >= 0.5 and coupling.abs().max() <= (1 if kind == "S3" else 2)
    assert coupling.min() < 0 < coupling.max()
    assert not torch.equal(edges[0] < edges[1], torch.ones(edges.shape[1], dtype=torch.bool))


def test_parents_explain_labels_as_the_couplings_say() -> None:
    """The regression of a label on features and parents finds J, and nothing for labels that are no parents."""
    data = scm(num_samples=40_000)
    edges, coupling = _truth(data)
    y = _labels(data)
    for t in (0, 2, 9):
        parents = edges[0, edges[1] == t]
        order = torch.cat((parents, torch.tensor([s for s in range(10) if s != t and s not in parents])))
        ancestors = order[: len(parents)]
        beta = _logistic(torch.cat((data.x.double(), 2 * y[:, ancestors] - 1), 1), y[:, t])
        torch.testing.assert_close(beta[50:], coupling[edges[1] == t], atol=0.08, rtol=0)
        assert beta[:50].square().sum() == pytest.approx(1, abs=0.6)
    roots = [t for t in range(10) if t not in edges[1]]
    beta = _logistic(torch.cat((data.x.double(), 2 * y[:, [roots[0]]] - 1), 1), y[:, roots[1]])
    assert abs(float(beta[-1])) < 0.06


def test_hidden_causes_join_pairs_in_train_and_turn_in_test() -> None:
    data = scm("S2", num_samples=20_000)
    edges, _ = _truth(data)
    x, y, split = data.x.double(), _labels(data), next(iter(data.tasks.values())).split
    adjacent = torch.eye(10, dtype=torch.bool)
    adjacent[edges[0], edges[1]] = adjacent[edges[1], edges[0]] = True
    found = []
    for part in ("train", "test"):
        rows = split[part]
        rest = y[rows] - x[rows] @ torch.linalg.lstsq(x[rows], y[rows]).solution
        found.append(torch.corrcoef(rest.t()).masked_fill(adjacent, 0))
    turned = (found[0] > 0.12) & (found[1] < -0.12)
    assert int(turned.sum()) == 4  # two pairs, each seen from both ends
    assert int(turned.any(0).sum()) == 4
    plain = scm("S1", num_samples=20_000)
    assert torch.equal(plain.task_graph.edge_index(), edges)  # type: ignore[union-attr]


def test_numbers_are_linear_in_features_and_parents() -> None:
    data = scm("S3", num_tasks=12, num_samples=20_000)
    edges, coupling = _truth(data)
    x, y = data.x.double(), _labels(data)
    weights = []
    for t in range(12):
        design = torch.cat((x, y[:, edges[0, edges[1] == t]]), 1)
        beta = torch.linalg.lstsq(design, y[:, [t]]).solution[:, 0]
        torch.testing.assert_close(beta[50:], coupling[edges[1] == t], atol=0.02, rtol=0)
        assert float((y[:, t] - design @ beta).std()) == pytest.approx(NOISE, rel=0.03)
        weights.append(beta[:50])
    alike = torch.corrcoef(torch.stack(weights))
    members = alike > 0.7
    sizes = sorted(members.sum(1).tolist())
    assert sizes == [1, 1] + [2, 2] + [CLUSTER] * 8  # two outliers, clusters of 4, 4 and 2
    assert members[edges[0], edges[1]].all()


def test_labels_are_missing_as_asked() -> None:
    data = scm("S4", num_samples=1000, labels=20)
    assert set(data.tasks.counts("train").values()) == {20}
    assert set(data.tasks.counts("test").values()) == {100}
    drawn = torch.stack([~task.target[:, 0].isnan() & task.split["train"] for task in data.tasks.values()])
    assert int(drawn.any(0).sum()) > 100  # each task has labels of its own
    assert set(scm("S4", num_samples=10, labels=20).tasks.counts("train").values()) == {8}
    half = scm(num_samples=5000, missing=0.5)
    assert sum(half.tasks.counts("train").values()) == pytest.approx(20_000, rel=0.03)
    assert sum(half.tasks.counts("test").values()) == 5000
    assert sum(scm("S3", num_samples=500, missing=1).tasks.counts("train").values()) == 0


def test_a_seed_is_a_data_set() -> None:
    for kind in ("S1", "S2", "S3", "S4"):
        one, same, other = (load(f"scm:{kind}", seed=seed) for seed in (1, 1, 2))
        assert one.name == f"scm:{kind}" and torch.equal(one.x, same.x)
        torch.testing.assert_close(_labels(one), _labels(same), equal_nan=True, atol=0, rtol=0)
        assert not torch.equal(one.x, other.x)


def test_small_sizes() -> None:
    one = scm(num_tasks=1, num_samples=1, num_features=1)
    assert one.task_graph is not None and one.task_graph.num_edges == 0
    for kind in ("S2", "S3"):
        assert scm(kind, num_tasks=2, num_samples=3).num_nodes == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "S5"}, "scm: kind must be one of S1, S2, S3, S4, got 'S5'"),
        ({"num_tasks": 0}, "scm: num_tasks must be at least 1, got 0"),
        ({"labels": 0}, "scm: labels must be at least 1, got 0"),
        ({"missing": math.nan}, r"scm: missing must be in \[0, 1\], got nan"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        scm(**changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'scm:S5' is no data set; did you mean scm:S"):
        load("scm:S5")


def test_a_task_graph_must_fit_the_labels_and_moves_with_the_data() -> None:
    data = scm(num_samples=10)
    assert data.task_graph is not None
    with pytest.raises(ValueError, match="task_graph must have a node for each of the 10 labels, got 9 to 9 nodes"):
        dataclasses.replace(data, task_graph=Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 9, 9))
    with pytest.raises(ValueError, match=rf"coupling must have shape \[{data.task_graph.num_edges}\], got \[3\]"):
        dataclasses.replace(data, coupling=torch.zeros(3))
    there = data.to("cpu")
    assert there.task_graph is data.task_graph and torch.equal(there.coupling, data.coupling)

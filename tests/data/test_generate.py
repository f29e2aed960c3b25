from __future__ import annotations

import math

import pytest
import torch

from fastgmtl.data import load, synthetic
from fastgmtl.data.generate import oracle

WIDE = {"num_nodes": 8000, "num_tasks": 6}


@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0])
def test_the_oracle_reaches_the_ceiling_and_does_not_pass_it(noise):
    data, best = synthetic(**WIDE, noise=noise), oracle(**WIDE, noise=noise)
    for name, task in data.tasks.items():
        ceiling = 1 / (1 + noise**2)
        if task.kind == "class":
            ceiling = float(torch.special.ndtr(best[name][:, 1].abs() / noise).mean())
            assert ceiling <= 1 - math.atan(noise) / math.pi
        if noise == 0.5:
            assert ceiling > 0.8 - 1e-9
        assert task.score(best[name], "test") == pytest.approx(ceiling, abs=0.03), name


def test_without_noise_the_oracle_is_never_wrong():
    data, best = synthetic(noise=0), oracle(noise=0)
    for name, task in data.tasks.items():
        assert task.score(best[name], "test") == pytest.approx(1, abs=1e-6)


def test_features_must_be_diffused():
    """Least squares on the diffused features finds the ceiling; on the bare features it falls far short."""
    data = synthetic(**WIDE)
    edges, x = data.graph.edge_index(), data.x.double()
    degree = data.graph.in_degree()[:, None] + 1
    steps = [x]
    for _ in range(2):
        steps.append(steps[-1].index_add(0, edges[1], steps[-1][edges[0]]) / degree)
    task = data.tasks["number_1"]
    fit = {}
    for name, design in (("bare", x), ("diffused", torch.cat(steps, 1))):
        rows = task.split["train"] & ~task.target.isnan()
        solution = torch.linalg.lstsq(design[rows], task.target[rows].double()[:, None]).solution
        fit[name] = task.score(design @ solution, "test")
    assert fit["diffused"] == pytest.approx(0.8, abs=0.04)
    assert fit["bare"] < 0.6


def test_shared_is_the_correlation_of_the_signals():
    for shared in (0.0, 0.5, 1.0):
        best = oracle(num_nodes=4000, num_tasks=8, num_features=64, shared=shared)
        signals = torch.stack([v[:, 1] if v.dim() == 2 else v for v in best.values()])
        corr = torch.corrcoef(signals)
        mean = float((corr.sum() - 8) / 56)
        assert mean == pytest.approx(shared, abs=0.12)


def test_seeds_and_missing_labels():
    first, again, other = synthetic(seed=1), load("synthetic", seed=1), synthetic(seed=2)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.graph.edge_index(), again.graph.edge_index())
    for name, task in first.tasks.items():
        assert torch.equal(task.target.nan_to_num(9), again.tasks[name].target.nan_to_num(9))
    assert not torch.equal(first.x, other.x)
    gone = first.tasks["number_1"].target.isnan()
    assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert not torch.equal(gone, first.tasks["number_3"].target.isnan())
    assert synthetic(missing=1.0).tasks.counts("train") == dict.fromkeys(first.tasks, 0)


def test_the_graph_has_communities_hubs_and_no_loops():
    data = synthetic(num_nodes=4000, degree=10)
    edges = data.graph.edge_index()
    assert bool((edges[0] != edges[1]).all())
    assert torch.equal(*(torch.unique(edges[i] * 4000 + edges[1 - i]) for i in (0, 1)))
    inside = (edges[0] * 8 // 4000 == edges[1] * 8 // 4000).float().mean()
    assert float(inside) > 0.6
    degree = data.graph.in_degree().float()
    assert 6 < float(degree.mean()) < 10
    assert float(degree.max()) > 15 * float(degree.mean())


@pytest.mark.parametrize("size", [1, 2, 7])
def test_tiny_sizes(size):
    data = synthetic(num_nodes=size, num_tasks=1, num_features=1)
    assert data.num_nodes == size
    assert synthetic(num_nodes=size, degree=0).graph.num_edges == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"num_tasks": -1}, "num_tasks must be at least 1, got -1"),
        ({"shared": 1.5}, r"shared must be in \[0, 1\], got 1.5"),
        ({"missing": float("nan")}, r"missing must be in \[0, 1\], got nan"),
        ({"noise": -1}, "noise must be finite and at least 0, got -1"),
        ({"degree": math.inf}, "degree must be finite and at least 0, got inf"),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(ValueError, match=f"synthetic: {text}"):
        synthetic(**options)

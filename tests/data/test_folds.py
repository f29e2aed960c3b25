from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from fastgmtl.data import Dataset, load, synthetic
from fastgmtl.data.folds import HELD, folds


@pytest.fixture(scope="module")
def enzymes(data_root: Path) -> Dataset:
    return load(str(data_root / "tu" / "ENZYMES"))


def _test_graphs(data: Dataset) -> set[int]:
    return set(data.tasks["graph_class"].split["test"].nonzero()[:, 0].tolist())


def test_crossvalidation_covers_every_graph_once(enzymes: Dataset) -> None:
    tests = [_test_graphs(fold) for fold in folds(enzymes, "crossvalidation", 10)]
    assert [len(t) for t in tests] == [60] * 10
    assert set.union(*tests) == set(range(600))
    for fold in folds(enzymes, "crossvalidation", 10):
        sizes = [int(fold.tasks["graph_class"].split[name].sum()) for name in ("train", "val", "test")]
        assert sizes == [480, 60, 60]


def test_permutations_overlap_and_are_repeatable(enzymes: Dataset) -> None:
    one, two, again = *folds(enzymes, count=2), next(folds(enzymes, count=1))
    assert 0 < len(_test_graphs(one) & _test_graphs(two)) < 120
    assert _test_graphs(one) == _test_graphs(again) and len(_test_graphs(one)) == 120
    assert torch.equal(one.tasks["link"].negatives("test"), again.tasks["link"].negatives("test"))


def test_everything_follows_its_graph(enzymes: Dataset) -> None:
    fold = next(folds(enzymes, count=1))
    graph, node, link = fold.tasks.values()
    assert fold.node_graph is not None
    edges = set(map(tuple, fold.graph.edge_index().t().tolist()))
    for split, other in itertools.permutations(("train", "val", "test"), 2):
        assert torch.equal(node.split[split], graph.split[split][fold.node_graph])
        owners = fold.node_graph[link.positives(split)]
        assert torch.equal(owners[0], owners[1])
        assert bool(graph.split[split][owners[0]].all()) and not bool(graph.split[other][owners[0]].any())
    for split in ("val", "test"):
        asked = set(map(tuple, link.positives(split).t().tolist()))
        assert not asked & edges
        total = int(graph.split[split][fold.node_graph[link.target[0]]].sum())
        assert abs(len(asked) / total - HELD) < 0.03
    assert set(map(tuple, link.positives("train").t().tolist())) <= edges
    assert len(edges) == 2 * (link.target.shape[1] - link.count("val") - link.count("test"))


def test_refusals(enzymes: Dataset) -> None:
    with pytest.raises(ValueError, match="folds: data set synthetic is one graph, there is nothing to split"):
        next(folds(synthetic(num_nodes=50)))
    with pytest.raises(ValueError, match="folds: kind must be permutations or crossvalidation, got 'all'"):
        next(folds(enzymes, "all"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="folds: count must be from 3 to the 600 graphs, got 2"):
        next(folds(enzymes, "crossvalidation", 2))

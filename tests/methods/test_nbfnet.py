"""Training and judging NBFNet: ranks, negatives, edges that are left out, and that it learns."""

from __future__ import annotations

import pytest
import torch

from fastgmtl.data.knowledge import KnowledgeGraph
from fastgmtl.methods.nbfnet import (
    NBFNetConfig,
    build,
    evaluate,
    fit,
    joined,
    negatives,
    ranking_loss,
    ranks,
)


@pytest.fixture
def family() -> KnowledgeGraph:
    """Ten rows of parents; a grandparent is a parent's parent, known for most rows and asked for the rest."""
    rows, parent, grand = 10, [], []
    for k in range(rows):
        a, b, c = 3 * k, 3 * k + 1, 3 * k + 2
        parent += [(a, 0, b), (b, 0, c)]
        grand.append((a, 1, c))
    table = {"train": parent + grand[:6], "val": grand[6:8], "test": grand[8:]}
    return KnowledgeGraph("family", 3 * rows, 2, {k: torch.tensor(v) for k, v in table.items()})


def test_filtered_ranks() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    answer = torch.tensor([1, 0])
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    # One is better and one equal; three are equal.
    assert ranks(scores, answer, nothing).tolist() == [2.5, 2.5]
    known = torch.tensor([[True, True, False, False], [True, True, True, True]])
    assert ranks(scores, answer, known).tolist() == [1.5, 1.0]


def test_edges_of_a_batch_are_left_out() -> None:
    edges = torch.tensor([[0, 1, 1, 2, 0], [1, 0, 2, 1, 2]])
    assert joined(edges, torch.tensor([0]), torch.tensor([1]), 3).tolist() == [True, True, False, False, False]


def test_negatives_are_no_answers_of_train(family: KnowledgeGraph) -> None:
    source, relation, answer = family.queries("train")
    found = negatives(family, source, relation, 50, torch.Generator().manual_seed(0))
    assert found.shape == (len(source), 50)
    assert not (found == answer.unsqueeze(1)).any()
    # Those of val may be drawn: train does not know them.
    source, relation, answer = family.queries("val")
    found = negatives(family, source, relation, 500, torch.Generator().manual_seed(0))
    assert (found == answer.unsqueeze(1)).any()
    single = KnowledgeGraph("one", 1, 1, {s: torch.zeros(1, 3, dtype=torch.long) for s in ("train", "val", "test")})
    zero = torch.zeros(1, dtype=torch.long)
    assert negatives(single, zero, zero, 2, torch.Generator()).tolist() == [[0, 0]]


def test_loss() -> None:
    scores = torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.float64)
    right, wrong = torch.log1p((-scores[0, 0]).exp()), torch.log1p(scores[0, 1:].exp())
    assert ranking_loss(scores, 0.0) == pytest.approx(float(right + wrong.mean()) / 2)
    weight = torch.tensor([2.0, -2.0], dtype=torch.float64).softmax(0)
    assert ranking_loss(scores, 0.5) == pytest.approx(float(right + (weight * wrong).sum()) / 2)


def test_it_learns_a_rule_and_repeats(family: KnowledgeGraph) -> None:
    config = NBFNetConfig(channels=16, num_layers=2, aggr="sum", batch=16, negatives=8, lr=1e-2)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build(family, config)
        before = evaluate(model, family, "test")["mrr"]
        losses = list(fit(model, family, config, 30, seed=1))
        found.append((losses, evaluate(model, family, "test")))
    assert found[0] == found[1]
    assert losses[-1] < losses[0]
    assert found[0][1]["mrr"] > 0.9 > before
    assert set(found[0][1]) == {"mrr", "hits@1", "hits@3", "hits@10"}

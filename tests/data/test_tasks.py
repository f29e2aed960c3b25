from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.nn import functional as F

from fastgmtl.data import Task, TaskSet
from fastgmtl.data.negatives import NegativeSampler
from fastgmtl.data.splits import link_task, masks, random_split

NAN = float("nan")
SPLIT = masks({"train": torch.tensor([0, 1, 2]), "val": torch.tensor([3]), "test": torch.tensor([4])}, 5)
CLASS = Task("kind", "class", "node", torch.tensor([2, -1, 0, -1, 1]), SPLIT, "accuracy", num_outputs=3)
TAGS = Task(
    "tags",
    "multilabel",
    "node",
    torch.tensor([[1, 0], [NAN, 1], [NAN, NAN], [NAN, NAN], [0, 1]]),
    SPLIT,
    "roc_auc",
    num_outputs=2,
)
SIZE = Task("size", "regression", "node", torch.tensor([1.0, NAN, 3.0, NAN, 0.0]), SPLIT, "mae")
RING = torch.stack((torch.arange(40), (torch.arange(40) + 1) % 40))


def test_losses_are_sums_over_labelled_entries():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    total, count = CLASS.loss(logits, "train")
    assert count == 2 and count.dtype == torch.int64
    torch.testing.assert_close(total, F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0])) * 2)
    logits = torch.randn(5, 2, generator=generator)
    total, count = TAGS.loss(logits, "train")
    known = torch.stack((logits[0, 0], logits[0, 1], logits[1, 1]))
    assert count == 3
    expected = F.binary_cross_entropy_with_logits(known, torch.tensor([1.0, 0, 1]), reduction="sum")
    torch.testing.assert_close(total, expected)
    for value in (torch.tensor([2.0, 9, 1, 9, 9]), torch.tensor([2.0, 9, 1, 9, 9])[:, None]):
        total, count = SIZE.loss(value, "train")
        assert (total.item(), int(count)) == (1 + 4, 2)


def test_link_loss_and_score():
    task, _ = link_task(RING, 40, seed=0)
    positive, negative = torch.tensor([2.0, -1.0]), torch.tensor([0.0, 3.0, -2.0])
    total, count = task.loss((positive, negative), "train")
    expected = -F.logsigmoid(positive).sum() - F.logsigmoid(-negative).sum()
    torch.testing.assert_close(total, expected)
    assert count == 5
    assert task.score((positive, negative), "test") == 3 / 6


@pytest.mark.parametrize("task", [CLASS, TAGS, SIZE], ids=lambda t: t.name)
def test_no_gradient_and_no_value_comes_from_what_has_no_label(task):
    output = torch.randn(5, task.num_outputs, generator=torch.Generator().manual_seed(1))
    labelled = ~task.target.isnan() if task.target.is_floating_point() else (task.target >= 0)
    labelled = labelled.reshape(5, -1)
    unknown = ~(labelled & SPLIT["train"][:, None])
    clean, _ = task.loss(output, "train")
    # Whole rows without a label may hold anything, even NaN.
    output[unknown.all(1)] = NAN
    output.requires_grad_()
    total, _ = task.loss(output, "train")
    total.backward()
    assert total == clean
    grad = output.grad
    assert grad is not None
    assert not grad[unknown.expand_as(grad)].any()
    assert bool((grad[~unknown.expand_as(grad)] != 0).all())


@pytest.mark.parametrize("task", [CLASS, TAGS, SIZE], ids=lambda t: t.name)
def test_a_split_without_labels_gives_zero_with_a_graph_and_a_nan_score(task):
    output = torch.randn(5, task.num_outputs, requires_grad=True)
    total, count = task.loss(output, "val")
    assert (total.item(), int(count), task.count("val")) == (0, 0, 0)
    total.backward()
    assert output.grad is not None
    assert not output.grad.any()
    assert math.isnan(task.score(output, "val"))


@pytest.mark.parametrize("task", [CLASS, TAGS, SIZE], ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_other_dtypes(task, dtype):
    output = torch.randn(5, task.num_outputs, generator=torch.Generator().manual_seed(2)).to(dtype)
    total, _ = task.loss(output, "train")
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(total.double(), task.loss(output.double(), "train")[0], rtol=1e-5, atol=1e-5)


def test_splitting_a_batch_and_dividing_by_the_global_count_is_the_mean():
    halves = [
        masks({"train": torch.tensor([0]), "val": torch.tensor([3]), "test": torch.tensor([4])}, 5),
        masks({"train": torch.tensor([1, 2]), "val": torch.tensor([3]), "test": torch.tensor([4])}, 5),
    ]
    output = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    parts = [
        Task("tags", "multilabel", "node", TAGS.target, split, "roc_auc", num_outputs=2).loss(output, "train")
        for split in halves
    ]
    whole, count = TAGS.loss(output, "train")
    torch.testing.assert_close(sum(p[0] for p in parts) / sum(p[1] for p in parts), whole / count)


def test_scores_look_at_the_split_only():
    output = torch.tensor([[0.0, 0, 1], [9, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    assert CLASS.score(output, "train") == 1
    assert CLASS.score(output, "test") == 0
    assert SIZE.score(torch.tensor([2.0, 0, 3, 0, 0]), "train") == 0.5
    assert not SIZE.higher_is_better
    assert CLASS.higher_is_better
    assert (CLASS.count("train"), TAGS.count("train"), SIZE.count("test")) == (2, 3, 1)


def test_perfect_scores_reach_the_end_of_the_scale():
    target = torch.tensor([[1, 0], [0, 1], [NAN, NAN], [1, NAN], [0, 1]])
    split = masks({"train": torch.arange(5), "val": torch.arange(0), "test": torch.arange(0)}, 5)
    for metric in ("roc_auc", "average_precision"):
        task = Task("tags", "multilabel", "node", target, split, metric, num_outputs=2)
        assert task.score(target.nan_to_num(0.5), "train") == 1


def build(**changes: object) -> Task:
    given: dict[str, object] = {
        "name": "t",
        "kind": "class",
        "level": "node",
        "target": torch.tensor([0, 1, -1, 0, 1]),
        "split": SPLIT,
        "metric": "accuracy",
        "num_outputs": 2,
    }
    return Task(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"kind": "rank"}, ValueError, "task t: kind must be one of class, multilabel, regression, link, got 'rank'"),
        ({"metric": "mae"}, ValueError, "metric of a class task must be one of accuracy, macro_f1, got 'mae'"),
        ({"level": "edge"}, ValueError, "level must be edge for link tasks and node or graph for others"),
        ({"level": "galaxy"}, ValueError, "got 'galaxy' for 'class'"),
        ({"target": torch.zeros(5)}, TypeError, "target of a class task must be int64, got torch.float32"),
        ({"target": torch.zeros(5, 2).long()}, ValueError, r"must have shape \[n\], got \[5, 2\]"),
        ({"target": torch.tensor([0, 1, 2, 0, 0])}, ValueError, r"-1 \(missing\) or 0..1, got 0..2"),
        ({"target": torch.tensor([0, -2, 1, 0, 0])}, ValueError, "got -2..1"),
        (
            {"kind": "multilabel", "metric": "roc_auc", "target": torch.full((5, 2), 0.5)},
            ValueError,
            "labels must be 0, 1 or NaN, got 0.5",
        ),
        (
            {"kind": "multilabel", "metric": "roc_auc", "target": torch.zeros(5, 3)},
            ValueError,
            r"with num_outputs 2 must have shape \[n, 2\], got \[5, 3\]",
        ),
        (
            {"kind": "regression", "metric": "r2", "target": torch.zeros(5)},
            ValueError,
            "target of a regression task with num_outputs 2",
        ),
        (
            {
                "kind": "link",
                "level": "edge",
                "metric": "roc_auc",
                "target": torch.zeros(2, 5).long(),
                "num_outputs": 1,
            },
            ValueError,
            "a link task needs a sampler of negatives",
        ),
        ({"split": {"train": SPLIT["train"]}}, ValueError, "splits must be train, val, test, got train"),
        ({"split": SPLIT | {"val": SPLIT["train"]}}, ValueError, "splits must be disjoint"),
        ({"split": SPLIT | {"val": torch.zeros(4).bool()}}, ValueError, r"split val must be bool \[5\]"),
        ({"split": SPLIT | {"val": torch.zeros(5)}}, ValueError, r"must be bool \[5\], got torch.float32 \[5\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, error, text):
    with pytest.raises(error, match=text):
        build(**changes)


def test_wrong_calls_say_what_was_required():
    with pytest.raises(ValueError, match="task kind: split must be one of train, val, test, got 'valid'"):
        CLASS.loss(torch.zeros(5, 3), "valid")
    with pytest.raises(ValueError, match=r"task kind: output must have shape \[5, 3\], got \[5, 2\]"):
        CLASS.loss(torch.zeros(5, 2), "train")
    with pytest.raises(ValueError, match=r"task size: output must have shape \[5\], got \[5, 2\]"):
        SIZE.score(torch.zeros(5, 2), "train")
    with pytest.raises(TypeError, match="task kind: output must be a tensor, got tuple"):
        CLASS.score((torch.zeros(5), torch.zeros(5)), "train")
    with pytest.raises(ValueError, match="task kind: only link tasks have negatives, this one is class"):
        CLASS.negatives("train")
    task, _ = link_task(RING, 40, seed=0)
    with pytest.raises(ValueError, match="output of a link task must be a pair"):
        task.loss(torch.zeros(5), "train")
    with pytest.raises(ValueError, match="split must be one of"):
        task.negatives("valid")


def test_task_set_is_an_ordered_mapping():
    tasks = TaskSet([SIZE, CLASS, TAGS])
    assert list(tasks) == ["size", "kind", "tags"]
    assert tasks["kind"] is CLASS
    assert tasks.counts("train") == {"size": 2, "kind": 2, "tags": 3}
    assert tasks.to("cpu").counts("test") == tasks.counts("test") == {"size": 1, "kind": 1, "tags": 2}
    lines = repr(tasks).splitlines()
    assert lines[0].split() == ["task", "kind", "level", "outputs", "metric", "train", "val", "test"]
    assert lines[2].split() == ["kind", "class", "node", "3", "accuracy", "2", "0", "1"]
    with pytest.raises(ValueError, match="names must be unique, got 'kind' twice"):
        TaskSet([CLASS, CLASS])
    assert repr(TaskSet([])).split()[0] == "task"


def test_tasks_survive_pickle():
    task, _ = link_task(RING, 40, seed=0)
    again = pickle.loads(pickle.dumps(TaskSet([CLASS, task])))
    assert again.counts("train") == {"kind": 2, "link": 32}
    assert torch.equal(again["link"].negatives("test"), task.negatives("test"))


def test_random_split_takes_floors_and_leaves_the_rest_to_test():
    for n, expected in ((600, [420, 60, 120]), (1113, [779, 111, 223]), (3, [2, 0, 1]), (0, [0, 0, 0])):
        split = random_split(n, (0.7, 0.1), seed=3)
        assert [int(split[s].sum()) for s in ("train", "val", "test")] == expected
        assert int(torch.stack(list(split.values())).sum()) == n
    assert not torch.equal(random_split(50, (0.7, 0.1), 0)["train"], random_split(50, (0.7, 0.1), 1)["train"])


def pairs_of(pairs: torch.Tensor) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in pairs.t().tolist()}


def test_link_task_holds_out_both_directions_and_draws_non_edges():
    both = torch.cat((RING, RING.flip(0), torch.tensor([[3], [3]])), dim=1)  # both directions and a loop
    task, graph = link_task(both, 40, seed=5)
    edges = pairs_of(RING)
    parts = {s: pairs_of(task.positives(s)) for s in ("train", "val", "test")}
    assert [len(parts[s]) for s in ("train", "val", "test")] == [32, 4, 4]
    assert set.union(*parts.values()) == edges
    messages = graph.edge_index()
    assert messages.shape[1] == 64
    assert pairs_of(messages) == parts["train"]
    for split in ("train", "val", "test"):
        negatives = task.negatives(split, torch.Generator().manual_seed(0))
        assert negatives.shape == task.positives(split).shape
        assert not pairs_of(negatives) & edges
        assert bool((negatives[0] != negatives[1]).all())


def test_negatives_of_train_follow_the_generator_and_the_others_are_fixed():
    task, _ = link_task(RING, 40, seed=5)
    first, second = (torch.Generator().manual_seed(s) for s in (0, 1))
    a, b = task.negatives("train", first), task.negatives("train", first)
    assert not torch.equal(a, b)
    assert torch.equal(a, task.negatives("train", torch.Generator().manual_seed(0)))
    assert torch.equal(task.negatives("val", first), task.negatives("val", second))
    again, _ = link_task(RING, 40, seed=5)
    other, _ = link_task(RING, 40, seed=6)
    assert torch.equal(again.negatives("test"), task.negatives("test"))
    assert not torch.equal(again.positives("test"), other.positives("test"))


def test_negatives_stay_in_their_graph_and_complete_graphs_have_none():
    # Graph 0: nodes 0-2, complete. Graph 1: nodes 3-6, a path. Graph 2: empty. Graph 3: node 7.
    edges = torch.tensor([[0, 0, 1, 3, 4, 5], [1, 2, 2, 4, 5, 6]])
    keys = torch.cat((edges[0] * 8 + edges[1], edges[1] * 8 + edges[0])).sort().values
    sampler = NegativeSampler(keys, torch.tensor([0, 3, 7, 7, 8]), 8)
    drawn = sampler.draw(edges.repeat(1, 30), torch.Generator().manual_seed(0))
    assert pairs_of(drawn) == {(3, 5), (3, 6), (4, 6)}
    # Almost surely nothing was left out but the pairs of the complete graph.
    assert drawn.shape[1] == 90


def test_negatives_are_uniform_over_the_non_edges():
    task, _ = link_task(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), 5, seed=0)
    assert task.sampler is not None
    drawn = task.sampler.draw(torch.zeros(2, 12000).long(), torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn[0] * 5 + drawn[1]), minlength=25).reshape(5, 5)
    expected = ~(torch.eye(5).bool() | (torch.arange(5)[:, None] - torch.arange(5)).abs().eq(1))
    assert torch.equal(counts > 0, expected)
    # 12 ordered non-edges, 1000 each, deviation about 30.
    assert int((counts[expected] - 1000).abs().max()) < 150


def test_link_task_without_edges():
    task, graph = link_task(torch.zeros(2, 0).long(), 3, seed=0)
    assert graph.num_edges == 0
    assert task.negatives("train").shape == (2, 0)
    score = torch.zeros(0, requires_grad=True)
    total, count = task.loss((score, score), "train")
    total.backward()
    assert (total.item(), int(count)) == (0, 0)
    assert math.isnan(task.score((score, score), "test"))

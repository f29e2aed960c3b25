"""StrucHIS: what holds of the whole method, on small typed data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl import HeteroGraph
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.methods import Best, Epoch, StrucHIS
from fastgmtl.methods.struchis import Config

SPLITS = ("train", "val", "test")


def _task(name: str, node_type: str, target: Tensor, kind: str = "class", outputs: int = 1) -> Task:
    place = torch.arange(target.size(0)) % 3
    metric = {"class": "accuracy", "multilabel": "roc_auc", "regression": "mae"}[kind]
    split = {part: place == k for k, part in enumerate(SPLITS)}
    return Task(name, kind, "node", target, split, metric, node_type, outputs)


def _typed() -> Dataset:
    """Three types, of which one has no features and one nobody points at; three kinds of tasks, with gaps."""
    g = torch.Generator().manual_seed(0)
    counts = {"a": 30, "b": 12, "c": 5}

    def edges(src: str, dst: str, number: int) -> Tensor:
        return torch.stack([torch.randint(counts[t], (number,), generator=g) for t in (src, dst)])

    graph = HeteroGraph.from_dict(
        {
            ("a", "ab", "b"): edges("a", "b", 40),
            ("b", "ba", "a"): edges("b", "a", 50),
            ("c", "ca", "a"): edges("c", "a", 9),
        },
        counts,
    )
    features = {"a": torch.randn(30, 7, generator=g), "b": torch.randn(12, 3, generator=g).relu().to_sparse_coo()}
    labels = (torch.rand(12, 4, generator=g) < 0.5).float()
    labels[::4] = math.nan
    number = 100 + 5 * features["a"][:, 0]
    number[::5] = math.nan
    classes = features["a"][:, :3].argmax(1)
    classes[::7] = -1
    tasks = [
        _task("class", "a", classes, outputs=3),
        _task("labels", "b", labels, "multilabel", 4),
        _task("number", "a", number, "regression"),
    ]
    return Dataset.from_hetero("typed", graph, features, TaskSet(tasks), "")


def _build(data: Dataset, **changes: Any) -> StrucHIS:
    torch.manual_seed(0)
    return StrucHIS.build(data, Config(**{"hidden": 8, "layers": 2, **changes}), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sharing", ["relation", "layer", "none"])
@pytest.mark.parametrize("variant", ["as_described", "as_released"])
def test_losses_fall(variant: str, sharing: str) -> None:
    data = _typed()
    method = _build(data, variant=variant, sharing=sharing, dropout=0.0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    sums = []
    for _ in range(30):
        optimizer.zero_grad()
        losses = method.step(data)
        method.backward(losses)
        optimizer.step()
        sums.append(float(sum(losses.values()).detach()))
    assert list(losses) == ["class", "labels", "number"]
    assert sums[-1] < sums[0] - 0.2


def test_every_parameter_is_trained_but_those_that_cancel() -> None:
    method = _build(_typed(), dropout=0.0)
    method.backward(method.step(_typed()))
    assert [name for name, p in method.named_parameters() if p.grad is None] == []
    method = _build(_typed(), variant="as_released", dropout=0.0)
    method.backward(method.step(_typed()))
    cancel = {f"layers.{k}.{name}" for k in (0, 1) for name in ("att_centre", "beta")}
    others = {f"heads.{k}.weight.{name}" for k, own in enumerate("aba") for name in "abc" if name != own}
    over_relations = {f"heads.{k}.att_out.{name}" for k in range(3) for name in ("weight", "bias")}
    assert {n for n, p in method.named_parameters() if p.grad is None} == cancel | others | over_relations


def test_task_weights_weigh_gradients() -> None:
    data = _typed()
    one, two = (_build(data, dropout=0.0, task_weights=w) for w in ("", "0,2,0"))
    one.backward({"labels": one.step(data)["labels"]})
    two.backward(two.step(data))
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(2 * p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_released_loss_is_binary_cross_entropy_of_probabilities() -> None:
    data = _typed()
    method = _build(data, variant="as_released", dropout=0.0)
    losses, outputs = method.step(data), method.outputs(data, "train")
    task, out = data.tasks["class"], outputs["class"]
    assert isinstance(out, Tensor)
    total, count = 0.0, 0
    for i in range(30):
        if task.split["train"][i] and task.target[i] >= 0:
            for c, p in enumerate(out[i].softmax(0).tolist()):
                total -= math.log(p) if c == task.target[i] else math.log(1 - p)
                count += 1
    assert math.isclose(float(losses["class"].detach()), total / count, rel_tol=1e-5)


def test_when_an_epoch_is_better() -> None:
    def epoch(a: float, b: float) -> Epoch:
        return Epoch(2, {}, {"a": a, "b": b}, (a + b) / 2, False, 0.0)

    best = Best(1, 0.5, {"a": 0.4, "b": 0.6}, {})
    described, released = (_build(_typed(), variant=v) for v in ("as_described", "as_released"))
    assert described.improves(epoch(0.9, 0.5), best) and not released.improves(epoch(0.9, 0.5), best)
    assert released.improves(epoch(0.4, 0.6), best) and not described.improves(epoch(0.4, 0.6), best)


def test_panels_show_the_gates() -> None:
    data = _typed()
    panels = _build(data).panels(data)["gates"]
    assert [panel.title for panel in panels] == [f"level {k}, {t}" for k in (1, 2) for t in ("a", "b")]
    first = panels[0]
    assert first.columns == ("class", "labels", "number")
    assert first.rows[:3] == ("b ba: class", "b ba: labels", "b ba: number") and len(first.rows) == 6
    for panel in panels:
        torch.testing.assert_close(torch.tensor(panel.values).sum(1), torch.ones(len(panel.rows)))


def test_what_it_refuses() -> None:
    data = _typed()
    with pytest.raises(ValueError, match="struchis: task_weights must be 3 numbers, got 2"):
        _build(data, task_weights="1,2")
    with pytest.raises(ValueError, match="task_weights: must be numbers of 0 or more with commas between, got 'a,b,c'"):
        Config(task_weights="a,b,c")
    plain = Dataset("plain", data.graph, data.x, TaskSet([]), node_types=())
    with pytest.raises(ValueError, match="struchis: data must be heterogeneous, such as dblp, got plain"):
        _build(plain)

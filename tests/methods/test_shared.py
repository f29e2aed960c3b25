from __future__ import annotations

import copy
import dataclasses
import unittest.mock
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastgmtl import HeteroGraph
from fastgmtl.data import Dataset, Task, TaskSet, synthetic
from fastgmtl.methods import METHODS, Shared, Trainer
from fastgmtl.methods import heads as heads_module
from fastgmtl.methods.heads import LinkHead, standard
from fastgmtl.methods.shared import Config


def _build(data: Dataset, **changes: Any) -> Shared:
    torch.manual_seed(0)
    config = Config(**{"hidden": 8, "layers": 2, **changes})
    return Shared.build(data, config, torch.Generator().manual_seed(0))


def test_tasks_of_several_node_types() -> None:
    hetero = HeteroGraph.from_dict({("a", "x", "b"): torch.tensor([[0, 1, 1], [2, 0, 1]])}, {"a": 2, "b": 3})

    def task(node_type: str, number: int) -> Task:
        split = {part: torch.full((number,), part == "train") for part in ("train", "val", "test")}
        return Task(node_type, "class", "node", torch.arange(number), split, "accuracy", node_type, number)

    tasks = TaskSet([task("b", 3), task("a", 2)])
    data = Dataset.from_hetero("two", hetero.add_inverse_relations(), {}, tasks, "")
    method = _build(data, dropout=0.0)
    outputs, h = method.outputs(data, "train"), method.encoder(data.x, data.graph)
    torch.testing.assert_close(outputs["b"], method.heads[0].linear(h[2:]))
    torch.testing.assert_close(outputs["a"], method.heads[1].linear(h[:2]))
    assert all(loss.isfinite() for loss in method.step(data).values())


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("conv", ["gcn", "sage", "gin"])
def test_every_parameter_is_trained(mixed: Dataset, conv: str, residual: bool) -> None:
    method = _build(mixed, conv=conv, residual=residual, dropout=0.0)
    losses = method.step(mixed)
    assert list(losses) == list(mixed.tasks)
    method.backward(losses)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    # Batch norm takes away the bias before it; every other parameter moves the losses.
    moved = [name for name, p in method.named_parameters() if p.grad.abs().max() > 1e-7]  # type: ignore[union-attr]
    assert {"encoder.input.weight", *(f"heads.{i}.linear.weight" for i in range(5))} <= set(moved)


def test_losses_are_means_over_labels(mixed: Dataset) -> None:
    method = _build(mixed, dropout=0.0)
    losses = method.step(mixed)
    method.generator.manual_seed(0)
    outputs = method.outputs(mixed, "train")
    task = mixed.tasks["class"]
    keep = task.split["train"] & (task.target >= 0)
    expected = torch.nn.functional.cross_entropy(outputs["class"][keep], task.target[keep])  # type: ignore[index]
    torch.testing.assert_close(losses["class"], expected)
    positive, negative = outputs["link"]
    pair = torch.cat((torch.nn.functional.softplus(-positive), torch.nn.functional.softplus(negative)))
    torch.testing.assert_close(losses["link"], pair.mean())


def test_unit_of_a_regression_does_not_matter(make_mixed: Callable[..., Dataset]) -> None:
    small, large = make_mixed(), make_mixed(unit=1000.0)
    one, two = _build(small, dropout=0.0), _build(large, dropout=0.0)
    torch.testing.assert_close(one.step(small)["number"], two.step(large)["number"])
    with torch.no_grad():
        torch.testing.assert_close(
            1000 * one.outputs(small, "val")["number"],  # type: ignore[operator]
            two.outputs(large, "val")["number"],
        )


def test_link_scores(mixed: Dataset) -> None:
    """Eight dot products of parts of the mapped features, then the network; the order of a pair does not matter."""
    head = _build(mixed, hidden=16).heads[3]
    assert isinstance(head, LinkHead)
    h = torch.randn(mixed.num_nodes, 16)
    pairs = torch.randint(mixed.num_nodes, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        score, flipped = head(h, mixed.graph, pairs, pairs.flip(0))
        z = head.linear(h)
        products = torch.stack([(z[pairs[0]] * z[pairs[1]])[:, c].sum(1) for c in torch.arange(16).split(2)], 1)
        torch.testing.assert_close(score, head.network(products)[:, 0])
        torch.testing.assert_close(score, flipped)


@pytest.mark.parametrize("kind", ["ncn", "ncnc"])
def test_links_by_common_neighbours(mixed: Dataset, kind: str) -> None:
    """The head sees the message graph and is trained with the rest."""
    method = _build(mixed, hidden=16, dropout=0.0, link_head=kind)
    network = method.heads[3].network
    assert type(network).__name__ == kind.upper()
    task, h = mixed.tasks["link"], method.encoder(mixed.x, mixed.graph)
    positive, _ = method.outputs(mixed, "val")["link"]
    torch.testing.assert_close(positive, network(h, mixed.graph, task.positives("val")))
    losses = method.step(mixed)
    method.backward(losses)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    with pytest.raises(ValueError, match="link_head: must be products, ncn, ncnc, got 'ncm'"):
        Config(link_head="ncm")  # type: ignore[arg-type]


def test_features_are_standardised_but_not_words(mixed: Dataset) -> None:
    """Shifting and stretching a feature changes nothing; a column of zeros and ones, or a constant one, is left."""
    words = (mixed.x > 0).float()
    words[:, 3] = 7.0
    changed = dataclasses.replace(mixed, x=5 + 100 * mixed.x)
    plain, moved, raw = (_build(d, dropout=0.0) for d in (mixed, changed, dataclasses.replace(mixed, x=words)))
    with torch.no_grad():
        torch.testing.assert_close(
            plain.encoder(mixed.x, mixed.graph), moved.encoder(changed.x, mixed.graph), rtol=1e-3, atol=1e-4
        )
        assert torch.equal(raw.encoder.shift, torch.zeros(5))
        assert torch.equal(raw.encoder.scale, torch.ones(5))


def test_graph_head_pools_the_nodes_of_each_graph(mixed: Dataset) -> None:
    method = _build(mixed)
    head = method.heads[4]
    h = torch.randn(mixed.num_nodes, 8)
    assert mixed.node_graph is not None
    means = torch.stack([h[mixed.node_graph == g].mean(0) for g in range(mixed.num_graphs)])
    with torch.no_grad():
        torch.testing.assert_close(head(mixed.tasks["graph"], h, mixed), head.linear(means))  # type: ignore[operator]


def test_dropout_only_in_training(mixed: Dataset) -> None:
    method = _build(mixed, dropout=0.5)
    method.eval()
    with torch.no_grad():
        one, two = (method.encoder(mixed.x, mixed.graph) for _ in range(2))
        assert torch.equal(one, two)
        method.train()
        assert not torch.equal(method.encoder(mixed.x, mixed.graph), one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv": "gat"}, "conv: must be gcn, sage or gin, got 'gat'"),
        ({"hidden": 0}, "hidden: must be at least 1, got 0"),
        ({"layers": 0}, "layers: must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: must be in [0, 1), got 1.0"),
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size: must be 0 or more, got -1"),
        ({"neighbors": "10,"}, "neighbors: must be numbers of 0 or more, or -1 for all, as 10,10, got '10,'"),
        ({"neighbors": "10,-2"}, "neighbors: must be numbers of 0 or more, or -1 for all, as 10,10, got '10,-2'"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Config(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("conv", ["gcn", "sage", "gin"])
def test_recomputation_changes_no_number(mixed: Dataset, conv: str) -> None:
    plain, again = (_build(mixed, conv=conv, recompute=on) for on in (False, True))
    for method in (plain, again):
        for _ in range(2):
            torch.manual_seed(1)
            method.backward(method.step(mixed))
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    for one, other in zip(plain.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("conv", ["sage", "gin"])
def test_inference_by_blocks_is_the_forward_pass(mixed: Dataset, conv: str) -> None:
    method = _build(mixed, conv=conv).double().eval()
    x = mixed.x.double()
    with torch.no_grad():
        whole = method.encoder(x, mixed.graph)
    torch.testing.assert_close(method.encoder.inference(x, mixed.graph), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_sampled_training_learns_and_repeats(conv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic(num_nodes=600, num_tasks=2, missing=0.2, seed=0)
    config = Config(conv=conv, hidden=16, layers=2, dropout=0.0, epochs=8, batch_size=64, neighbors="8, 8")
    one, other = (Trainer(Shared, data, config) for _ in range(2))
    epochs, again = list(one), list(other)
    parts = unittest.mock.Mock(wraps=one.method.encoder.inference)
    monkeypatch.setattr(one.method.encoder, "inference", parts)
    assert one.evaluate("val") == epochs[-1].score and parts.called == (conv == "sage")
    assert [(e.loss, e.score) for e in epochs] == [(e.loss, e.score) for e in again]
    assert epochs[-1].rank > epochs[0].rank + 0.1
    # Scores are those of the whole graph.
    whole = Shared.build(data, dataclasses.replace(config, batch_size=0), torch.Generator())
    whole.load_state_dict(one.method.state_dict())
    with torch.no_grad():
        assert whole.eval().evaluate(data, "val") == pytest.approx(epochs[-1].score, abs=1e-5)


def test_sampled_training_goes_on_where_it_stopped() -> None:
    data = synthetic(num_nodes=300, num_tasks=2, seed=0)
    config = Config(hidden=8, layers=2, epochs=4, batch_size=50, neighbors="4,4")
    whole, first = Trainer(Shared, data, config), Trainer(Shared, data, config)
    list(whole)
    first.run_epoch()
    state = copy.deepcopy(first.state_dict())
    second = Trainer(Shared, data, config)
    second.load_state_dict(state)
    list(second)
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name


def test_sampled_training_is_for_nodes_of_one_graph(mixed: Dataset) -> None:
    with pytest.raises(ValueError, match=r"batch_size: batches of nodes need one graph .*; task link is of another"):
        _build(mixed, batch_size=8)


def test_half_precision_features() -> None:
    data = synthetic(num_nodes=300, num_tasks=2, seed=0)
    half = dataclasses.replace(data, x=data.x.bfloat16())
    wide = dataclasses.replace(data, x=half.x.float())
    for changes in ({}, {"batch_size": 64, "neighbors": "4,4"}):
        config = Config(hidden=8, layers=2, epochs=2, **changes)  # type: ignore[arg-type]
        one, other = Trainer(Shared, half, config), Trainer(Shared, wide, config)
        assert one.dataset.x.dtype == torch.bfloat16
        for left, right in zip(one, other, strict=True):
            assert left.loss == pytest.approx(right.loss, rel=1e-4)
    # Methods that do not widen features by parts get them wide.
    assert not METHODS["gcnet"].widens and Trainer(_Plain, half, config).dataset.x.dtype == torch.float32


class _Plain(Shared):
    widens = False


def test_features_are_standardised_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 1e3 + torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 7.0
    whole = standard(x)
    monkeypatch.setattr(heads_module, "ROWS", 64)
    for one, other in zip(standard(x), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert one.dtype == torch.float32
    assert float(standard(x)[1][2]) == 1

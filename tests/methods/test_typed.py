"""Methods over typed layers: every one learns on typed and on plain data; what each is about holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fastgmtl import Graph, HeteroGraph
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.methods import METHODS, Method, Trainer
from fastgmtl.methods.hgt import HGT, Config
from fastgmtl.methods.typed import of_x, typed

NAMES = ("single-hgb", "shared-hgb", "single-hgt", "shared-hgt", "mmoe", "ple", "multisfs")


def _typed(noise: int = 0) -> Dataset:
    """Areas of authors and topics of papers, both given by features; ``noise`` features say nothing."""
    g = torch.Generator().manual_seed(0)
    counts = {"author": 60, "paper": 40}
    writes = torch.stack([torch.randint(60, (200,), generator=g), torch.randint(40, (200,), generator=g)])
    graph = HeteroGraph.from_dict({("author", "writes", "paper"): writes}, counts).add_inverse_relations()
    features = {name: torch.randn(n, 4 + noise, generator=g) for name, n in counts.items()}

    def task(name: str, node_type: str, columns: slice) -> Task:
        target = features[node_type][:, columns].argmax(1)
        place = torch.arange(counts[node_type]) % 3
        split = {part: place == k for k, part in enumerate(("train", "val", "test"))}
        return Task(name, "class", "node", target, split, "accuracy", node_type, 2)

    tasks = TaskSet(
        [task("area", "author", slice(0, 2)), task("kind", "author", slice(2, 4)), task("topic", "paper", slice(0, 2))]
    )
    return Dataset.from_hetero("typed", graph, features, tasks, "")


def _build(name: str, data: Dataset, seed: int = 0, **changes: Any) -> Method:
    torch.manual_seed(seed)
    config = METHODS[name].config_type(**{"hidden": 8, "layers": 2, "heads": 2, "dropout": 0.0, **changes})  # type: ignore[arg-type]
    return METHODS[name].build(data, config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, plain: bool) -> None:
    data = _typed()
    if plain:  # one type of nodes, one of edges
        x = torch.cat([data.features["author"], data.features["paper"]])
        target = x[:, :2].argmax(1)
        place = torch.arange(100) % 3
        split = {part: place == k for k, part in enumerate(("train", "val", "test"))}
        tasks = TaskSet([Task("area", "class", "node", target, split, "accuracy", num_outputs=2)])
        data = Dataset("plain", data.graph, x, tasks)
    config = METHODS[name].config_type(hidden=8, layers=2, heads=2, dropout=0.1, epochs=40, lr=0.02)  # type: ignore[arg-type]
    trainer = Trainer(METHODS[name], data, config)
    epochs = list(trainer)
    first, last = (sum(epochs[k].loss.values()) for k in (0, -1))
    assert last < 0.7 * first
    assert all(score > 0.6 for score in trainer.evaluate_best("train").values())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name: str) -> None:
    data = _typed()
    method = _build(name, data)
    method.backward(method.step(data))
    idle = {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert idle == set()


def test_single_tasks_do_not_meet_and_shared_ones_do() -> None:
    data = _typed()
    for name, meets in (("single-hgb", False), ("shared-hgb", True), ("single-hgt", False), ("shared-hgt", True)):
        method = _build(name, data)
        losses = method.step(data)
        area = torch.autograd.grad(losses["area"], list(method.parameters()), retain_graph=True, allow_unused=True)
        topic = torch.autograd.grad(losses["topic"], list(method.parameters()), allow_unused=True)
        both = [
            a is not None and b is not None and bool(((a != 0) & (b != 0)).any())
            for a, b in zip(area, topic, strict=True)
        ]
        assert any(both) == meets


@pytest.mark.parametrize("name", NAMES)
def test_nodes_of_all_types_pass_messages_where_x_has_one_of_them(name: str) -> None:
    """Debian's graph without types has packages alone; typed methods take all nodes, and heads find their rows."""
    data = _typed()
    only = dataclasses.replace(
        data,
        graph=Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 40, 40),
        x=data.x[60:],
        tasks=TaskSet([data.tasks["topic"]]),
        edge_type=None,
        edge_type_names=(),
        node_types=("paper",),
    )
    method = _build(name, only).eval()
    (h,) = method.embed(only).values()  # type: ignore[operator]
    assert h.shape == (40, 8)
    moved = dataclasses.replace(only, features=dict(only.features, author=only.features["author"] + 1))
    assert not torch.allclose(next(iter(method.embed(moved).values())), h)  # type: ignore[operator]
    torch.testing.assert_close(of_x(only, torch.arange(100)), torch.arange(60, 100))


def test_typed_edges_of_plain_data() -> None:
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    data = Dataset("plain", Graph.from_edge_index(edges, 4, 4), torch.randn(4, 2), TaskSet([]))
    assert typed(data).hetero.relations == (("node", "edge", "node"),)
    data = dataclasses.replace(data, edge_type=torch.tensor([2, 0, 2, 0]), edge_type_names=("a", "b", "c"))
    given = typed(data)
    assert given is typed(data)
    assert [relation[1] for relation in given.hetero.relations] == ["a", "b", "c"]
    found = torch.cat([given.graph.edge_index(), given.edge_type[None]])
    assert sorted(found.t().tolist()) == [[0, 1, 2], [1, 2, 0], [2, 3, 2], [3, 0, 0]]


def test_hgt_is_its_formula() -> None:
    """tanh, then layers and layer norms of each type and set; a type that nobody points to keeps what it has."""
    data = _typed()
    writes = {("author", "writes", "paper"): data.hetero.edge_index_dict()["author", "writes", "paper"]}  # type: ignore[union-attr]
    data = dataclasses.replace(data, hetero=HeteroGraph.from_dict(writes, {"author": 60, "paper": 40}))
    torch.manual_seed(0)
    encoder = HGT(data, Config(hidden=8, layers=2, heads=2), 3).eval()
    with torch.no_grad():
        encoder.scale.normal_()
        encoder.shift.normal_()
    h = torch.randn(100, 3, 8)
    author, paper = h.tanh().split([60, 40])
    for conv, scale, shift in zip(encoder.convs, encoder.scale[:, 0], encoder.shift[:, 0], strict=True):
        found = conv({"author": author, "paper": paper}, writes)["paper"]
        centred = found - found.mean(2, keepdim=True)
        paper = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(encoder(h, data), torch.cat([author, paper]), rtol=1e-5, atol=1e-5)


def test_multisfs_keeps_the_features_that_matter() -> None:
    """Better than chance, which is 1 in 4: saliency at random weights is noisy, so over ten of them."""
    data, found = _typed(noise=12), []
    for seed in range(10):
        masks = _build("multisfs", data, seed, hidden=32, keep=0.25).masks["author"]  # type: ignore[index,union-attr]
        assert masks.sum(1).tolist() == [4.0, 4.0, 4.0]
        found.append(float(masks[0, :2].mean() + masks[1, 2:4].mean()) / 2)
    assert sum(found) / len(found) > 0.4


def test_mmoe_with_one_expert_shares_all() -> None:
    data = _typed()
    method = _build("mmoe", data, experts=1)
    embedded = method.embed(data)  # type: ignore[operator]
    assert torch.equal(embedded["area"], embedded["kind"])


def test_configs_refuse() -> None:
    for name, key, value, text in (
        ("mmoe", "experts", 0, "experts: must be at least 1, got 0"),
        ("multisfs", "keep", 0.0, r"keep: must be in \(0, 1\], got 0.0"),
        ("shared-hgb", "heads", 3, "heads: must be a divisor of hidden, got 3"),
        ("single-hgb", "beta", 1.0, r"beta: must be in \[0, 1\), got 1.0"),
        ("shared-hgt", "hidden", 0, "hidden: must be at least 1, got 0"),
        ("single-hgt", "dropout", 1.0, r"dropout: must be in \[0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            dataclasses.replace(METHODS[name].config_type(), **{key: value})

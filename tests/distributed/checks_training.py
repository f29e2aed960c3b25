"""Training by several processes is training by one: the same losses, scores and weights, in float64."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checks_partition import F, N, random_graph

from fastgmtl import Graph
from fastgmtl.cli.errors import CliError
from fastgmtl.cli.run import agreed
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.data.tasks import NegativeSampler
from fastgmtl.distributed import Led, Part, World, cost
from fastgmtl.methods import MODES, Epoch, Method, Mode, Shared, Trainer
from fastgmtl.methods.gcnet import label_heads as labels_config
from fastgmtl.methods.gcnet.label_heads import LabelHeads
from fastgmtl.methods.same import method as same_config
from fastgmtl.methods.same.method import ESame, ISame
from fastgmtl.methods.shared import Config

EPOCHS = 12


def data() -> Dataset:
    """Nodes with classes, labels and numbers that can be learned, all with gaps; the numbers on few nodes."""
    g = torch.Generator().manual_seed(3)
    graph, x = random_graph(), torch.randn(N, F, generator=g, dtype=torch.float64)
    where = torch.rand(N, generator=g)
    split = {"train": where < 0.6, "val": (where >= 0.6) & (where < 0.8), "test": where >= 0.8}
    labels = (x[:, :2] > 0).float()
    labels[torch.rand(N, 2, generator=g) < 0.3] = torch.nan
    number = (x[:, 0] - x[:, 1]).float().masked_fill(torch.arange(N) >= 50, torch.nan)
    tasks = [
        Task("class", "class", "node", x[:, :3].argmax(1), split, "accuracy", num_outputs=3),
        Task("labels", "multilabel", "node", labels, split, "roc_auc", num_outputs=2),
        Task("number", "regression", "node", number, split, "mae"),
    ]
    return Dataset("learnable", graph, x, TaskSet(tasks))


def trainer(world: World | None, mode: str = "partition", **changes: Any) -> Trainer:
    """Of method shared, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    config = Config(**{"hidden": 8, "layers": 2, "epochs": EPOCHS, **changes})
    try:
        return Trainer(Shared, data(), config, 5, None if world is None else MODES[mode](world))
    finally:
        torch.set_default_dtype(before)


def same(found: list[Epoch], expected: list[Epoch]) -> None:
    """Losses to 1e-9, scores of classes and labels exactly."""
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.epoch == b.epoch and a.best == b.best
        for name in b.loss:
            assert abs(a.loss[name] - b.loss[name]) < 1e-9, (a.epoch, name)
            assert abs(a.score[name] - b.score[name]) < (1e-9 if name == "number" else 1e-15), (a.epoch, name)


def weights(found: Trainer, expected: Trainer) -> None:
    """To 1e-9."""
    other = expected.method.state_dict()
    for name, value in found.method.state_dict().items():
        assert (value - other[name]).abs().max() < 1e-9, name


def check_partition(world: World) -> None:
    for conv in ("sage", "gcn", "gin"):
        one, several = trainer(World(), conv=conv), trainer(world, conv=conv)
        same(list(several), list(one))
        if conv != "gin":  # batch norm takes away the biases of units of its network that are open at all nodes
            weights(several, one)
        assert several.evaluate_best("test") == pytest.approx(one.evaluate_best("test"), abs=1e-9)


def check_without_dropout_it_is_the_ordinary_run(world: World) -> None:
    """In training mode: in eval mode the ordinary run has biases that rounding has moved."""
    plain, several = list(trainer(None, dropout=0.0)), list(trainer(world, dropout=0.0))
    for a, b in zip(several, plain, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-9)


def check_going_on_with_another_number_of_ranks(world: World) -> None:
    whole = list(trainer(World()))
    first = trainer(World())
    head = [first.run_epoch() for _ in range(4)]
    state = first.state_dict()
    then = trainer(world)
    then.load_state_dict(state)
    for _ in range(4):
        head.append(then.run_epoch())  # noqa: PERF401
    last = trainer(World())
    last.load_state_dict(then.state_dict())
    same([*head, *last], whole)


def _given(name: str) -> Any:
    """What the tests of methods make their data with."""
    path = Path(__file__).resolve().parents[1] / "methods" / "conftest.py"
    spec = importlib.util.spec_from_file_location("data_of_methods", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def run(method: type[Method], of: Dataset, config: Any, mode: Mode | None) -> tuple[list[Epoch], Trainer]:
    """In float64."""
    torch.set_default_dtype(torch.float64)
    try:
        made = Trainer(method, of, config, 1, mode)
        return list(made), made
    finally:
        torch.set_default_dtype(torch.float32)


def check_episodes(world: World) -> None:
    """Episodes of all tasks, of one task each, and fewer in the last meta-step than ranks; no message for nothing."""
    of = _given("_small_graphs")(60, dtype=torch.float64)
    for method, changes in ((ESame, {}), (ISame, {"uncertainty": "inner"}), (ESame, {"episodes": "single"})):
        config = same_config.Config(epochs=2, hidden=8, layers=2, batch=6, meta_batch=4, evaluate_every=2, **changes)
        one, first = run(method, of, config, None)
        several, second = run(method, of, config, MODES["episodes"](world))
        assert len(first.method.episodes) % 4 not in (0, 4)  # type: ignore[union-attr, arg-type]
        for a, b in zip(several, one, strict=True):
            assert a.loss == pytest.approx(b.loss, abs=1e-9, nan_ok=True)
        for name, value in second.method.state_dict().items():
            assert (value - first.method.state_dict()[name]).abs().max() < 1e-10, name
    with pytest.raises(ValueError, match=f"meta_batch: must be at least the number of processes, {world.size}, for"):
        run(ESame, of, same_config.Config(epochs=1, hidden=8), MODES["episodes"](world))
    with pytest.raises(ValueError, match="batch_norm: must be false for --dist episodes"):
        run(ESame, of, same_config.Config(hidden=8, meta_batch=4, batch_norm=True), MODES["episodes"](world))


def table() -> Dataset:
    """Samples without edges, with labels and numbers; the labels have gaps."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(90, 5, generator=g, dtype=torch.float64)
    where = torch.rand(90, generator=g)
    split = {"train": where < 0.7, "val": (where >= 0.7) & (where < 0.85), "test": where >= 0.85}
    labels = (x[:, :3] > 0).float()
    labels[torch.rand(90, 3, generator=g) < 0.4] = torch.nan
    tasks = [
        Task("labels", "multilabel", "node", labels, split, "roc_auc", num_outputs=3),
        Task("number", "regression", "node", x.sum(1).float(), split, "mae"),
    ]
    return Dataset("table", Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 90, 90), x, TaskSet(tasks))


def check_ddp(world: World) -> None:
    """A batch shared by the ranks is one batch; with gaps in the labels, batch norm and surgery."""
    molecules = _given("_molecules")(61)
    for of, balance in ((table(), "sum"), (table(), "upgrad"), (molecules, "sum"), (molecules, "upgrad")):
        config = labels_config.Config(epochs=3, hidden=6, batch=16, balance=balance)
        one, first = run(LabelHeads, of, config, None)
        several, second = run(LabelHeads, of, config, MODES["ddp"](world))
        for a, b in zip(several, one, strict=True):
            assert a.loss == pytest.approx(b.loss, abs=1e-9) and a.score == pytest.approx(b.score, abs=1e-9)
        for name, value in second.method.state_dict().items():
            assert (value.double() - first.method.state_dict()[name].double()).abs().max() < 1e-9, (balance, name)
    losses, _ = run(
        LabelHeads,
        table(),
        labels_config.Config(epochs=3, hidden=6, dropout=0.3, balance="pcgrad"),
        MODES["ddp"](world),
    )
    assert len({tuple(e.loss.values()) for e in losses}) == 3
    for config, of, message in (
        (
            labels_config.Config(balance="uw"),
            table(),
            "balance: must be sum, pcgrad or upgrad for --dist ddp, got 'uw'",
        ),
        (labels_config.Config(tasks="labels"), data(), "--dist ddp: the data must be many samples"),
    ):
        with pytest.raises(ValueError, match=message):
            run(LabelHeads, of, config, MODES["ddp"](world))


def check_what_a_mode_cannot_train(world: World) -> None:
    pairs = torch.tensor([[0, 1, 2], [3, 4, 5]])
    split = {name: torch.arange(3) == k for k, name in enumerate(("train", "val", "test"))}
    sampler = NegativeSampler(torch.tensor([3]), torch.tensor([0, N]), N)
    link = Task("link", "link", "edge", pairs, split, "roc_auc", sampler=sampler)
    linked = dataclasses.replace(data(), tasks=TaskSet([*data().tasks.values(), link]))
    config = Config(hidden=4, layers=1, epochs=1)
    with pytest.raises(ValueError, match="Shared cannot be trained by several processes in mode episodes"):
        Trainer(Shared, data(), config, 0, MODES["episodes"](world))
    with pytest.raises(ValueError, match="--dist partition: all tasks must be about nodes, task link is about pairs"):
        Trainer(Shared, linked, config, 0, MODES["partition"](world))


def check_a_rank_that_begins_with_other_weights_is_named(world: World) -> None:
    last = world.size - 1
    with pytest.raises(RuntimeError, match=f"^training: weights of rank {last} differ from those of rank 0"):
        Trainer(Shared, data(), Config(hidden=4, layers=1), world.rank // last, MODES["partition"](world))


def check_the_cost_model_counts_what_is_sent(world: World) -> None:
    """Bytes of rows, bytes of sums and how many of them, of a real step."""
    made = trainer(world, layers=3)
    part = made.dataset.graph
    assert isinstance(part, Part)
    sent, summed = [], []
    swap, add = dist.all_to_all_single, dist.all_reduce

    def swapped(out: torch.Tensor, rows: torch.Tensor, *args: Any, **options: Any) -> Any:
        sent.append(rows.numel() * rows.itemsize)
        return swap(out, rows, *args, **options)

    def added(value: torch.Tensor, *args: Any, **options: Any) -> Any:
        summed.append(value.numel() * value.itemsize)
        return add(value, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_to_all_single", swapped)
        patch.setattr(dist, "all_reduce", added)
        made.method.train()
        made._step(made.dataset)
    given = [p for p in made.method.parameters() if p.requires_grad]
    encoder = cost.Encoder(3, 8, sum(p.numel() for p in given), len(given), len(made.dataset.tasks), itemsize=8)
    others = sum(n > 0 for n in part.recv)
    share = cost.Share(part.num_dst, part.num_edges, part.halo.numel(), part.send.numel(), others)
    expected = cost.partition_step(encoder, share, world.size)
    assert (sum(sent), sum(summed), len(summed)) == (expected.exchanged, expected.reduced, expected.sums)
    assert len(sent) == 2 * 3 and expected.messages == len(sent) * others + len(summed) * 2 * (world.size - 1)


def check_an_error_on_one_rank_is_told_on_all(world: World) -> None:
    last = world.size - 1

    def make(ranks: tuple[int, ...]) -> int:
        if world.rank in ranks:
            raise CliError("no such file")
        return 7

    assert agreed(world, lambda: make(())) == 7
    for ranks, message in (((last,), f"rank {last} of {world.size}: no such file"), (tuple(range(9)), "no such file")):
        with pytest.raises(CliError) as error:
            agreed(world, lambda ranks=ranks: make(ranks))  # type: ignore[misc]
        assert str(error.value) == message
    with pytest.raises(CliError if world.rank == 0 else Led, match="no such file"):
        world.lead(lambda: make((0,)))
    assert world.lead(lambda: world.rank + 3) == 3
    assert world.any(world.rank == last) and not world.any(False)

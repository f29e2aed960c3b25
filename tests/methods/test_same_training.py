"""SAME and its baselines as methods: episodes, training, exact resume, evaluation of seen and unseen tasks."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgmtl.data import Dataset, load
from fastgmtl.methods import METHODS, Trainer, constant_score
from fastgmtl.methods.same.head_probes import head_scores
from fastgmtl.methods.same.probes import PROBES, Probes

Small = Callable[..., Dataset]
NAMES = ("isame", "esame", "same-concurrent", "single", "classical", "finetune-multi")
SMALL = {"hidden": 16, "layers": 2, "batch": 12, "epochs": 6, "patience": 6, "evaluate_every": 2, "lr": 5e-3}


def _trainer(name: str, data: Dataset, seed: int = 0, **changes: Any) -> Trainer:
    method = METHODS[name]
    return Trainer(method, data, method.config_type(**{**SMALL, **changes}), seed)


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_exact(small_graphs: Small, name: str) -> None:
    data = small_graphs()
    whole = _trainer(name, data)
    expected = list(whole)
    first = _trainer(name, data)
    records = [first.run_epoch() for _ in range(3)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = _trainer(name, data)
    second.load_state_dict(torch.load(file, weights_only=True))
    records += list(second)
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[key]), key
    for one, other in zip(records, expected, strict=True):
        assert str((one.loss, one.score, one.rank, one.best)) == str((other.loss, other.score, other.rank, other.best))


@pytest.mark.parametrize("name", NAMES)
def test_losses_fall_and_scores_are_there(small_graphs: Small, name: str) -> None:
    data = small_graphs()
    trainer = _trainer(name, data, epochs=30, patience=30)
    records = list(trainer)
    trained = [task for task in data.tasks if not math.isnan(records[-1].loss[task])]
    assert len(trained) == (2 if name == "finetune-multi" else 3)
    for task in trained:
        assert records[-1].loss[task] < records[0].loss[task], task
    assert all(math.isnan(r.score["node_class"]) == bool(r.epoch % 2) for r in records)
    scores = trainer.evaluate_best("test")
    assert scores["node_class"] > constant_score(data.tasks["node_class"], "test") + 0.1


@pytest.mark.parametrize("kind", ["multi", "concurrent", "single"])
@pytest.mark.parametrize("variant", ["as_described", "as_released"])
def test_episodes_are_the_same_in_every_epoch(small_graphs: Small, kind: str, variant: str) -> None:
    data = small_graphs()
    method = _trainer("isame", data, episodes=kind, variant=variant).method
    rounds = [[method.step(batch) for batch in method.batches(data, torch.Generator())] for _ in range(2)]
    again = _trainer("isame", data, episodes=kind, variant=variant).method
    rounds.append([again.step(batch) for batch in again.batches(data, torch.Generator())])
    first = [{k: v.item() for k, v in losses.items()} for losses in rounds[0]]
    assert first and all([{k: v.item() for k, v in losses.items()} for losses in r] == first for r in rounds[1:])


def test_variants_differ(small_graphs: Small) -> None:
    data, losses = small_graphs(), []
    for variant in ("as_described", "as_released"):
        method = _trainer("esame", data, variant=variant).method
        losses.append(
            {k: v.item() for k, v in method.step(next(iter(method.batches(data, torch.Generator())))).items()}
        )
    # A double logistic keeps the loss of a pair above -log of the logistic of 1, and below log(1 + e).
    assert 0.31 < losses[1]["link"] < 1.32
    assert all(losses[0][k] != losses[1][k] for k in losses[0])


@pytest.mark.parametrize("mode", ["inner", "outer"])
def test_uncertainty_weights_learn(small_graphs: Small, mode: str) -> None:
    trainer = _trainer("isame", small_graphs(), uncertainty=mode)
    trainer.run_epoch()
    weights = trainer.method.log_variance
    assert (weights != 0).all()
    plain = _trainer("isame", small_graphs())
    plain.run_epoch()
    assert (plain.method.log_variance == 0).all()


def test_an_unseen_task_is_probed_and_not_trained(small_graphs: Small) -> None:
    trainer = _trainer("esame", small_graphs(), tasks="graph_class, link")
    record = list(trainer)[-1]
    assert math.isnan(record.loss["node_class"]) and record.score["node_class"] > 0
    assert list(trainer.method.model.heads) == ["graph_class", "link"]


def test_finetuning_has_two_parts(small_graphs: Small) -> None:
    trainer = _trainer("finetune-multi", small_graphs(), tasks="node_class,link", pretrain=0.5)
    losses = [record.loss for record in trainer]
    assert [sum(not math.isnan(v) for v in loss.values()) for loss in losses] == [3, 3, 3, 2, 2, 2]
    with pytest.raises(ValueError, match="tasks: must be among graph_class, node_class, link, got 'nope'"):
        _trainer("finetune-multi", small_graphs(), tasks="nope")


def test_single_trains_tasks_apart(small_graphs: Small) -> None:
    alone = _trainer("single", small_graphs(), tasks="graph_class", epochs=1).method
    assert len(alone.encoders) == 1
    together = _trainer("single", small_graphs(), epochs=1).method
    assert len(together.encoders) == 3
    batch = next(iter(together.batches(small_graphs(), torch.Generator())))
    together.step(batch)["link"].backward()
    grads = [[p.grad is not None for p in encoder.parameters()] for encoder in together.encoders]
    assert not any(grads[0]) and not any(grads[1]) and all(grads[2])


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("variant", ["as_described", "as_released"])
def test_probes_find_what_is_in_the_features(small_graphs: Small, probe: str, variant: Any) -> None:
    """Node classes are a function of the features themselves, which stand for the embeddings here."""
    data = small_graphs(120)
    method = _trainer("esame", data, variant=variant).method
    probes: Probes = method.probes
    scores = probes.scores(lambda block: block.x, data, "test", PROBES[probe])
    assert scores["node_class"] > 0.9
    assert set(scores) == set(data.tasks) and all(0 <= v <= 1 for v in scores.values())


def test_heads_learn_on_frozen_embeddings(small_graphs: Small) -> None:
    data = small_graphs(80)
    probes: Probes = _trainer("esame", data).method.probes
    torch.manual_seed(0)
    scores = head_scores(probes, lambda block: 5 * block.x, data, "test", epochs=60)
    assert scores["node_class"] > constant_score(data.tasks["node_class"], "test") + 0.3
    assert set(scores) == set(data.tasks) and all(0 <= v <= 1 for v in scores.values())


def test_link_probes_are_fit_on_pairs_that_the_graph_lacks(small_graphs: Small) -> None:
    for variant, hidden in (("as_described", True), ("as_released", False)):
        probes: Probes = _trainer("esame", small_graphs(), variant=variant).method.probes
        known = {tuple(p) for p in probes.block.graph.edge_index().t().tolist()}
        asked = [tuple(p) for p in probes.held.index.t()[probes.held.target == 1].tolist()]
        assert asked and (not known & set(asked) if hidden else set(asked) <= known)


def test_config_refuses(small_graphs: Small, mixed: Dataset) -> None:
    for changes, message in (
        ({"inner_steps": 0}, "inner_steps: must be at least 1, got 0"),
        ({"inner_lr": 0.0}, "inner_lr: must be positive, got 0.0"),
        ({"episodes": "many"}, "episodes: must be multi or concurrent or single, got 'many'"),
        ({"variant": "mine"}, "variant: must be as_described or as_released, got 'mine'"),
        ({"batch": 1}, "batch: must be at least 2, got 1"),
        ({"evaluate_every": 0}, "evaluate_every: must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError) as error:
            _trainer("isame", small_graphs(), **changes)
        assert str(error.value) == message
    with pytest.raises(ValueError, match="SAME has heads for classes and links"):
        _trainer("esame", mixed)
    with pytest.raises(ValueError, match="data set debian: SAME needs many graphs"):
        _trainer("esame", load("debian"))


@pytest.mark.parametrize("name", ["PROTEINS", "PROTEINS_full"])
def test_other_tu_data_sets_are_read_from_their_folder(data_root: Path, name: str) -> None:
    data = load(str(data_root / "tu" / name))
    method = METHODS["isame"]
    made = method.build(data, method.config_type(hidden=8), torch.Generator().manual_seed(0))
    batches = list(made.batches(data, torch.Generator()))
    assert len(batches) == 779 // 16 + (779 % 16 >= 6)
    assert all(math.isfinite(v.item()) for v in made.step(batches[-1]).values())


# By so much a probe must beat the best constant prediction on ENZYMES (links: 0.5), whose random negatives are hard.
MARGINS = {"graph_class": 0.2, "node_class": 0.3, "link": 0.02}


def test_esame_on_enzymes_beats_chance_in_all_probes(data_root: Path) -> None:
    """One fold, 200 epochs: a minute or two, in which no probe is fit but every 50 epochs."""
    data = load(str(data_root / "tu" / "ENZYMES"))
    method = METHODS["esame"]
    trainer = Trainer(method, data, method.config_type(epochs=200, evaluate_every=50), seed=0)
    losses = [record.loss for record in trainer]
    scores = trainer.evaluate_best("test")
    for name, margin in MARGINS.items():
        assert scores[name] > constant_score(data.tasks[name], "test") + margin, (name, scores[name])
        assert losses[-1][name] < losses[0][name]

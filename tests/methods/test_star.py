"""The method star: what its parts are, that every parameter is trained, and two epochs on real data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgmtl.data import Dataset, load
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.star import Config, Star


def build(data: Dataset, **changes: Any) -> Star:
    torch.manual_seed(0)
    config = Config(**{"hidden": 8, "layers": 2, "dropout": 0.0, **changes})
    return Star.build(data, config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("conv", ["gcn", "sage"])
@pytest.mark.parametrize("embedding", [0, 4])
@pytest.mark.parametrize("residual", [True, False])
def test_every_parameter_is_trained(mixed: Dataset, conv: str, embedding: int, residual: bool) -> None:
    method = build(mixed, conv=conv, embedding=embedding, residual=residual)
    losses = method.step(mixed)
    assert list(losses) == list(mixed.tasks)
    method.backward(losses)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    star = {"star.lin1.weight", "star.lin2.weight"} | ({"star.nodes", "star.virtual"} if embedding else set())
    moved = {name for name, p in method.named_parameters() if p.grad.abs().max() > 1e-9}  # type: ignore[union-attr]
    assert star <= moved


def test_each_task_has_an_embedding_of_its_own(mixed: Dataset) -> None:
    method = build(mixed).eval()
    assert len(method.encoder.convs) == 1
    with torch.no_grad():
        found = list(method.embed(mixed).values())
    assert all(h.shape == (mixed.num_nodes, 8) for h in found)
    assert not any(torch.equal(found[0], h) for h in found[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv": "gin"}, "conv: must be gcn or sage, got 'gin'"),
        ({"layers": 1}, "layers: must be at least 2, got 1"),
        ({"embedding": -1}, "embedding: must be 0 or more, got -1"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


@pytest.mark.parametrize(("name", "changes"), [("city:huangpu", {"embedding": 4}), ("tu:ENZYMES", {})])
@pytest.mark.usefixtures("data_root")
def test_it_trains_on_real_data(name: str, changes: dict[str, Any]) -> None:
    data = load(name)
    config = METHODS["star"].config_type(hidden=16, layers=2, epochs=4, evaluate_every=4, **changes)  # type: ignore[call-arg]
    first, *_, last = Trainer(METHODS["star"], data, config)
    assert sum(last.loss.values()) < sum(first.loss.values())
    assert all(0 <= score <= 1 or task == "eccentricity" for task, score in last.score.items())

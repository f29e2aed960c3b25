"""Methods on real data: all over typed layers (losses fall, labels may be missing), links of a citation graph."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import pytest

from fastgmtl.data import Dataset, TaskSet, load
from fastgmtl.methods import METHODS, Shared, Trainer
from fastgmtl.methods.shared import Config as SharedConfig

STRUCHIS = [
    pytest.param("struchis", {"variant": variant, "sharing": sharing}, id=f"struchis {variant} {sharing}")
    for variant in ("as_described", "as_released")
    for sharing in ("relation", "layer", "none")
]
NAMES = ("single-hgb", "shared-hgb", "single-hgt", "shared-hgt", "mmoe", "ple", "multisfs")
WHAT = [*STRUCHIS, *(pytest.param(name, {"heads": 2}, id=name) for name in NAMES)]

every_method = pytest.mark.parametrize(("name", "options"), WHAT)
_load = cache(load)


def _trains(data: Dataset, name: str, epochs: int, options: Any) -> None:
    """The sum of the losses falls, and every task has a score."""
    small = {"hidden": 8, "layers": 2, "dropout": 0.1, "lr": 0.01, "epochs": epochs, "evaluate_every": epochs}
    config = METHODS[name].config_type(**small, **options)  # type: ignore[arg-type]
    found = list(Trainer(METHODS[name], data, config))
    assert all(list(epoch.loss) == list(data.tasks) for epoch in found)
    sums = [sum(epoch.loss.values()) for epoch in found]
    assert len(sums) == epochs and all(map(math.isfinite, sums))
    assert sums[-1] < sums[0]
    assert all(map(math.isfinite, found[-1].score.values()))


@every_method
@pytest.mark.usefixtures("data_root")
def test_dblp(name: str, options: Any) -> None:
    _trains(_load("dblp"), name, 5, options)


@every_method
@pytest.mark.usefixtures("data_root")
def test_heco_acm(name: str, options: Any) -> None:
    _trains(_load("heco_acm"), name, 4, options)


@every_method
def test_debian(name: str, options: Any) -> None:
    """19 relations and their inverses, among binary packages with features and others without, which have no labels."""
    data = _load("debian")
    _has_gaps(data)
    _trains(data, name, 3, options)


@pytest.mark.parametrize("name", ["shared-hgb", "shared-hgt"])
@pytest.mark.usefixtures("data_root")
def test_all_of_debian(name: str) -> None:
    data = _load("debian_bookworm")
    _has_gaps(data)
    _trains(data, name, 2, {"heads": 2})


def _has_gaps(data: Dataset) -> None:
    assert data.hetero is not None and len(data.hetero.relations) == 38
    assert bool(data.tasks["tags"].target.isnan().any())


@pytest.mark.usefixtures("data_root")
def test_links_of_cora_by_common_neighbours() -> None:
    """After three epochs: half of the pairs are told apart by what they have in common, few by dot products."""
    data = _load("planetoid:cora")
    data = dataclasses.replace(data, tasks=TaskSet([data.tasks["link"]]))
    scores = {}
    for head in ("products", "ncn"):
        config = SharedConfig(hidden=32, epochs=3, evaluate_every=3, link_head=head)  # type: ignore[arg-type]
        *_, last = Trainer(Shared, data, config)
        scores[head] = last.score["link"]
    assert scores["ncn"] > 0.65 and scores["ncn"] > scores["products"] + 0.05

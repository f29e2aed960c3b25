"""Auxiliary learning on real molecules, and what its settings refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgmtl.data import Dataset, load
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.auxiliary import Auxiliary

VARIANTS = [
    (name, variant)
    for name in METHODS
    if issubclass(METHODS[name], Auxiliary)
    for variant in (("as_released", "as_described") if "rcgrad" in name else (None,))
]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "mtl",
            {"auxiliary": "masking,mask"},
            "auxiliary: must be some of masking, edges, context, infomax, motif, each",
        ),
        ("mtl", {"auxiliary": "motif,motif"}, "auxiliary: must be some of"),
        ("mtl", {"batch": 1}, "batch: must be at least 2, got 1"),
        ("mtl", {"conv": "gat"}, "conv: must be gin, gcn or sage, got 'gat'"),
        ("rcgrad", {"variant": "as_wished"}, "variant: must be as_released or as_described, got 'as_wished'"),
        ("blo", {"meta_share": 1.0}, r"meta_share: must be in \(0, 1\), got 1.0"),
        ("blo", {"adapt_every": 0}, "adapt_every: must be at least 1, got 0"),
        ("blo", {"terms": -1}, "terms: must be 0 or more, got -1"),
        ("blo", {"eta": 0.0}, "eta: must be positive, got 0.0"),
    ],
)
def test_config_refuses(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS[name].config_type(**changes)


def test_other_data_and_absent_weights_are_refused(
    make_molecules: Callable[..., Molecules], mixed: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = make_molecules(20), METHODS["rcgrad"].config_type(hidden=4)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="the data must be molecules with labels of 0 and 1, such as moleculenet:"):
        METHODS["rcgrad"].build(mixed, config, torch.Generator())
    monkeypatch.setenv("FASTGMTL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pretrained_gnn"):
        METHODS["rcgrad"].build(data, config, torch.Generator())
    (tmp_path / "pretrained_gnn" / "chem").mkdir(parents=True)
    (tmp_path / "pretrained_gnn" / "chem" / "gcn_other.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pretrained: .*_contextpred.pth does not exist, only gcn_other"):
        METHODS["rcgrad"].build(data, config, torch.Generator())


@pytest.fixture(scope="module")
def clintox(data_root: Path) -> Dataset:
    return load("moleculenet:clintox")


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_two_epochs_on_clintox(clintox: Dataset, name: str, variant: str | None) -> None:
    """All of ClinTox, an encoder of width 32 and two layers without released weights: losses fall, pictures are there.

    Small for the sake of time; a width of 300, five layers and the released weights are what is reproduced.
    """
    extra: dict[str, Any] = {} if variant is None else {"variant": variant}
    extra |= {"adapt_every": 5} if name.startswith("blo") else {}
    config = METHODS[name].config_type(hidden=32, layers=2, pretrained="none", epochs=2, **extra)
    trainer = Trainer(METHODS[name], clintox, config, 0)
    first, second = trainer
    assert second.loss["clintox"] < first.loss["clintox"]
    assert 0 <= second.score["clintox"] <= 1
    pictures = {*trainer.method.history()}
    conflicts = {"cosines", "conflicts", "negative"}
    want = {"finetune": set(), "mtl": set(), "blo": conflicts | {"weights"}, "stn": {"weights"}}
    assert pictures == want.get(name, conflicts | {"weights"})
    if name.startswith("blo") and variant != "as_released":
        assert bool((trainer.method.phi != 1 / 6).any())
    if name == "stn":
        assert bool((trainer.method.lam != trainer.method.lam[0]).any())


def test_released_weights_are_where_training_starts(clintox: Dataset, data_root: Path) -> None:
    method = METHODS["rcgrad"].build(clintox, METHODS["rcgrad"].config_type(), torch.Generator().manual_seed(0))
    file = data_root / "pretrained_gnn" / "chem" / "gcn_supervised_contextpred.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    ours = method.encoder.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(value, ours[key]) for key, value in state.items())

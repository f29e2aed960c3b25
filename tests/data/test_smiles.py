"""Molecules from SMILES; what RDKit makes of them is what the arrays hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.molecules import Molecules
from fastgmtl.data.smiles import scaffold_split

needs_rdkit = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('rdkit')", reason="needs RDKit")


def test_a_scaffold_is_in_one_split_and_the_commonest_are_in_train() -> None:
    scaffolds = ["a"] * 5 + ["b"] * 3 + ["c", "d"]
    assert scaffold_split(scaffolds).tolist() == [0] * 8 + [2, 1]  # of equally common ones the later ones first
    assert scaffold_split(["a"] * 10 + ["b"]).tolist() == [2] * 10 + [0]  # one that does not fit goes to test
    assert scaffold_split([]).tolist() == []


def test_without_rdkit_the_command_that_mends_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"some.csv holds SMILES, which RDKit reads; pip install 'fastgmtl\[molecu"):
        load(tmp_path / "some.csv")


@needs_rdkit
@pytest.mark.parametrize(("name", "file"), [("clintox", "clintox.csv"), ("esol", "delaney.csv")])
def test_smiles_are_what_the_arrays_hold(data_root: Path, name: str, file: str) -> None:
    ours, want = load(data_root / "moleculenet" / file), load(f"moleculenet:{name}")
    assert isinstance(ours, Molecules) and ours.motif.shape == (want.num_graphs, 85)
    assert torch.equal(ours.x, want.x) and torch.equal(ours.graph.edge_index(), want.graph.edge_index())
    assert ours.edge_type is not None and want.edge_type is not None and torch.equal(ours.edge_type, want.edge_type)
    for task, other in zip(ours.tasks.values(), want.tasks.values(), strict=True):
        torch.testing.assert_close(task.target, other.target, equal_nan=True)
        assert all(torch.equal(task.split[part], other.split[part]) for part in task.split)


@needs_rdkit
def test_molecules_without_a_code_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("smiles,toxic\nCCO,1\n*C,0\nnonsense,1\nC#N,\n")
    data = load(path)
    assert data.num_graphs == 2 and data.x[:, 0].tolist() == [5, 5, 7, 5, 6]
    assert data.tasks["some"].target.isnan().tolist() == [[False], [True]]
    path.write_text("smiles,toxic\nCCO,1\nC,high\n")
    with pytest.raises(ValueError, match=r"some.csv: line 3 holds 'high', which is not a number"):
        load(path)
    path.write_text("smiles,toxic\nCCO\n")
    with pytest.raises(ValueError, match=r"some.csv: line 2 holds 1 cells, the head 2"):
        load(path)

"""Molecules as arrays: what is read, what a batch holds, motifs, damaged files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.metrics import roc_auc
from fastgmtl.data.molecules import MOTIFS, Molecules, load_moleculenet, surroundings

# Ethanol C-C-O, carbon dioxide O=C=O, helium; then ethanol again, written from the other end.
ARRAYS = {
    "atom": np.array([[5, 0], [5, 1], [7, 0], [7, 0], [5, 0], [7, 0], [1, 2], [7, 0], [5, 0], [5, 0]], np.uint8),
    "bond": np.array([[0, 1], [1, 2], [0, 1], [1, 2], [0, 1], [1, 2]], np.uint8),
    "bond_attr": np.array([[0, 0], [0, 2], [1, 0], [1, 0], [0, 0], [0, 1]], np.uint8),
    "atom_ptr": np.array([0, 3, 6, 7, 10], np.int32),
    "bond_ptr": np.array([0, 2, 4, 4, 6], np.int32),
    "y": np.array([[1, 0], [np.nan, 1], [0, 0], [1, np.nan]], np.float32),
    "scaffold_split": np.array([0, 0, 1, 2], np.int8),
    "tasks": np.array(["one", "other"]),
}


def _write(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays = {key: value for key, value in (ARRAYS | changes).items() if value is not None}
    np.savez(folder / "tiny.npz", **arrays)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Molecules:
    return load_moleculenet(_write(tmp_path), "tiny")


def test_arrays_are_a_graph_with_both_directions_of_a_bond(tiny: Molecules) -> None:
    assert (tiny.name, tiny.num_graphs, tiny.num_nodes) == ("moleculenet:tiny", 4, 10)
    edges = [[0, 1], [1, 0], [1, 2], [2, 1], [3, 4], [4, 3], [4, 5], [5, 4], [7, 8], [8, 7], [8, 9], [9, 8]]
    assert tiny.graph.edge_index().t().tolist() == edges
    assert tiny.edge_type is not None and tiny.edge_type.tolist() == [0, 0, 2, 2, 3, 3, 3, 3, 0, 0, 1, 1]
    assert tiny.edge_type_names[2:4] == ("single down", "double")
    assert tiny.x.tolist() == ARRAYS["atom"].tolist()
    task = tiny.tasks["tiny"]
    assert (task.kind, task.num_outputs, task.metric) == ("multilabel", 2, "roc_auc")
    assert tiny.tasks.counts("train") == {"tiny": 3} and tiny.tasks.counts("test") == {"tiny": 1}


def test_a_batch_is_its_molecules_in_order(tiny: Molecules) -> None:
    batch = tiny.take(torch.tensor([3, 2, 0]))
    assert batch.node_graph is not None and batch.node_graph.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert batch.graph.edge_index().t().tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [4, 5], [5, 4], [5, 6], [6, 5]]
    assert batch.edge_type is not None and batch.edge_type.tolist() == [0, 0, 1, 1, 0, 0, 2, 2]
    assert batch.x.tolist() == [ARRAYS["atom"][i].tolist() for i in (7, 8, 9, 6, 0, 1, 2)]
    torch.testing.assert_close(batch.motif, tiny.motif[[3, 2, 0]])
    task = batch.tasks["tiny"]
    want = torch.tensor([[1, math.nan], [0, 0], [1, 0]])
    torch.testing.assert_close(task.target, want, equal_nan=True)
    assert [task.split[part].tolist() for part in ("train", "val", "test")] == [
        [False, False, True],
        [False, True, False],
        [True, False, False],
    ]
    nothing = tiny.take(torch.tensor([], dtype=torch.int64))
    assert (nothing.num_nodes, nothing.num_graphs, nothing.graph.num_edges) == (0, 0, 0)
    assert tiny.take(torch.tensor([2])).graph.num_edges == 0
    assert tiny.to("cpu").take(torch.tensor([0])).summary() == tiny.take(torch.tensor([0])).summary()


def test_motifs_are_surroundings_of_atoms(tiny: Molecules) -> None:
    """Train holds ethanol (C next to C; C between C and O; O next to C) and carbon dioxide (two kinds)."""
    assert tiny.motif.shape == (4, MOTIFS)
    assert tiny.motif.sum(0)[5:].sum() == 1  # helium's, which train does not hold, comes after all of train's
    assert tiny.motif[:, :5].sum(1).tolist() == [3, 2, 0, 3]
    assert torch.equal(tiny.motif[0], tiny.motif[3])  # however it is written, and whatever the directions of bonds
    assert (tiny.motif[0] * tiny.motif[1]).sum() == 0


def test_motifs_know_bonds_and_elements() -> None:
    """Two molecules of two atoms each, which differ in one thing, have no motif in common unless it is nothing."""
    edges, owner, train = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), torch.tensor([0, 0, 1, 1]), torch.ones(2) > 0

    def common(element: list[int], bond: list[int]) -> float:
        found = surroundings(torch.tensor(element), edges, torch.tensor(bond), owner, train)
        return float((found[0] * found[1]).sum())

    assert common([5, 7, 7, 5], [0, 0, 0, 0]) == 2
    assert common([5, 7, 5, 7], [0, 0, 1, 1]) == 0
    assert common([5, 7, 5, 8], [0, 0, 0, 0]) == 0
    assert common([5, 7, 6, 7], [0, 0, 0, 0]) == 0


def test_only_the_commonest_motifs_are_kept() -> None:
    """100 atoms of 100 elements, the first 30 in two molecules: those 30 are kept, and 55 of the others."""
    element = torch.cat((torch.arange(100), torch.arange(30)))
    owner = torch.cat((torch.arange(100), torch.arange(100, 130)))
    none = torch.zeros(2, 0, dtype=torch.int64)
    found = surroundings(element, none, none[0], owner, torch.ones(130) > 0)
    assert found.sum(0).tolist() == [2.0] * 30 + [1.0] * 55


@pytest.mark.parametrize(
    ("name", "split", "labels"),
    [
        ("bace", (1210, 151, 152), 1),
        ("bbbp", (1631, 204, 204), 1),
        ("clintox", (1181, 148, 148), 2),
        ("sider", (1141, 143, 143), 27),
        ("tox21", (6258, 782, 783), 12),
    ],
)
def test_moleculenet(data_root: Path, name: str, split: tuple[int, ...], labels: int) -> None:
    data = load(f"moleculenet:{name}")
    task = data.tasks[name]
    assert tuple(int(task.split[part].sum()) for part in ("train", "val", "test")) == split
    assert task.num_outputs == labels
    assert isinstance(data, Molecules) and data.motif.sum(0).min() > 0


def test_regression_sets_have_a_task_a_column(data_root: Path) -> None:
    data = load("moleculenet:esol")
    (task,) = data.tasks.values()
    assert (task.kind, task.level, task.metric, task.count("train")) == ("regression", "graph", "mae", 902)


def test_roc_auc_is_over_labelled_entries_and_labels_with_both_classes() -> None:
    score = torch.tensor([[0.1, 9.0, 1.0], [0.2, 0.0, 2.0], [0.3, 0.0, 3.0], [0.4, 0.0, 4.0]])
    truth = torch.tensor([[0.0, 1, math.nan], [math.nan, 1, 1], [1, 1, 0], [0, 1, 1]])
    assert roc_auc(score, truth) == pytest.approx((0.5 + 0.5) / 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y": None}, "array y is missing"),
        ({"atom": ARRAYS["atom"][:, :1]}, "atom must have 2 columns, got 1"),
        ({"atom_ptr": np.array([0, 3, 6, 7, 9])}, "atom_ptr must rise from 0 to 10 in 5 steps"),
        ({"atom_ptr": np.array([0, 3, 7, 7, 10])}, "a molecule has no atom"),
        ({"bond_ptr": np.array([0, 4, 2, 4, 6])}, "bond_ptr must rise from 0 to 6 in 5 steps"),
        ({"bond_attr": ARRAYS["bond_attr"][1:]}, "6 bonds but 5 bond_attr"),
        ({"bond": ARRAYS["bond"] + 1}, "a bond joins an atom that its molecule does not have"),
        ({"atom": ARRAYS["atom"] + np.uint8(119)}, "atoms must be in 0..118, got 124"),
        ({"bond_attr": ARRAYS["bond_attr"] + np.uint8(3)}, "bond types must be in 0..3, got 4"),
        ({"scaffold_split": np.array([0, 0, 3, 1])}, "scaffold_split must be in 0..2, got 3"),
        ({"scaffold_split": np.array([0, 0, 1])}, "scaffold_split must have 4 entries"),
        ({"tasks": np.array(["one"])}, "tasks must name the columns of y"),
    ],
)
def test_damaged_arrays_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(ValueError, match=rf"tiny.npz: {text}"):
        load_moleculenet(_write(tmp_path, **changes), "tiny")


def test_parts_that_do_not_fit_are_refused(tiny: Molecules) -> None:
    with pytest.raises(ValueError, match=r"motif must have shape \[4, 3\], got \[2, 3\]"):
        dataclasses.replace(tiny, motif=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="tasks must be about molecules, class_0 is node"):
        nodes = load("synthetic")
        dataclasses.replace(tiny, graph=nodes.graph, x=nodes.x, node_graph=None, edge_type=None, tasks=nodes.tasks)

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.pickles import read_pickle
from fastgmtl.data.planetoid import load_planetoid

# nodes, directed edges, classes, features, public split: the table of the data's SOURCE.md.
PUBLISHED = {
    "cora": (2708, 10556, 7, 1433, (140, 500, 1000)),
    "citeseer": (3327, 9104, 6, 3703, (120, 500, 1000)),
    "pubmed_nofeat": (19717, 88648, 3, 2, (60, 500, 1000)),
}


def raw_only(data_root: Path, folder: Path, name: str) -> Path:
    """A folder with nothing but the pickles of one set."""
    for path in (data_root / "planetoid").glob(f"ind.{name}.*"):
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_counts_of_the_published_sets(data_root, name):
    data = load_planetoid(data_root / "planetoid", name)
    nodes, edges, classes, features, split = PUBLISHED[name]
    assert (data.num_nodes, data.num_features) == (nodes, features)
    assert data.tasks["link"].target.shape[1] * 2 == edges
    assert data.tasks["node_class"].num_outputs == classes
    assert tuple(data.tasks["node_class"].count(s) for s in ("train", "val", "test")) == split


@pytest.mark.parametrize("name", ["cora", "citeseer"])
def test_pickles_and_arrays_hold_the_same(data_root, tmp_path, name):
    arrays = load_planetoid(data_root / "planetoid", name, seed=2)
    pickles = load(raw_only(data_root, tmp_path, name), seed=2)
    assert pickles.name == arrays.name
    assert torch.equal(pickles.x, arrays.x)
    assert torch.equal(pickles.graph.edge_index(), arrays.graph.edge_index())
    for task in ("node_class", "link"):
        assert torch.equal(pickles.tasks[task].target, arrays.tasks[task].target)
        for split in ("train", "val", "test"):
            assert torch.equal(pickles.tasks[task].split[split], arrays.tasks[task].split[split])
    assert int((arrays.tasks["node_class"].target < 0).sum()) == (15 if name == "citeseer" else 0)


@pytest.mark.parametrize("part", ["x", "tx", "allx", "ty", "ally", "graph", "test.index"])
def test_truncated_and_absent_pickles_are_named(data_root, tmp_path, part):
    folder = raw_only(data_root, tmp_path, "cora")
    path = folder / f"ind.cora.{part}"
    raw = path.read_bytes()
    for cut in (0, 1, len(raw) // 2 - (part == "test.index")):
        path.write_bytes(raw[:cut])
        with pytest.raises(ValueError, match=rf"ind\.cora\.{part}: "):
            load_planetoid(folder, "cora")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"ind\.cora\.{part}"):
        load_planetoid(folder, "cora")


@pytest.mark.parametrize("seed", range(30))
def test_changed_bytes_never_do_more_than_raise(data_root, tmp_path, seed):
    folder = raw_only(data_root, tmp_path, "cora")
    rng = np.random.default_rng(seed)
    part = ["x", "ally", "graph"][seed % 3]
    path = folder / f"ind.cora.{part}"
    raw = bytearray(path.read_bytes())
    for _ in range(20):
        # Most of a pickle is array bytes; its first 300 are where the names are.
        place = int(rng.integers(300 if seed % 2 else len(raw)))
        raw[place] = int(rng.integers(256))
    path.write_bytes(bytes(raw))
    try:
        load_planetoid(folder, "cora")
    except ValueError as error:
        assert str(folder) in str(error)


def test_nothing_in_a_pickle_is_obeyed(tmp_path, hostile):
    raw, mark = hostile
    path = tmp_path / "ind.x.graph"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"ind.x.graph: not a readable pickle of arrays \(.*open is not allowed\)"):
        read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system is not allowed"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval is not allowed"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load is not allowed"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "arrays of type 'O8' are not allowed"),
        (b"\x80\x02cscipy.sparse.csr\ncsr_matrix\n)\x81.", "indptr"),
        (b"I5\n.", "vars"),
    ],
)
def test_names_and_types_that_are_not_allowed(tmp_path, raw, text):
    path = tmp_path / "p"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{path}: not a readable pickle of arrays \(.*{text}"):
        read_pickle(path)


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    path = tmp_path / "p"
    # BUILD with a slot state on the class itself: sets DType.__setstate__ = list.
    path.write_bytes(
        b"\x80\x02cnumpy\ndtype\n(N}U\x0c__setstate__c__builtin__\nlist\nst\x86b.".replace(b"t\x86b", b"tb")
    )
    with pytest.raises(ValueError, match="not a readable pickle"):
        read_pickle(path)
    good = tmp_path / "good"
    good.write_bytes(pickle.dumps({1: [2]}))
    assert read_pickle(good) == {1: [2]}


def write(folder: Path, arrays: dict[str, np.ndarray], **changes: np.ndarray) -> Path:
    np.savez(folder / "ring.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
    return folder


def test_a_folder_with_one_npz(tmp_path, planetoid_arrays):
    data = load(write(tmp_path, planetoid_arrays))
    assert data.name == "planetoid:ring"
    assert data.x.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 0], [4, 0, 0], [0, 5, 0]]
    assert data.tasks.counts("test") == {"node_class": 2, "link": 2}
    assert data.tasks["node_class"].target.tolist() == [0, 1, 0, 1, -1, 1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y": None}, "array y is missing"),
        ({"y": np.full(6, -1)}, "array y holds no class"),
        ({"y": np.array([0, 1, 0, -2, 0, 0])}, "array y: classes must be in -1..5, got -2"),
        ({"y": np.zeros(6)}, "array y must have 1 dimensions and a dtype of kind 'iu', got float64"),
        ({"edge_index": np.array([[0], [6]])}, "array edge_index: nodes must be in 0..5, got 6"),
        ({"edge_index": np.zeros((3, 2), np.int64)}, r"array edge_index must be \[2, E\], got \[3, 2\]"),
        ({"train": np.array([0, 7])}, "array train: nodes must be in 0..5, got 7"),
        ({"val": np.array([0])}, "arrays train, val and test must be disjoint"),
        ({"x_shape": np.array([5, 3])}, "x: row pointers must rise from 0 to 5 in 6 steps"),
        ({"x_indices": np.array([0, 1, 3, 0, 1])}, "x: columns must be in 0..2, got 3"),
        ({"x_data": np.array([1, 2, np.inf, 1, 1])}, "x: a value is not finite"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, planetoid_arrays, changes, text):
    with pytest.raises(ValueError, match=rf"ring.npz: {text}"):
        load(write(tmp_path, planetoid_arrays, **changes))

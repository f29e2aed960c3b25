"""DBLP of StrucHIS and ACM of HeCo: the real ones by their published counts, small ones by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.dblp import load_dblp
from fastgmtl.data.heco_acm import load_heco_acm
from fastgmtl.data.hgb import read_hgb


def sparse(path: Path, dense: list[list[float]]) -> None:
    matrix = np.array(dense)
    row, col = matrix.nonzero()
    np.savez(path, format=b"coo", row=row, col=col, data=matrix[row, col], shape=matrix.shape)


@pytest.fixture
def dblp_folder(hgb_folder: Path) -> Path:
    sparse(hgb_folder / "author_feat.npz", [[1, 0, 2], [0, 0, 1]])
    sparse(hgb_folder / "paper_feat.npz", [[1], [0], [3]])
    np.savez(hgb_folder / "term_feat.npz", feat=np.array([[0.5, 1]]))
    write_split(hgb_folder)
    return hgb_folder


def write_split(folder: Path, **changes: np.ndarray) -> None:
    masks = {f"author_{part}": np.arange(2) == i for i, part in enumerate(("train", "val", "test"))}
    masks |= {f"paper_{part}": np.arange(3) == i for i, part in enumerate(("train", "val", "test"))}
    np.savez(folder / "split.npz", **(masks | changes))


def test_dblp_has_the_published_counts(data_root):
    data = load("dblp")
    graph = data.hetero
    assert dict(graph.num_nodes) == {"author": 4057, "paper": 14328, "term": 7723}
    assert sum(graph.num_edges.values()) == 229295 and len(graph.relations) == 6
    assert {t: graph.packed(t).num_relations for t in graph.node_types} == {"author": 2, "paper": 3, "term": 1}
    assert sum(graph.packed(t).graph.num_dst for t in graph.node_types) == 58821
    assert {t: x.shape[1] for t, x in data.features.items()} == {"author": 334, "paper": 4231, "term": 50}
    degrees = {r: int(torch.bincount(e[1]).max()) for r, e in graph.edge_index_dict().items()}
    assert degrees["paper", "to", "author"] == 168
    assert (degrees["term", "to", "paper"], degrees["paper", "to", "term"]) == (19, 1777)
    tasks = data.tasks
    assert [(t.name, t.node_type, t.num_outputs) for t in tasks.values()] == [
        ("author_area", "author", 4),
        ("paper_venue", "paper", 20),
    ]
    assert tasks["author_area"].target.bincount().tolist() == [1197, 745, 1109, 1006]
    assert [tasks["author_area"].count(s) for s in ("train", "val", "test")] == [974, 243, 2840]
    assert [tasks["paper_venue"].count(s) for s in ("train", "val", "test")] == [8596, 2866, 2866]
    assert int(tasks["paper_venue"].target.min()) == 0
    # Both directions are there, and no edge twice.
    edges = graph.edge_index_dict()
    for one, other in (
        (("author", "to", "paper"), ("paper", "to", "author")),
        (("paper", "to", "term"), ("term", "to", "paper")),
    ):
        pairs = {tuple(p) for p in edges[one].t().tolist()}
        assert len(pairs) == graph.num_edges[one]
        assert pairs == {(a, b) for b, a in edges[other].t().tolist()}


def test_a_small_dblp(dblp_folder):
    data = load(dblp_folder)
    assert data.name == "dblp" and data.node_types == ("author", "paper", "term")
    assert {r: e.tolist() for r, e in data.hetero.edge_index_dict().items()} == {
        ("author", "to", "paper"): [[0, 1], [0, 2]],
        ("paper", "to", "author"): [[2, 0], [1, 0]],
        ("paper", "has", "term"): [[1], [0]],
        ("paper", "cites", "paper"): [[], []],
        ("author", "self", "author"): [[0, 1], [0, 1]],
        ("paper", "self", "paper"): [[0, 1, 2], [0, 1, 2]],
    }
    assert data.tasks["author_area"].target.tolist() == [1, 0]
    assert data.tasks["paper_venue"].target.tolist() == [0, 1, 0]
    assert data.tasks.counts("train") == {"author_area": 1, "paper_venue": 1}
    dense = {t: x.to_dense().tolist() for t, x in data.features.items()}
    assert dense == {"author": [[1, 0, 2], [0, 0, 1]], "paper": [[1], [0], [3]], "term": [[0.5, 1]]}


def test_a_paper_without_venue_has_no_label(dblp_folder):
    path = dblp_folder / "link.dat"
    path.write_text(path.read_text().replace("3\t7\t3\t1.0\n", ""))
    assert load(dblp_folder).tasks["paper_venue"].target.tolist() == [0, -1, 0]
    path.write_text(path.read_text().replace("2\t6\t3", "4\t7\t3"))
    with pytest.raises(ValueError, match=rf"^{path}: a paper has two venues$"):
        load(dblp_folder)


def test_damaged_dblp_files_are_named(dblp_folder):
    def fails(name: str, text: str) -> None:
        with pytest.raises(ValueError, match=rf"^{dblp_folder / name}: {text}$"):
            load_dblp(dblp_folder)

    write_split(dblp_folder, paper_val=np.zeros(2, bool))
    fails("split.npz", "array paper_val must have 3 entries, got 2")
    write_split(dblp_folder)
    np.savez(dblp_folder / "term_feat.npz", feat=np.ones((2, 2)))
    fails("term_feat.npz", "1 rows are required, got 2")
    np.savez(dblp_folder / "term_feat.npz", feat=np.full((1, 2), np.inf))
    fails("term_feat.npz", "a value is not finite")
    np.savez(dblp_folder / "term_feat.npz", feat=np.ones((1, 2)))
    sparse(dblp_folder / "paper_feat.npz", [[1]])
    fails("paper_feat.npz", "3 rows are required, got 1")
    sparse(dblp_folder / "paper_feat.npz", [[1], [0], [3]])
    (dblp_folder / "label.dat").write_text("2\tx\t1\t0\n")
    fails("label.dat", "only authors have labels")
    (dblp_folder / "label.dat").write_text("0\tx\t0\t0,1\n")
    fails("label.dat", "an author has one class")
    info = (dblp_folder / "info.dat").read_text()
    (dblp_folder / "info.dat").write_text(info.replace("paper-venue", "paper-in-venue"))
    fails("info.dat", "the link type paper-venue is missing")
    (dblp_folder / "info.dat").write_text(info.replace('"venue"', '"journal"'))
    fails("info.dat", "node types must be author, paper, term and venue, venue is missing")


# ------------------------------------------------------------------------------------------------------------ ACM


@pytest.fixture
def acm_folder(tmp_path: Path) -> Path:
    (tmp_path / "pa.txt").write_text("0\t1\n1\t0\n2\t1\n")
    (tmp_path / "ps.txt").write_text("2\t0\n0\t3\n")
    np.save(tmp_path / "labels.npy", np.array([0.0, 2, 1]))
    sparse(tmp_path / "p_feat.npz", [[1, 0], [0, 0], [0, 1]])
    sparse(tmp_path / "a_feat.npz", [[1, 0], [0, 2]])
    return tmp_path


def test_heco_acm_has_the_published_counts(data_root):
    data = load("heco_acm")
    assert dict(data.hetero.num_nodes) == {"paper": 4019, "author": 7167}
    assert data.hetero.num_edges["paper", "to", "author"] == data.hetero.num_edges["author", "to", "paper"] == 13407
    assert {t: tuple(x.shape) for t, x in data.features.items()} == {"paper": (4019, 1902), "author": (7167, 1902)}
    assert data.tasks["paper_class"].target.bincount().tolist() == [1993, 965, 1061]
    subject = data.tasks["paper_subject"]
    assert subject.num_outputs == 60 and int(subject.target.min()) == 0
    assert [subject.count(s) for s in ("train", "val", "test")] == [2411, 803, 805]
    assert not torch.equal(load("heco_acm", seed=1).tasks["paper_class"].split["test"], subject.split["test"])


def test_a_small_acm(acm_folder):
    data = load(acm_folder)
    assert data.name == "heco_acm"
    assert {r: e.tolist() for r, e in data.hetero.edge_index_dict().items()} == {
        ("paper", "to", "author"): [[0, 1, 2], [1, 0, 1]],
        ("author", "to", "paper"): [[1, 0, 1], [0, 1, 2]],
        ("paper", "self", "paper"): [[0, 1, 2], [0, 1, 2]],
        ("author", "self", "author"): [[0, 1], [0, 1]],
    }
    assert data.tasks["paper_class"].target.tolist() == [0, 2, 1]
    assert data.tasks["paper_subject"].target.tolist() == [3, -1, 0]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("pa.txt", "0\t1\n3\t0\n", "papers must be in 0..2, got 3"),
        ("pa.txt", "0\t-1\n", "what they are joined to must be in 0..2147483647, got -1"),
        ("pa.txt", "0,1\n", "line 1 holds '0,1', which is not an integer of 64 bits"),
        ("pa.txt", "", "two numbers a line are required"),
        ("ps.txt", "0\t1\n0\t2\n", "a paper has two subjects"),
        ("labels.npy", "no array", r"not a readable npy file \(.+\)"),
    ],
)
def test_damaged_acm_files_are_named(acm_folder, name, text, error):
    (acm_folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"^{acm_folder / name}: {error}$"):
        load_heco_acm(acm_folder)


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.array([0.5]), np.zeros(0), np.array(["a"])])
def test_damaged_acm_classes_are_named(acm_folder, labels):
    np.save(acm_folder / "labels.npy", labels)
    with pytest.raises(ValueError, match=r"labels.npy: one whole number for each paper is required$"):
        load_heco_acm(acm_folder)


def test_changed_bytes_never_do_more_than_raise(data_root, tmp_path):
    rng = np.random.default_rng(0)
    real = data_root / "dblp_struchis"
    for name in ("info.dat", "meta.dat", "link.dat.gz", "label.dat", "split.npz", "author_feat.npz"):
        folder = tmp_path / name
        shutil.copytree(real, folder)
        raw = bytearray((folder / name).read_bytes())
        for place in rng.integers(len(raw), size=20):
            raw[place] = int(rng.integers(256))
        (folder / name).chmod(0o644)
        (folder / name).write_bytes(bytes(raw))
        try:
            load_dblp(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error)
    assert sum(read_hgb(real).graph.num_edges.values()) == 239566

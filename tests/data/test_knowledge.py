"""Knowledge graphs: both forms of files, questions and their known answers, and the shared data."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from fastgmtl.data import knowledge
from fastgmtl.data.knowledge import kg_names, load_kg

COUNTS = {
    "fb15k237": (14541, 237, 272115, 17535, 20466),
    "wn18rr": (40943, 11, 86835, 3034, 3134),
    "kinships": (104, 25, 8544, 1068, 1074),
    "nations": (14, 55, 1592, 199, 201),
    "umls": (135, 46, 5216, 652, 661),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTGMTL_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def by_names(root: Path) -> Path:
    folder = root / "kg_small" / "nations"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("b\tlikes\ta\na\tlikes\tc\n")
    (folder / "valid.txt").write_text("b\tlikes\tc\n")
    (folder / "test.txt").write_text("c\tfears\tb\n")
    return folder


@pytest.fixture
def by_ids(root: Path) -> Path:
    folder = root / "fb15k237"
    folder.mkdir()
    (folder / "entity2id.txt").write_text("3\nx\t0\ny\t1\nz\t2\n")
    (folder / "relation2id.txt").write_text("2\np\t0\nq\t1\n")
    (folder / "train2id.txt.gz").write_bytes(gzip.compress(b"2\n0 1 0\n1 2 1\n"))
    (folder / "valid2id.txt").write_text("1\n2 0 1\n")
    (folder / "test2id.txt").write_text("0\n")
    return folder


@pytest.mark.parametrize("name", COUNTS)
def test_real_data(name: str, data_root: Path) -> None:
    assert name in kg_names(), f"{knowledge.FOLDERS[name]} must be in the data roots"
    found = load_kg(name)
    sizes = [len(found.splits[split]) for split in ("train", "val", "test")]
    assert (found.num_entities, found.num_relations, *sizes) == COUNTS[name]
    assert found.graph.num_edges == 2 * sizes[0] and int(found.edge_type.max()) == 2 * found.num_relations - 1


def test_names_are_numbered_in_order(by_names: Path) -> None:
    found = load_kg("nations")
    assert (found.num_entities, found.num_relations) == (3, 2)  # a, b, c; fears, likes
    assert found.splits["train"].tolist() == [[1, 1, 0], [0, 1, 2]]
    assert found.splits["test"].tolist() == [[2, 0, 1]]
    assert kg_names() == ["nations"]


def test_ids_stand_as_head_relation_tail(by_ids: Path) -> None:
    found = load_kg("fb15k237")
    assert found.splits["train"].tolist() == [[0, 0, 1], [1, 1, 2]]
    assert found.splits["test"].shape == (0, 3)
    assert found.graph.edge_index().tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]]
    assert found.edge_type.tolist() == [0, 1, 2, 3]


def test_known_answers_are_those_of_all_splits(by_names: Path) -> None:
    found = load_kg("nations")
    source, relation, answer = found.queries("val")
    assert (source.tolist(), relation.tolist(), answer.tolist()) == ([1, 2], [1, 3], [2, 1])
    # b likes a (train) and c (val); c is liked by a (train) and b (val).
    assert found.known(source, relation).tolist() == [[True, False, True], [True, True, False]]
    assert found.known(source, relation, ("train",)).tolist() == [[True, False, False], [True, False, False]]
    nobody = found.known(torch.tensor([0]), torch.tensor([0]))
    assert nobody.shape == (1, 3) and not nobody.any()


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("valid2id.txt", "1\n2 0 2\n", "relations must be in 0..1, got 2"),
        ("valid2id.txt", "1\n3 0 1\n", "entities must be in 0..2, got 3"),
        ("valid2id.txt", "2\n2 0 1\n", "2 lines of three ids are required"),
        ("valid2id.txt", "1\n2 0\n", "1 lines of three ids are required"),
        ("valid2id.txt", "x\n2 0 1\n", "line 1 must be a count"),
        ("entity2id.txt", "", "line 1 must be a count"),
    ],
)
def test_damaged_ids(by_ids: Path, file: str, text: str, wrong: str) -> None:
    (by_ids / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}: .*{wrong}"):
        load_kg("fb15k237")


def test_damaged_names(by_names: Path) -> None:
    (by_names / "test.txt").write_text("c\tfears\tb\nc fears b\n")
    with pytest.raises(ValueError, match=r"test.txt: triple 2 must have three names"):
        load_kg("nations")


def test_unknown_and_absent(root: Path) -> None:
    with pytest.raises(ValueError, match=r"a knowledge graph is one of fb15k237, wn18rr, .* got 'fb15k'"):
        load_kg("fb15k")
    with pytest.raises(FileNotFoundError, match="umls"):
        load_kg("umls")

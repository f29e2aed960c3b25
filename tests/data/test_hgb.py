from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from fastgmtl import HeteroGraph
from fastgmtl.data import load
from fastgmtl.data.hgb import load_hgb, read_hgb, read_labels, write_hgb

WRITES, BY, HAS, AT = (
    ("author", "to", "paper"),
    ("paper", "to", "author"),
    ("paper", "has", "term"),
    ("paper", "to", "venue"),
)
CITES = ("paper", "cites", "paper")
NODES = "0\tA. One\t0\t1,0.5\n1\tB. Two\t0\t2,0\n2\tp\t1\n3\tp\t1\n4\tp\t1\n5\tgraphs\t2\t7\n6\tX\t3\n7\tY\t3\n"  # noqa: RUF100


def change(folder: Path, name: str, old: str, new: str) -> Path:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    return folder


def test_edges_and_weights(hgb_folder):
    graph, weight, features = read_hgb(hgb_folder)
    assert dict(graph.num_nodes) == {"author": 2, "paper": 3, "term": 1, "venue": 2}
    assert {r: e.tolist() for r, e in graph.edge_index_dict().items()} == {
        WRITES: [[0, 1], [0, 2]],
        BY: [[2, 0], [1, 0]],
        HAS: [[1], [0]],
        AT: [[0, 1, 2], [0, 1, 0]],
        CITES: [[], []],
    }
    assert {r: w.tolist() for r, w in weight.items()} == {
        WRITES: [1, 0.5],
        BY: [1, 1],
        HAS: [1],
        AT: [1, 1, 1],
        CITES: [],
    }
    assert features == {}
    assert all(w.dtype == torch.float32 for w in weight.values())


def test_gzipped_and_without_weights(hgb_folder):
    raw = (hgb_folder / "link.dat").read_text()
    (hgb_folder / "link.dat").unlink()
    lines = ["\t".join(line.split("\t")[:3]) for line in raw.splitlines()]
    (hgb_folder / "link.dat.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    hgb = read_hgb(hgb_folder)
    assert hgb.graph.num_edges[AT] == 3 and hgb.weight[WRITES].tolist() == [1, 1]
    (hgb_folder / "link.dat.gz").write_bytes(gzip.compress(b""))
    assert sum(read_hgb(hgb_folder).graph.num_edges.values()) == 0


def test_nodes_and_features_of_node_dat(hgb_folder):
    (hgb_folder / "meta.dat").unlink()
    (hgb_folder / "node.dat").write_text(NODES)
    hgb = read_hgb(hgb_folder)
    assert list(hgb.graph.num_nodes.values()) == [2, 3, 1, 2]
    assert {t: x.tolist() for t, x in hgb.features.items()} == {"author": [[1, 0.5], [2, 0]], "term": [[7]]}


def test_written_and_read(hgb_folder, tmp_path):
    first = read_hgb(hgb_folder)
    for weight in (first.weight, None):
        write_hgb(tmp_path, first.graph, weight)
        again = read_hgb(tmp_path)
        assert again.graph.num_nodes == first.graph.num_nodes and again.graph.relations == first.graph.relations
        for relation, e in first.graph.edge_index_dict().items():
            assert torch.equal(again.graph.edge_index_dict()[relation], e)
            want = torch.ones(e.shape[1]) if weight is None else weight[relation]
            assert torch.equal(again.weight[relation], want)
    empty = HeteroGraph.from_dict({("a", "x", "b"): torch.zeros(2, 0, dtype=torch.long)}, {"a": 0, "b": 1})
    write_hgb(tmp_path, empty)
    assert repr(read_hgb(tmp_path).graph) == repr(empty)


def test_labels(hgb_folder):
    graph = read_hgb(hgb_folder).graph
    found = read_labels(hgb_folder / "label.dat", graph)
    assert list(found) == ["author"]
    assert found["author"].nodes.tolist() == [0] and found["author"].classes == [(1,)]


def test_a_folder_is_a_data_set(hgb_folder):
    (hgb_folder / "label.dat").write_text("".join(f"{n}\tx\t{int(n > 1)}\t{n % 2}\n" for n in range(5)))
    (hgb_folder / "label.dat.test").write_text("")
    data = load(hgb_folder)
    assert data.name == "SMALL" and data.node_types == ("author", "paper", "term", "venue")
    assert {n: (t.kind, t.node_type, t.num_outputs, t.target.tolist()) for n, t in data.tasks.items()} == {
        "author_class": ("class", "author", 2, [0, 1]),
        "paper_class": ("class", "paper", 2, [0, 1, 0]),
    }
    # Of three papers the floor of 0.8 * 3 are for training, the floor of 0.2 * 3 for validation.
    assert data.tasks.counts("train") == {"author_class": 2, "paper_class": 3}
    assert data.rows(data.tasks["paper_class"]) == slice(2, 5)


def test_several_classes_are_labels(hgb_folder):
    (hgb_folder / "label.dat").write_text("0\tx\t0\t0,2\n")
    task = load_hgb(hgb_folder).tasks["author_labels"]
    assert task.target.tolist() == [[1, 0, 1], [1, 0, 0]] and task.kind == "multilabel"
    (hgb_folder / "label.dat.test").write_text("")
    task = load_hgb(hgb_folder).tasks["author_labels"]
    assert task.target[0].tolist() == [1, 0, 1] and bool(task.target[1].isnan().all())


def test_the_validation_nodes_are_drawn_by_the_seed(hgb_folder):
    info = json.loads((hgb_folder / "meta.dat").read_text()) | {"Node Type_3": "100"}
    (hgb_folder / "meta.dat").write_text(json.dumps(info))
    (hgb_folder / "label.dat").write_text("".join(f"{n}\tx\t3\t{n % 3}\n" for n in range(6, 86)))
    (hgb_folder / "label.dat.test").write_text("".join(f"{n}\tx\t3\t{n % 3}\n" for n in range(86, 106)))
    tasks = [load_hgb(hgb_folder, seed).tasks["venue_class"] for seed in (0, 0, 1)]
    assert [tasks[0].count(s) for s in ("train", "val", "test")] == [64, 16, 20]
    assert tasks[0].split["test"].nonzero().flatten().tolist() == list(range(80, 100))
    assert torch.equal(tasks[0].split["val"], tasks[1].split["val"])
    assert not torch.equal(tasks[0].split["val"], tasks[2].split["val"])


@pytest.mark.parametrize(
    ("name", "old", "new", "text"),
    [
        ("info.dat", "{", "", r"not readable as JSON \(.+\)"),
        ("info.dat", '"node type"', '"node"', r'"node.dat", "node type" must name the types by number \(.+\)'),
        ("info.dat", '"0": "author"', '"x": "author"', r'"node.dat", "node type" must name the types by number \(.+\)'),
        ("info.dat", '"0": "author"', '"9": "author"', r"node types must be 0..3, got \[9, 1, 2, 3\]"),
        ("info.dat", '"0": "author"', '"0": "paper"', "names of node types must differ"),
        ("info.dat", '"end": "3"', '"end": "4"', r'"link.dat", "link type" must have start, end and meaning .+'),
        ("info.dat", '"end": "3"', '"to": "3"', r'"link.dat", "link type" must have start, end and meaning .+'),
        ("meta.dat", "Node Type_1", "Node Type_8", r'"Node Type_k" must be the number of nodes of each type k \(.+\)'),
        ("meta.dat", '"3"', '"-3"', "numbers of nodes must not be negative"),
        ("link.dat", "0\t2\t0\t1.0", "0\t2\t0", "line 2 holds 4 numbers, the lines before it 3"),
        ("link.dat", "0\t2\t0\t1.0", "0\tx\t0\t1.0", "line 1 holds 'x', which is not a number"),
        ("link.dat", "1\t4\t0", "1\t4.5\t0", "line 2 holds a node or type that is no integer"),
        ("link.dat", "1\t4\t0", "1\t4\t9", "line 2 has a link type that info.dat lacks"),
        ("link.dat", "1\t4\t0", "2\t4\t0", r"link type 0: source nodes \(author\) must be in 0..1, got 2"),
        ("link.dat", "1\t4\t0", "1\t5\t0", r"link type 0: destination nodes \(paper\) must be in 2..4, got 5"),
    ],
)
def test_damaged_files_are_named(hgb_folder, name, old, new, text):
    change(hgb_folder, name, old, new)
    with pytest.raises(ValueError, match=rf"^{hgb_folder / name}: {text}$"):
        read_hgb(hgb_folder)


def test_a_meaning_that_does_not_fit_its_ends_is_the_name(hgb_folder):
    change(hgb_folder, "info.dat", '"paper-author"', '"author-paper"')
    assert read_hgb(hgb_folder).graph.relations[1] == ("paper", "author-paper", "author")


def test_two_link_types_of_one_name(hgb_folder):
    change(
        hgb_folder,
        "info.dat",
        '"start": "1", "end": "0", "meaning": "paper-author"',
        '"start": "0", "end": "1", "meaning": "author->paper"',
    )
    with pytest.raises(ValueError, match=r"info.dat: link types must differ in their ends or meaning$"):
        read_hgb(hgb_folder)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("1\tB", "2\tB", "line 2: nodes must be 0, 1, 2 and so on, got 2"),
        ("p\t1\n3", "p\t3\n3", r"line 4: types must be in info.dat and not fall, got 1"),
        ("Y\t3", "Y\t4", "line 8: types must be in info.dat and not fall, got 4"),
        ("Y\t3", "Y", "line 8 must be node, name, type and features, got 2 cells"),
        ("2,0", "2", "line 2: 2 features are required as before, got 1"),
        ("2,0", "2,z", "line 2: could not convert string to float: 'z'"),
        ("2,0", "2,inf", "line 2: a feature is not finite"),
        ("Y\t3", "Y\tt", r"line 8: invalid literal for int\(\) with base 10: 't'"),
    ],
)
def test_damaged_nodes_are_named(hgb_folder, old, new, text):
    (hgb_folder / "node.dat").write_text(NODES)
    change(hgb_folder, "node.dat", old, new)
    with pytest.raises(ValueError, match=rf"^{hgb_folder / 'node.dat'}: {text}$"):
        read_hgb(hgb_folder)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0\tx\t0", "line 1 must be node, name, type and classes, got 3 cells"),
        ("z\tx\t0\t1", r"line 1: invalid literal for int\(\) with base 10: 'z'"),
        ("0\tx\t4\t1", "line 1: node type 4 is unknown"),
        ("2\tx\t0\t1", "line 1: nodes of type author are 0..1, got 2"),
        ("0\tx\t0\t-1", "line 1: a class must not be negative, got -1"),
        ("0\tx\t0\t1\n0\tx\t0\t1", "a node of type author is there twice"),
    ],
)
def test_damaged_labels_are_named(hgb_folder, line, text):
    graph, path = read_hgb(hgb_folder).graph, hgb_folder / "label.dat"
    path.write_text(line)
    with pytest.raises(ValueError, match=rf"^{path}: {text}$"):
        read_labels(path, graph)


def test_a_node_that_is_for_training_and_testing(hgb_folder):
    change(hgb_folder, "label.dat.test", "1\tB. Two", "0\tB. Two")
    with pytest.raises(ValueError, match=r"label.dat.test: nodes must not be in label.dat as well, got 0$"):
        load(hgb_folder)


@pytest.mark.parametrize("name", ["info.dat", "link.dat", "label.dat.test", "meta.dat"])
def test_missing_files_are_named(hgb_folder, name):
    (hgb_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}"):
        load_hgb(hgb_folder)

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data import Task, load
from fastgmtl.data.debian import RELATIONS, SHIPPED, load_bookworm

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_debian.py"


def write(folder: Path, parts: dict[str, dict[str, np.ndarray]]) -> Path:
    for name, arrays in parts.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def test_the_shipped_set_is_small_quick_and_says_where_it_is_from():
    assert SHIPPED.stat().st_size < 1_000_000
    load("debian")
    begin = time.perf_counter()
    data = load("debian")
    assert time.perf_counter() - begin < 1
    assert (data.num_nodes, data.num_features, data.graph.num_edges) == (7300, 299, 58774)
    assert data.edge_type_names == RELATIONS
    assert "Debian 12" in data.source
    assert "licence" in data.source
    assert [(t.name, t.kind, t.num_outputs) for t in data.tasks.values()] == [
        ("section", "class", 11),
        ("tags", "multilabel", 38),
        ("installed_size", "regression", 1),
    ]
    with np.load(SHIPPED, allow_pickle=False) as file:
        assert (len(file["words"]), len(file["tag_names"]), len(file["section_classes"])) == (299, 38, 11)


def test_the_shipped_set_is_a_learning_problem():
    data = load("debian")
    tags, section, size = (data.tasks[name] for name in ("tags", "section", "installed_size"))
    untagged = tags.target.isnan().all(1)
    assert torch.equal(untagged, tags.target.isnan().any(1))
    assert 0.3 < float(untagged.float().mean()) < 0.4
    # Every tag is on at least 100 packages, and on some and not on others in each split: all 38 are scored.
    known = tags.target[~untagged]
    assert float(known.sum(0).min()) >= 100
    for split in ("train", "val", "test"):
        part = tags.target[tags.split[split] & ~untagged]
        assert bool(((part.sum(0) > 0) & (part.sum(0) < len(part))).all())
    # No class is more than a quarter, none is missing in any split.
    for split in ("train", "val", "test"):
        counts = section.target[section.split[split]].bincount(minlength=11)
        assert counts.min() > 20
        assert counts.max() < counts.sum() / 4
    train = size.target[size.split["train"]]
    train = train[~train.isnan()]
    assert abs(float(train.mean())) < 1e-3
    assert float(train.std()) == pytest.approx(1, abs=1e-3)
    # Nobody is alone, both directions are there, and there are no loops.
    assert int(data.graph.in_degree().min()) > 0
    edges = data.graph.edge_index()
    assert bool((edges[0] != edges[1]).all())
    key = (data.edge_type * 7300 + edges[0]) * 7300 + edges[1]
    back = (data.edge_type * 7300 + edges[1]) * 7300 + edges[0]
    assert torch.equal(key.sort().values, back.sort().values)
    assert torch.unique(key).numel() == key.numel()


def ridge(design: torch.Tensor, task: Task) -> float:
    """Test score of regularised least squares on the training labels."""
    target = task.target
    if task.kind == "class":
        target = torch.nn.functional.one_hot(target, task.num_outputs).float()
    rows = task.split["train"] & ~target.reshape(len(target), -1).isnan().any(1)
    a, b = design[rows], target[rows].reshape(int(rows.sum()), -1)
    middle = b.mean(0)
    weight = torch.linalg.solve(a.t() @ a + 5 * torch.eye(a.shape[1]), a.t() @ (b - middle))
    return task.score(design @ weight + middle, "test")


def test_words_say_something_and_neighbours_say_more():
    """A linear fit of each task scores well above chance on the words alone, and better with two hops of words."""
    data = load("debian")
    edges = data.graph.edge_index()
    degree = data.graph.in_degree()[:, None] + 1
    steps = [data.x]
    for _ in range(2):
        steps.append(steps[-1].index_add(0, edges[1], steps[-1][edges[0]]) / degree)
    words = {name: ridge(data.x, task) for name, task in data.tasks.items()}
    hops = {name: ridge(torch.cat(steps, 1), task) for name, task in data.tasks.items()}
    assert words["section"] > 0.5 and words["tags"] > 0.75 and words["installed_size"] > 0.15, words
    assert hops["section"] > words["section"] + 0.08, (words, hops)
    assert hops["tags"] > words["tags"] + 0.03, (words, hops)
    assert hops["installed_size"] > words["installed_size"] + 0.03, (words, hops)


def test_the_script_makes_the_shipped_file_byte_for_byte(data_root, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("build_debian", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / "debian.npz"
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(data_root / "debian_bookworm"), "--out", str(out)])
    script.main()
    assert "7,300 packages" in capsys.readouterr().out
    with np.load(out) as new, np.load(SHIPPED) as old:
        assert new.files == old.files
        for name in new.files:
            assert np.array_equal(new[name], old[name], equal_nan=new[name].dtype.kind == "f"), name
    first = out.read_bytes()
    script.main()
    assert out.read_bytes() == first


def test_counts_of_the_whole_archive(data_root):
    data = load_bookworm(data_root / "debian_bookworm")
    assert (data.num_nodes, data.num_features, data.num_graphs) == (63436, 881, 1)
    assert int(data.x.sum()) == 282049
    tasks = data.tasks
    assert (tasks["section"].num_outputs, tasks["tags"].num_outputs) == (58, 233)
    assert [tasks["section"].count(s) for s in ("train", "val", "test")] == [38222, 13028, 12186]
    assert sum(tasks["tags"].count(s) for s in ("train", "val", "test")) == 30300 * 233
    assert float(tasks["tags"].target.nansum()) == 105679
    # 126 packages do not say how large they are.
    assert int(tasks["installed_size"].target.isnan().sum()) == 126
    with np.load(data_root / "debian_bookworm" / "edges.npz") as file:
        table = torch.from_numpy(file["depends"]).long()
    table = table[:, table[0] != table[1]]
    low, high = table.min(0).values, table.max(0).values
    pairs = torch.unique(low * 63436 + high).numel()
    assert int((data.edge_type == RELATIONS.index("depends")).sum()) == 2 * pairs
    assert dict(data.hetero.num_nodes) == {"binary": 63436, "source": 34169, "virtual": 34689}
    assert sum(data.hetero.num_edges.values()) == 2 * 450880


def test_a_folder_of_four_packages(tmp_path, debian_parts):
    data = load(write(tmp_path, debian_parts))
    # depends: 0-1 both ways is one pair, 2-2 is a loop, 2-3; suggests: 0-1 again, parallel.
    assert data.graph.edge_index().t().tolist() == [[0, 1], [2, 3], [1, 0], [3, 2], [0, 1], [1, 0]]
    assert [RELATIONS[t] for t in data.edge_type.tolist()] == ["depends"] * 4 + ["suggests"] * 2
    tags = data.tasks["tags"].target
    assert tags[[0, 2, 3]].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert bool(tags[1].isnan().all())
    # Train sizes 1 and 3: mean 2, deviation 1.
    size = data.tasks["installed_size"].target
    assert size[[0, 1, 3]].tolist() == [-1, 1, 3]
    assert bool(size[2].isnan())
    assert data.tasks.counts("train") == {"section": 2, "tags": 3, "installed_size": 2}
    assert data.tasks.counts("val") == {"section": 0, "tags": 3, "installed_size": 0}


def test_the_typed_graph_of_four_packages(tmp_path, debian_parts):
    data = load(write(tmp_path, debian_parts))
    graph = data.hetero
    assert dict(graph.num_nodes) == {"binary": 4, "source": 3, "virtual": 2}
    assert data.node_types == ("binary",) and list(data.features) == ["binary"]
    edges = {r: e.tolist() for r, e in graph.edge_index_dict().items() if e.numel()}
    assert edges == {
        ("binary", "depends", "binary"): [[0, 1, 2, 2], [1, 0, 2, 3]],
        ("binary", "suggests", "binary"): [[0], [1]],
        ("binary", "provides", "virtual"): [[3, 1], [0, 1]],
        ("binary", "from_source", "source"): [[0, 1, 2, 3], [0, 0, 2, 1]],
        ("binary", "rev_depends", "binary"): [[1, 0, 2, 3], [0, 1, 2, 2]],
        ("binary", "rev_suggests", "binary"): [[1], [0]],
        ("virtual", "rev_provides", "binary"): [[0, 1], [3, 1]],
        ("source", "rev_from_source", "binary"): [[0, 0, 2, 1], [0, 1, 2, 3]],
    }
    assert {task.node_type for task in data.tasks.values()} == {"binary"}
    assert data.rows(data.tasks["section"]) == slice(0, 4)


def test_the_shipped_typed_graph():
    graph = load("debian").hetero
    assert dict(graph.num_nodes) == {"binary": 7300, "source": 4793, "virtual": 838}
    forward = {r: n for r, n in graph.num_edges.items() if not r[1].startswith("rev_")}
    assert len(forward) == 19 and len(graph.relations) == 38
    assert sum(forward.values()) == 40781
    # Nobody is alone: every source and virtual package was met, every package has a source.
    assert int(graph.to_homogeneous().graph.in_degree().min()) > 0
    assert graph.packed("binary").num_relations == 28


@pytest.mark.parametrize(
    ("file", "name", "value", "text"),
    [
        ("edges", "from_source", np.array([[4], [0]]), "array from_source: packages must be in 0..3, got 4"),
        ("edges", "from_source", np.array([[0], [-1]]), "array from_source: packages must be in 0..2147483647, got -1"),
        ("edges", "breaks__virtual", np.zeros((1, 2), int), r"array breaks__virtual must be \[2, E\], got \[1, 2\]"),
        ("edges", "depends", np.array([[0], [4]]), "array depends: packages must be in 0..3, got 4"),
        ("edges", "depends", np.array([[0], [1], [2]]), r"array depends must be \[2, E\], got \[3, 1\]"),
        ("edges", "depends", np.zeros((2, 1)), "array depends must have 2 dimensions and a dtype of kind 'iu'"),
        ("features", "x_indices", np.array([0, 5, 0]), "x: columns must be in 0..1, got 5"),
        ("tasks", "section", np.array([0, 1, 2, 0]), "array section must be in -1..1, got 2"),
        ("tasks", "section", np.array([0, 1]), "array section must have 4 entries, got 2"),
        ("tasks", "split", np.array([0, 1, 2, 3]), "array split must be in 0..2, got 3"),
        ("tasks", "tag_shape", np.array([3, 3]), "tags: row pointers must rise"),
        ("tasks", "tagged", np.ones(4), "array tagged must have 1 dimensions and a dtype of kind 'b'"),
        ("tasks", "log_installed_kib", np.array([1, np.inf, 1, 1]), "array log_installed_kib: a value is infinite"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, debian_parts, file, name, value, text):
    debian_parts[file][name] = value
    with pytest.raises(ValueError, match=rf"{file}.npz: {text}"):
        load(write(tmp_path, debian_parts))


def test_a_missing_array_is_named(tmp_path, debian_parts):
    del debian_parts["tasks"]["tagged"]
    with pytest.raises(ValueError, match=r"tasks.npz: array tagged is missing"):
        load(write(tmp_path, debian_parts))

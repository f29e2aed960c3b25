from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgmtl.data import Dataset, Task, TaskSet, files, load, names
from fastgmtl.graph import Graph
from fastgmtl.hetero import HeteroGraph

SHIPPED = ["debian", "synthetic", "scm:S1", "scm:S2", "scm:S3", "scm:S4"]


@pytest.fixture
def empty_root(tmp_path, monkeypatch) -> Path:
    """A data root without data."""
    root = tmp_path / "nothing"
    root.mkdir()
    monkeypatch.setenv("FASTGMTL_DATA", str(root))
    return root


def test_names_lists_what_load_takes(data_root):
    found = names()
    assert found[:6] == SHIPPED
    assert {
        "debian_bookworm",
        "dblp",
        "heco_acm",
        "planetoid:cora",
        "planetoid:citeseer",
        "tu:ENZYMES",
        "tu:PROTEINS_full",
    } <= set(found)
    assert load("tu:ENZYMES").num_graphs == 600
    assert load("planetoid:cora").num_nodes == 2708


def test_without_data_only_what_ships_is_named(empty_root):
    assert names() == SHIPPED
    assert load("debian").num_nodes == 7300


@pytest.mark.parametrize("name", ["debian_bookworm", "dblp", "heco_acm", "tu:ENZYMES", "planetoid:cora"])
def test_absent_data_says_what_was_looked_for_and_what_to_set(empty_root, name):
    folder = empty_root / {"dblp": "dblp_struchis"}.get(name, name.partition(":")[0])
    with pytest.raises(FileNotFoundError, match=f"folder {folder} does not exist; set FASTGMTL_DATA to the folder"):
        load(name)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("debain", "debian"), ("Debian", "debian"), ("sinthetic", "synthetic"), ("debian-bookworm", "debian")],
)
def test_unknown_names_list_the_nearest(empty_root, wrong, right):
    with pytest.raises(ValueError, match=f"data: '{wrong}' is no data set; did you mean {right}"):
        load(wrong)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ENZYMES", "tu:ENZYMES"),
        ("enzyme", "tu:ENZYMES"),
        ("tu:ENZYME", "tu:ENZYMES"),
        ("tu:proteins-full", "tu:PROTEINS_full"),
        ("planetoid:Cora", "planetoid:cora"),
        ("cora", "planetoid:cora"),
        ("planetoid:citeser", "planetoid:citeseer"),
    ],
)
def test_unknown_members_list_the_nearest(data_root, wrong, right):
    with pytest.raises(ValueError, match=f"did you mean {right}"):
        load(wrong)


def test_a_name_like_nothing_lists_all(empty_root):
    with pytest.raises(ValueError, match=rf"'zzz' is no data set; known here: {', '.join(SHIPPED)}, or a folder"):
        load("zzz")


def test_members_that_are_not_there_say_where_they_were_looked_for(tu_folder, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(tu_folder, root / "tu" / "TINY")
    monkeypatch.setenv("FASTGMTL_DATA", str(root))
    assert names() == [*SHIPPED, "tu:TINY"]
    assert load("tu:TINY").num_graphs == 2
    with pytest.raises(ValueError, match=rf"looked for in {root / 'tu'}, FASTGMTL_DATA names another place"):
        load("tu:MUTAG")


def test_folders(tmp_path, tu_folder):
    with pytest.raises(FileNotFoundError, match=f"data: folder {tmp_path}/none does not exist"):
        load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder none does not exist"):
        load("./none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty holds no data set; required is NAME_A.txt"):
        load(empty)
    (tu_folder / "OTHER_A.txt").write_text("1, 2\n")
    with pytest.raises(ValueError, match="must hold one data set, got OTHER, TINY"):
        load(tu_folder)


def test_a_folder_in_the_current_folder_needs_no_slash(tu_folder, monkeypatch):
    monkeypatch.chdir(tu_folder.parent)
    assert load("TINY").num_graphs == 2


def test_the_data_root_is_beside_the_checkout_unless_set(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTGMTL_DATA", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    beside = Path(files.__file__).resolve().parents[3] / "shared" / "data"
    assert files.data_roots() == [beside, tmp_path / "shared" / "data"]
    monkeypatch.setenv("FASTGMTL_DATA", "/some/where")
    assert files.data_roots() == [Path("/some/where")]


def test_absent_data_skips_or_fails_as_asked(tmp_path):
    """The fixture data_root: a skip with a reason, a failure under FASTGMTL_REQUIRE_DATA=1."""
    target = f"{Path(__file__).with_name('test_tu.py')}::test_enzymes_as_same_has_it"
    for require, code, word in (("0", 0, "1 skipped"), ("1", 1, "1 error")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", target],
            cwd=Path(__file__).parents[2],
            env={**_env(), "FASTGMTL_DATA": str(tmp_path / "gone"), "FASTGMTL_REQUIRE_DATA": require},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert word in done.stdout
        assert f"looked for {tmp_path}/gone" in done.stdout


def _env() -> dict[str, str]:
    import os

    return dict(os.environ)


def tiny(**changes: object) -> Dataset:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3, 3)
    return Dataset(**({"name": "d", "graph": graph, "x": torch.zeros(3, 2), "tasks": TaskSet([])} | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x": torch.zeros(4, 2)}, r"x must have shape \[3, 2\], got \[4, 2\]"),
        ({"x": torch.zeros(3)}, r"x must have shape \[3, 3\], got \[3\]"),
        ({"node_graph": torch.zeros(2)}, r"node_graph must have shape \[3\], got \[2\]"),
        ({"edge_type": torch.zeros(3)}, r"edge_type must have shape \[2\], got \[3\]"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, text):
    with pytest.raises(ValueError, match=f"data set d: {text}"):
        tiny(**changes)


def typed(**changes: object) -> Dataset:
    hetero = HeteroGraph.from_dict({("a", "x", "b"): torch.tensor([[0, 1], [2, 0]])}, {"a": 2, "b": 3})
    split = {part: torch.zeros(3, dtype=torch.bool) for part in ("train", "val", "test")}
    task = Task("t", "class", "node", torch.zeros(3, dtype=torch.long), split, "accuracy", "b", 1)
    data = Dataset.from_hetero("d", hetero, {"a": torch.ones(2, 7)}, TaskSet([task]), "nowhere")
    return dataclasses.replace(data, **changes)


def test_typed_data_have_a_plain_form():
    data = typed()
    assert data.graph.edge_index().tolist() == [[0, 1], [4, 2]]
    assert data.edge_type.tolist() == [0, 0] and data.edge_type_names == ("a x b",)
    log2 = math.log(2)
    want = [[1, 0, 1, 0], [1, 0, 1, 0], [1, log2, 0, 1], [1, 0, 0, 1], [1, log2, 0, 1]]
    torch.testing.assert_close(data.x, torch.tensor(want))
    assert data.rows(data.tasks["t"]) == slice(2, 5)
    assert data.summary().splitlines()[1] == "node types: 2 a (7 features), 3 b (no features); 2 edges of 1 relations"
    there = data.to("cpu")
    assert there.hetero is data.hetero and there.node_types == ("a", "b")
    assert torch.equal(there.features["a"], data.features["a"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"features": {"a": torch.ones(3, 7)}}, r"features of a must have shape \[2, 7\], got \[3, 7\]"),
        ({"features": {"c": torch.ones(3, 7)}}, "features must be of node types a, b, got c"),
        ({"node_types": ("c",)}, "node_types must be of node types a, b, got c"),
        ({"node_types": ("a",)}, "graph must have the 2 nodes of its node_types, got 5"),
        ({"tasks": load("debian").tasks}, "tasks must be of node types a, b, got binary"),
    ],
)
def test_types_that_do_not_fit_together_are_refused(changes, text):
    with pytest.raises(ValueError, match=f"^data set d: {text}$"):
        typed(**changes)


def test_targets_are_for_the_nodes_of_the_task_s_type():
    data = typed()
    with pytest.raises(ValueError, match=r"^data set d: target of task t must have shape \[2\], got \[3\]$"):
        typed(tasks=TaskSet([dataclasses.replace(data.tasks["t"], node_type="a")]))
    only_a = typed(
        node_types=("a",),
        graph=Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.long), 2),
        x=torch.zeros(2, 1),
        edge_type=None,
    )
    with pytest.raises(ValueError, match=r"^data set d: the graph without types has nodes of a, task t is about b$"):
        only_a.rows(only_a.tasks["t"])


def test_tasks_must_fit_the_graph():
    data = load("synthetic")
    with pytest.raises(ValueError, match=r"target of task class_0 must have shape \[3\], got \[2000\]"):
        tiny(tasks=data.tasks)


def test_to_moves_everything(tu_folder):
    """On the meta device nothing has values, so what was left behind would show."""
    data = load(tu_folder)
    there = data.to("cpu")
    assert there.summary() == data.summary()
    assert {f.name for f in dataclasses.fields(there)} == {f.name for f in dataclasses.fields(data)}
    assert torch.equal(there.node_graph, data.node_graph)
    assert there.tasks["link"].negatives("test").device == data.x.device


@pytest.mark.cuda
def test_a_cpu_generator_draws_the_same_negatives_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    edges = torch.randint(50, (2, 200), generator=torch.Generator().manual_seed(0))
    from fastgmtl.data.splits import link_task

    task, _ = link_task(edges, 50, seed=0)
    drawn = [t.negatives("train", torch.Generator().manual_seed(1)) for t in (task, task.to("cuda"))]
    assert drawn[1].is_cuda
    assert torch.equal(drawn[0], drawn[1].cpu())
    for split in ("train", "test"):
        scores = [torch.linspace(-1, 1, n.shape[1]) for n in (task.positives(split), task.negatives(split))]
        ours = task.loss((scores[0], scores[1]), split)
        theirs = task.to("cuda").loss((scores[0].cuda(), scores[1].cuda()), split)
        torch.testing.assert_close(ours[0], theirs[0].cpu())

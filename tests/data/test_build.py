from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgmtl import Graph
from fastgmtl.data import build as module
from fastgmtl.data import external_sort, load, node_arrays, store
from fastgmtl.data.build import build
from fastgmtl.data.store import open_stored

NODES = 2500
FILES = ("graph.json", "row_ptr.npy", "col.npy", "edge_id.npy", "x.npy", "split.npy", "label0.npy", "label1.npy")


def _edges(count: int = 3000) -> np.ndarray:
    """Some rows have none, and one more edges than are read at a time here."""
    draw = np.random.default_rng(0)
    found = draw.integers(0, NODES, (2, count))
    found[1, draw.random(count) < 0.3] = 2100
    return found


@pytest.fixture
def given_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a build with everything in it, 400 edges and 256 rows at a time."""
    monkeypatch.setattr(module, "MOST_EDGES", 400)
    monkeypatch.setattr(external_sort, "GROUP", 256)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a process that is killed loses nothing that it has written
    draw, files = np.random.default_rng(1), tmp_path / "files"
    files.mkdir()
    edges = _edges()
    np.savetxt(files / "a.txt", edges[:, :1300].T, fmt="%d")
    np.save(files / "b.npy", edges[:, 1300:])
    np.save(files / "x.npy", draw.normal(size=(NODES, 3)))
    np.save(files / "class.npy", draw.integers(-1, 4, NODES).astype(np.int16))
    np.save(files / "number.npy", draw.normal(size=NODES))
    np.save(files / "split.npy", draw.integers(-1, 3, NODES))
    return {
        "edges": [files / "a.txt", files / "b.npy"],
        "features": files / "x.npy",
        "labels": {"topic": files / "class.npy", "price": files / "number.npy"},
        "split": files / "split.npy",
        "dtype": "bfloat16",
        "edge_ids": True,
    }


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """What a process that is killed does not get to handle."""


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, stop: Callable[[int], None]) -> Iterator[list[int]]:
    """``stop(k)`` is called in the middle of the k-th step towards the disk: a write that is half done, a rename."""
    seen = [0]
    put, replace = store.put, os.replace

    def step() -> None:
        seen[0] += 1
        stop(seen[0])

    def half(file: Any, data: Any) -> None:
        raw = bytes(np.ascontiguousarray(data).data.cast("B")) if isinstance(data, np.ndarray) and data.size else data
        file.write(raw[: len(raw) // 2])
        file.flush()
        step()
        file.seek(-(len(raw) // 2), 1)
        put(file, data)

    def renamed(*paths: Any) -> None:
        step()
        replace(*paths)
        step()

    with monkeypatch.context() as patch:
        for place in (module, external_sort, node_arrays):
            patch.setattr(place, "put", half)
        patch.setattr(os, "replace", renamed)
        yield seen


def _raise_at(at: int, error: BaseException) -> Callable[[int], None]:
    def stop(seen: int) -> None:
        if seen == at:
            raise error

    return stop


@pytest.fixture
def whole(given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], int]:
    """The files of a build that was not disturbed, and how many steps it has."""
    with stopped(monkeypatch, lambda _: None) as seen:
        folder = build(**given_files, out=tmp_path / "whole")
    assert sorted(_bytes(folder)) == sorted(FILES) and seen[0] > 150
    return _bytes(folder), seen[0]


def test_a_build_goes_on_wherever_it_was_killed(
    whole: tuple[dict[str, bytes], int], given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, steps = whole
    for at in random.Random(0).sample(range(1, steps + 1), 40):
        out = tmp_path / f"at{at}"
        with pytest.raises(Killed), stopped(monkeypatch, _raise_at(at, Killed())):
            build(**given_files, out=out)
        # The last step is after the folder got its name.
        assert out.exists() == (at == steps)
        if not out.exists():
            build(**given_files, out=out)
        assert {name: raw for name, raw in _bytes(out).items() if name != module.JOURNAL} == files, at
        assert not (tmp_path / f"at{at}.part").exists()


def test_a_build_that_is_killed_again_and_again_comes_to_its_end(
    whole: tuple[dict[str, bytes], int], given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, out, kills, (files, steps) = random.Random(1), tmp_path / "out", 0, whole
    while not out.exists():
        # Enough for the longest thing that is not gone on with: a bucket.
        with stopped(monkeypatch, _raise_at(draw.randrange(steps // 2, steps), Killed())):
            try:
                build(**given_files, out=out)
            except Killed:
                kills += 1
    assert kills >= 1 and _bytes(out) == files


def test_killed_processes(whole: tuple[dict[str, bytes], int], given_files: dict[str, Any], tmp_path: Path) -> None:
    """One process imports everything and forks those that are killed, by a signal that cannot be handled."""
    files, steps = whole
    program = """
        import os, signal, sys
        from fastgmtl.data import build as module, external_sort, node_arrays, store
        module.MOST_EDGES, external_sort.GROUP, os.fsync = 400, 256, lambda _: None
        (a, b, x, c, n, s, out), points = sys.argv[1:8], [int(at) for at in sys.argv[8:]]
        put = store.put

        def build(at):
            left = at

            def killing(file, data):
                nonlocal left
                left -= 1
                put(file, data)
                if not left:
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

            for place in (module, external_sort, node_arrays):
                place.put = killing
            labels = {"topic": c, "price": n}
            module.build([a, b], out + str(at), features=x, labels=labels, split=s, dtype="bfloat16", edge_ids=True)

        for at in points:
            child = os.fork()
            if not child:
                build(at)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    """
    names = ("a.txt", "b.npy", "x.npy", "class.npy", "number.npy", "split.npy")
    paths = [str(tmp_path / "files" / name) for name in names]
    points = random.Random(2).sample(range(1, steps - 60), 10)
    words = [sys.executable, "-c", textwrap.dedent(program), *paths, str(tmp_path / "killed"), *map(str, points)]
    subprocess.run(words, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for at in points:
        out = tmp_path / f"killed{at}"
        assert not out.exists() and (tmp_path / f"killed{at}.part").exists()
        assert _bytes(build(**given_files, out=out)) == files


def test_what_is_finished_is_not_done_again(
    given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(name: str) -> list[int]:
        calls, real = [0], getattr(module, name)

        def counting(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == 5:
                raise Killed
            return real(*args)

        monkeypatch.setattr(module, name, counting)
        return calls

    runs, out = count("write_run"), tmp_path / "out"
    with pytest.raises(Killed):
        build(**given_files, out=out)
    build(**given_files, out=out)
    total = len(list(module.read_edges(given_files["edges"][0], 0, 400))) + 5
    assert runs[0] == total + 1


def test_an_array_that_is_finished_is_not_copied_again(
    given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop(_: int) -> None:
        if (tmp_path / "out.part" / "label0.npy").exists():
            raise Killed

    with pytest.raises(Killed), stopped(monkeypatch, stop):
        build(**given_files, out=out)
    before = (tmp_path / "out.part" / "x.npy").stat().st_ino
    assert (build(**given_files, out=out) / "x.npy").stat().st_ino == before


def test_many_runs_and_buckets_are_the_graph_of_the_edge_index(given_files: dict[str, Any], tmp_path: Path) -> None:
    graph = open_stored(build(**given_files, out=tmp_path / "out")).graph
    same = Graph.from_edge_index(torch.from_numpy(_edges()), NODES, NODES)
    for one, other in zip(graph.pattern[:3], same.pattern[:3], strict=True):
        assert torch.equal(one, other)  # type: ignore[arg-type]


def test_a_full_disk_is_explained_and_loses_nothing(
    whole: tuple[dict[str, bytes], int], given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, steps = whole
    for at in random.Random(3).sample(range(1, steps), 8):
        out = tmp_path / f"full{at}"
        full = OSError(errno.ENOSPC, "No space left on device")
        message = r"the disk of .*full\d+\.part is full; what is built so far is kept there: make room and do the same"
        with pytest.raises(OSError, match=message) as error, stopped(monkeypatch, _raise_at(at, full)):
            build(**given_files, out=out)
        assert error.value.errno == errno.ENOSPC
        assert _bytes(build(**given_files, out=out)) == files


@settings(max_examples=40)
@given(
    edges=st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 2500)), max_size=60),
    at_once=st.integers(1, 30),
    extra=st.integers(0, 3000),
    ids=st.booleans(),
)
def test_it_is_the_graph_of_the_edge_index(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]], at_once: int, extra: int, ids: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    index = np.array(edges, np.int64).reshape(-1, 2).T
    np.save(folder / "edges.npy", index)
    nodes = int(index.max(initial=-1)) + 1 + extra
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_EDGES", at_once)
        patch.setattr(os, "fsync", lambda _: None)
        out = build(folder / "edges.npy", folder / "g", num_nodes=nodes if extra else None, edge_ids=ids)
    graph, same = open_stored(out, verify=True).graph, Graph.from_edge_index(torch.from_numpy(index), nodes, nodes)
    assert torch.equal(graph.row_ptr, same.row_ptr) and torch.equal(graph.col, same.col)
    assert graph.num_src == nodes and (graph.edge_id is not None) == ids
    if ids:
        order = torch.arange(len(edges)) if same.edge_id is None else same.edge_id
        assert torch.equal(graph.edge_id.long(), order.long())


def test_more_nodes_than_int32_counts(tmp_path: Path) -> None:
    """Columns are int64 then; a graph so large is not opened whole here."""
    np.save(tmp_path / "edges.npy", np.array([[3_000_000_000, 5], [0, 1]]))
    with pytest.raises(ValueError, match="give the number of nodes where they are more than"):
        build(tmp_path / "edges.npy", tmp_path / "g")
    src, dst = torch.tensor([3_000_000_000, 5, 7]), torch.tensor([1, 0, 1])
    groups = external_sort.write_run(tmp_path / "run", src, dst, True)
    run = external_sort.Run(tmp_path / "run", 3, groups, 10, np.dtype(np.int64), True)
    row_ptr, col, ids = external_sort.Bucket([run], [(0, 3)], 0, 2, 3_000_000_001).sort()
    assert row_ptr.tolist() == [0, 1, 3] and col.tolist() == [5, 3_000_000_000, 7] and ids.tolist() == [11, 10, 12]


def test_memory_stays_below_the_bound(tmp_path: Path) -> None:
    np.save(tmp_path / "edges.npy", np.random.default_rng(0).integers(0, 10**5, (2, 2_000_000)))
    np.save(tmp_path / "x.npy", np.zeros((10**5, 64), np.float32))
    program = """
        import re, sys
        from pathlib import Path
        import numpy as np
        from fastgmtl.data.build import build
        def peak():  # of this program alone: getrusage knows that of the one that started it too
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
        np.save(sys.argv[1] + "/few.npy", np.zeros((2, 5), int))
        build(sys.argv[1] + "/few.npy", sys.argv[1] + "/few")
        before = peak()
        build(sys.argv[1] + "/edges.npy", sys.argv[1] + "/g", features=sys.argv[1] + "/x.npy", memory=48 << 20)
        print(peak() - before)
    """
    words = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert grown < 48 << 20


def test_it_is_a_data_set(given_files: dict[str, Any], tmp_path: Path) -> None:
    folder = build(**given_files, out=tmp_path / "g", source="drawn here, CC0")
    for data in (load(f"stored:{folder}"), load(folder)):
        assert data.name == "g" and data.source == "drawn here, CC0" and data.x.dtype == torch.bfloat16
        split = np.load(given_files["split"])
        topic, price = data.tasks["topic"], data.tasks["price"]
        assert (topic.kind, topic.num_outputs, topic.metric) == ("class", 4, "accuracy")
        assert (price.kind, price.metric) == ("regression", "r2")
        assert np.array_equal(topic.target, np.load(given_files["labels"]["topic"]))
        assert np.array_equal(price.target, np.load(given_files["labels"]["price"]).astype(np.float32))
        assert [int(topic.split[s].sum()) for s in ("train", "val", "test")] == [
            int((split == k).sum()) for k in range(3)
        ]


def test_without_features_and_split(tmp_path: Path) -> None:
    np.save(tmp_path / "edges.npy", _edges())
    labels = np.random.default_rng(0).choice([0, 1, np.nan], (NODES, 3))
    np.save(tmp_path / "labels.npy", labels)
    build(tmp_path / "edges.npy", tmp_path / "g", labels={"tags": tmp_path / "labels.npy"})
    data, other = load(f"stored:{tmp_path / 'g'}"), load(f"stored:{tmp_path / 'g'}", seed=1)
    task = data.tasks["tags"]
    assert (task.kind, task.num_outputs) == ("multilabel", 3) and task.count("train") > 0
    assert not torch.equal(task.split["train"], other.tasks["tags"].split["train"])
    assert list(data.x.shape) == [NODES, 2] and data.num_nodes == NODES


def test_what_is_there_is_left_alone(given_files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build(**given_files, out=tmp_path / "out")  # an empty folder is as good as none
    before = _bytes(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"out: exists; remove it, or build into another folder"):
        build(**given_files, out=tmp_path / "out")
    assert _bytes(tmp_path / "out") == before


def test_the_beginning_of_another_build_is_left_alone(
    given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed), stopped(monkeypatch, _raise_at(30, Killed())):
        build(**given_files, out=out)
    with pytest.raises(ValueError, match=r"out\.part holds the beginning of another build \(dtype differ\)"):
        build(**{**given_files, "dtype": "float32"}, out=out)
    np.save(given_files["edges"][1], _edges(3001)[:, 1300:])
    with pytest.raises(ValueError, match=r"another build \(edges differ\)"):
        build(**given_files, out=out)


def test_a_damaged_beginning(given_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, part = tmp_path / "out", tmp_path / "out.part"
    with pytest.raises(Killed), stopped(monkeypatch, _raise_at(30, Killed())):
        build(**given_files, out=out)
    run = part / "runs" / "000001"
    run.write_bytes(run.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"000001: \d+ bytes are required; remove .*out\.part to begin anew"):
        build(**given_files, out=out)
    (part / module.JOURNAL).write_text("{")
    with pytest.raises(ValueError, match=r"journal\.json: not valid JSON .*; remove .*out\.part to begin anew"):
        build(**given_files, out=out)


def test_two_builds_at_once(given_files: dict[str, Any], tmp_path: Path) -> None:
    def second(stage: str, *_: int) -> None:
        if stage == "sorting rows":
            with pytest.raises(ValueError, match=r"out\.part: another process is building there"):
                build(**given_files, out=tmp_path / "out")

    assert sorted(_bytes(build(**given_files, out=tmp_path / "out", progress=second))) == sorted(FILES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_nodes": 2499}, r"x\.npy: must have 2499 rows, got 2500"),
        ({"num_nodes": -1}, "num_nodes must be 0 or more, got -1"),
        ({"dtype": "int8"}, "dtype must be one of float32, float64, bfloat16, float16, got 'int8'"),
        ({"memory": 1000}, "memory must be at least 16 MiB, got 1000 bytes"),
        ({"edges": []}, "at least one file of edges is required"),
        ({"features": "labels"}, r"labels\.npy: must be of kind 'fiu' and rank \(2,\), got float64 \[2500\]"),
        ({"labels": {"a": "bad"}}, r"bad\.npy: classes must be 0 or more, or -1 \(missing\), got -2"),
        ({"labels": {"a": "matrix"}}, r"matrix\.npy: labels of a matrix must be 0, 1 or NaN"),
        ({"split": "bad"}, r"bad\.npy: must be 0 train, 1 val, 2 test or -1 none"),
        ({"split": "none"}, r"none\.npy: not a readable npy file"),
    ],
)
def test_refused(given_files: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    files = tmp_path / "files"
    np.save(files / "labels.npy", np.zeros(NODES))
    np.save(files / "bad.npy", np.full(NODES, -2))
    np.save(files / "matrix.npy", np.full((NODES, 2), 0.5))
    (files / "none.npy").write_text("nothing")
    named = {"labels", "bad", "matrix", "none"}
    change = {k: files / f"{v}.npy" if isinstance(v, str) and v in named else v for k, v in change.items()}
    if "labels" in change:
        change["labels"] = {k: files / f"{v}.npy" for k, v in change["labels"].items()}
    with pytest.raises(ValueError, match=message):
        build(**{**given_files, **change}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("edge", "message"),
    [("1 2500", r"a\.txt: every node must be in 0\.\.2499, got 2500"), ("-1 2", r"a\.txt: every node .* got -1")],
)
def test_nodes_that_are_none(given_files: dict[str, Any], tmp_path: Path, edge: str, message: str) -> None:
    path = given_files["edges"][0]
    path.write_text(path.read_text() + edge + "\n")
    with pytest.raises(ValueError, match=message):
        build(**given_files, out=tmp_path / "out")


def test_progress_comes_to_its_end(given_files: dict[str, Any], tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    build(**given_files, out=tmp_path / "out", progress=lambda stage, *at: seen.setdefault(stage, []).append(at))
    assert list(seen) == ["reading edges", "sorting rows", "features"]
    for steps in seen.values():
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]

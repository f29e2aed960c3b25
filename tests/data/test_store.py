from __future__ import annotations

import contextlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl import Graph
from fastgmtl.data.build import build
from fastgmtl.data.store import mapped, open_stored, verify_stored
from fastgmtl.ops import neighbor_sample, spmm

NODES, EDGES = 300, 4000
TASK = {"name": "a", "kind": "class", "metric": "accuracy", "num_outputs": 2, "array": "col"}


@pytest.fixture
def edges(tmp_path: Path) -> np.ndarray:
    found = np.random.default_rng(1).integers(0, NODES, (2, EDGES))
    np.save(tmp_path / "edges.npy", found)
    np.save(tmp_path / "x.npy", np.random.default_rng(2).normal(size=(NODES, 6)).astype(np.float32))
    return found


@pytest.fixture
def folder(edges: np.ndarray, tmp_path: Path) -> Path:
    return build(tmp_path / "edges.npy", tmp_path / "g", features=tmp_path / "x.npy", dtype="bfloat16", edge_ids=True)


def test_it_opens_as_the_graph_that_it_is(edges: np.ndarray, folder: Path) -> None:
    stored = open_stored(folder, verify=True)
    graph, same = stored.graph, Graph.from_edge_index(torch.from_numpy(edges), NODES, NODES)
    assert torch.equal(graph.row_ptr, same.row_ptr) and torch.equal(graph.col, same.col)
    assert graph.col.dtype == torch.int32 and torch.equal(graph.edge_id, same.edge_id)
    x = torch.from_numpy(np.load(folder.parent / "x.npy")).bfloat16()
    assert stored.x.dtype == torch.bfloat16 and torch.equal(stored.x, x)
    assert np.load(folder / "x.npy").dtype == np.uint16
    manifest = json.loads((folder / "graph.json").read_text())
    assert manifest["arrays"]["x"]["dtype"] == "bfloat16" and manifest["num_edges"] == EDGES


def test_every_operator_reads_it(edges: np.ndarray, folder: Path) -> None:
    graph, same = open_stored(folder).graph, Graph.from_edge_index(torch.from_numpy(edges), NODES, NODES)
    x = torch.randn(NODES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.rand(EDGES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for reduce in ("mean", "max"):
        grads = [torch.autograd.grad(spmm(g, x, weight, reduce).square().sum(), x)[0] for g in (graph, same)]
        assert torch.equal(*grads)
    samples = [neighbor_sample(g, torch.arange(9), [4, 3], seed=3) for g in (graph, same)]
    assert torch.equal(samples[0].edge, samples[1].edge)
    assert torch.equal(pickle.loads(pickle.dumps(graph)).col, same.col)


def test_what_is_written_to_a_tensor_stays_out_of_the_file(folder: Path) -> None:
    before = (folder / "col.npy").read_bytes()
    stored = open_stored(folder)
    stored.graph.col.zero_()
    stored.x.zero_()
    assert (folder / "col.npy").read_bytes() == before
    verify_stored(open_stored(folder))


def test_files_that_may_not_be_written_open(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o400)
    folder.chmod(0o500)
    verify_stored(open_stored(folder))
    folder.chmod(0o700)


def _resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_opening_reads_no_page(tmp_path: Path) -> None:
    path, size = tmp_path / "large.npy", 1 << 28
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
        file.truncate(file.tell() + size)  # a sparse file
    before = _resident()
    value = mapped(path, torch.float32)
    assert value.numel() == size // 4 and float(value[-1]) == 0
    assert _resident() - before < size >> 4


def test_more_than_memory_can_be_mapped(tmp_path: Path) -> None:
    path, size = tmp_path / "huge.npy", 1 << 40
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": (size,)})
        file.truncate(file.tell() + size)
    assert int(mapped(path, torch.int8)[size - 1]) == 0


@pytest.mark.parametrize("name", ["row_ptr", "col", "edge_id", "x"])
def test_truncated(folder: Path, name: str) -> None:
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}\.npy: \d+ bytes are required, got \d+: truncated or changed"):
        open_stored(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.npy: the file is missing"):
        open_stored(folder)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("col", 17, NODES, rf"col\.npy: entry 17 must be in 0\.\.{NODES - 1}, got {NODES}"),
        ("col", 3999, -1, r"col\.npy: entry 3999 must be in 0.*got -1"),
        ("edge_id", 5, EDGES, rf"edge_id\.npy: entry 5 must be in 0\.\.{EDGES - 1}, got {EDGES}"),
        ("row_ptr", 7, EDGES, r"row_ptr\.npy: rows 0\.\. must not decrease"),
        ("row_ptr", NODES, 1, r"row_ptr\.npy: rows must begin at 0 and end at 4000, got \[0, 1\]"),
        ("col", 2, 0, r"col\.npy: the checksum is not that of the manifest"),
        ("x", 2, 0, r"x\.npy: the checksum is not that of the manifest"),
    ],
)
def test_corrupt(folder: Path, name: str, at: int, value: int, message: str) -> None:
    array = np.load(folder / f"{name}.npy")
    array.flat[at] = value if array.flat[at] != value else value + 1
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message):
        open_stored(folder, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "fastgmtl graph 2"},
            r"graph\.json: must be of the format 'fastgmtl graph 1', got 'fastgmtl graph 2'",
        ),
        ({"num_nodes": "300"}, r"num_nodes must be of type int"),
        ({"num_nodes": 301}, r"row_ptr must be int64 \[302\], got int64 \[301\]"),
        ({"num_edges": 3999}, r"col must be int32 \[3999\], got int32 \[4000\]"),
        ({"tasks": [{"name": "a", "array": "x"}]}, r"task 0 must have name, kind, metric, num_outputs, array"),
        ({"tasks": [{**TASK, "array": "label0"}]}, r"task a must have an array of 300 rows"),
        ({"tasks": [{**TASK, "array": "col"}]}, r"task a must have an array of 300 rows"),
        ({"arrays": {}}, r"array row_ptr is missing"),
    ],
)
def test_manifests_that_do_not_fit(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "graph.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        open_stored(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../col.npy"}, "array col: file must be a name in the folder"),
        ({"dtype": "object"}, "array col: dtype must be one of int8"),
        ({"dtype": "int64"}, r"col\.npy: must be int64 in C order, got int32"),
        ({"shape": [4001]}, r"col\.npy: must have shape \[4001\], got \[4000\]"),
        ({"bytes": None}, "array col must have file, dtype, shape, bytes, sha256"),
    ],
)
def test_entries_that_do_not_fit(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "graph.json"
    manifest = json.loads(path.read_text())
    manifest["arrays"]["col"].update(change)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        open_stored(folder)


def test_no_stored_graph(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no stored graph \(graph\.json is missing\)"):
        open_stored(tmp_path)
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(ValueError, match=r"graph\.json: not valid JSON"):
        open_stored(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"no array at all"])
def test_files_that_are_no_arrays(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.npy"):
        mapped(path, torch.float32)


def test_no_changed_byte_goes_unseen_or_crashes(folder: Path) -> None:
    """Of any file; of the manifest only what is text for people (the source) may change."""
    draw, files = np.random.default_rng(0), sorted(folder.iterdir())
    for _ in range(400):
        path = files[draw.integers(len(files))]
        before = path.read_bytes()
        at = int(draw.integers(len(before) if draw.random() < 0.5 else min(len(before), 128)))
        changed = before[:at] + bytes([before[at] ^ int(draw.integers(1, 256))]) + before[at + 1 :]
        path.write_bytes(changed)
        if path.name != "graph.json":
            with pytest.raises(ValueError, match=path.name):
                open_stored(folder, verify=True)
        else:
            with contextlib.suppress(ValueError, FileNotFoundError):
                assert torch.equal(open_stored(folder, verify=True).graph.col, open_stored(folder).graph.col)
        path.write_bytes(before)
    open_stored(folder, verify=True)

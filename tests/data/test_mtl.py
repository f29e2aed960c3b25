"""The classic data sets: their counts, whose labels a row has, and damaged files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.mat import read_mat
from fastgmtl.data.mtl import load_mtl


def _element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def _numeric(array: np.ndarray, kind: int = 6, element: int = 9, name: bytes = b"", flags: int = 0) -> bytes:
    parts = _element(6, struct.pack("<II", kind | flags, 0)) + _element(5, struct.pack("<ii", *array.shape))
    # Names of up to four letters lie in the tag.
    label = struct.pack("<HH4s", 1, len(name), name) if 0 < len(name) <= 4 else _element(1, name)
    return _element(14, parts + label + _element(element, array.tobytes(order="F")))


def _cells(name: bytes, cells: list[bytes]) -> bytes:
    flags = _element(6, struct.pack("<II", 1, 0)) + _element(5, struct.pack("<ii", 1, len(cells)))
    return _element(14, flags + _element(1, name) + b"".join(cells))


def _file(*variables: bytes, head: bytes = b"\x00\x01IM") -> bytes:
    return b"MATLAB 5.0".ljust(124) + head + b"".join(variables)


SCHOOL = _file(
    _cells(b"X", [_numeric(np.array([[1.0, 2], [3, 4], [5, 6]])), _numeric(np.array([[7.0, 8]]))]),
    _cells(b"Y", [_numeric(np.array([[9], [8], [7]], np.uint8), 9, 2), _numeric(np.array([[6]], np.uint8), 9, 2)]),
)


def test_variables_of_every_form(tmp_path: Path) -> None:
    path, number = tmp_path / "a.mat", np.arange(6, dtype=np.int16).reshape(2, 3)
    packed = zlib.compress(_numeric(number, 6, 3, b"zip"))
    path.write_bytes(_file(_numeric(number, 6, 3, b"abcd"), struct.pack("<II", 15, len(packed)) + packed))
    found = read_mat(path)
    assert list(found) == ["abcd", "zip"]
    for value in found.values():
        assert isinstance(value, np.ndarray) and value.dtype == np.float64
        np.testing.assert_array_equal(value, number)


def test_school_is_a_task_a_school(tmp_path: Path) -> None:
    (tmp_path / "school.mat").write_bytes(SCHOOL)
    data = load_mtl(tmp_path, "School")
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    torch.testing.assert_close(data.tasks["school_1"].target, torch.tensor([9, 8, 7, torch.nan]), equal_nan=True)
    torch.testing.assert_close(data.tasks["school_2"].target, torch.tensor([torch.nan] * 3 + [6]), equal_nan=True)


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (b"nothing", "not a MATLAB 5 file"),
        (_file(head=b"\x00\x02IM"), "not a MATLAB 5 file"),
        (SCHOOL[:-3], "an element is cut off"),
        (SCHOOL + b"1234", "an element is cut off"),
        (_file(struct.pack("<II", 15, 8) + b"12345678"), "not readable"),
        (_file(_element(9, bytes(8))), "a variable must be an array, got element type 9"),
        (_file(_element(14, _element(6, bytes(8)))), "an array lacks its flags, sizes or name"),
        (_file(_numeric(np.ones((1, 1)), kind=4)), "class 4 is none that is read here"),
        (_file(_numeric(np.ones((1, 1)), flags=0x800)), "class 6 is none that is read here"),
        (_file(_numeric(np.ones((1, 1)), element=16)), "element type 16 holds no numbers"),
        (_file(_numeric(np.ones((1, 1)), element=7)), r"8 bytes for sizes \(1, 1\)"),
        (_file(_cells(b"X", [_cells(b"", [])])), "X: a cell holds cells"),
        (_file(_cells(b"X", [_element(9, bytes(8))])), "X: a cell must be an array, got element type 9"),
        (_file(_cells(b"X", [_numeric(np.ones((1, 2)))])), "cells Y are missing"),
        (_file(_cells(b"X", [_numeric(np.ones((1, 2)))]), _cells(b"Y", [_numeric(np.ones((2, 1)))])), "do not fit"),
        (_file(_cells(b"X", [_numeric(np.ones((1, 1)))] * 2), _cells(b"Y", [_numeric(np.ones((1, 1)))])), "2 tasks"),
        (_file(*(_cells(name, [_numeric(np.full((1, 1), np.nan))]) for name in (b"X", b"Y"))), "is not finite"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, bytes_: bytes, text: str) -> None:
    (tmp_path / "school.mat").write_bytes(bytes_)
    with pytest.raises(ValueError, match=rf"school.mat: .*{text}"):
        load_mtl(tmp_path, "School")


def test_no_cut_of_a_file_does_more_than_raise(tmp_path: Path) -> None:
    path = tmp_path / "school.mat"
    for length in range(len(SCHOOL)):
        path.write_bytes(SCHOOL[:length])
        with pytest.raises(ValueError, match=r"school\.mat"):
            load_mtl(tmp_path, "School")


def test_labels_of_landmine_are_0_and_1(tmp_path: Path) -> None:
    cells = [_cells(name, [_numeric(np.full((1, 1), 2.0))]) for name in (b"feature", b"label")]
    (tmp_path / "LandmineData.mat").write_bytes(_file(*cells))
    with pytest.raises(ValueError, match="task 1: a label is neither 0 nor 1"):
        load_mtl(tmp_path, "Landmine")


HEAD = ",".join(["subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", *(f"v{i}" for i in range(16))])


def test_parkinsons_has_two_tasks_a_patient(tmp_path: Path) -> None:
    rows = [[s, 70, 1, 5, 10 + s, 20 + s, *range(16)] for s in (3, 3, 8)]
    for delimiter in ",\t":
        lines = [HEAD.split(","), *([str(v) for v in row] for row in rows)]
        (tmp_path / "parkinsons_updrs.data").write_text("\n".join(delimiter.join(line) for line in lines))
        data = load_mtl(tmp_path, "Parkinsons")
        assert list(data.tasks) == ["motor_1", "motor_2", "total_1", "total_2"]
        assert data.x[0].tolist() == [70, 1, 5, *range(16)]
        want = torch.tensor([torch.nan, torch.nan, 28])
        torch.testing.assert_close(data.tasks["total_2"].target, want, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "the head line must name 22 columns"),
        (HEAD.replace("motor", "x") + "\n", "the head line must name 22 columns"),
        (HEAD + "\n", "a table of 22 columns is required"),
        (HEAD + "\n1,2\n", "a table of 22 columns is required"),
        (HEAD + "\n" + "1," * 21 + "x\n", "line 2 holds 'x', which is not a number"),
        (HEAD + "\n" + "1," * 21 + "nan\n", "line 2 holds a number that is not finite"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "parkinsons_updrs.data").write_text(text)
    with pytest.raises(ValueError, match=rf"parkinsons_updrs.data: {wrong}"):
        load_mtl(tmp_path, "Parkinsons")


@pytest.mark.parametrize(
    ("name", "tasks", "rows", "features", "labels"),
    [
        ("School", 139, 15_362, 28, 15_362),
        ("Parkinsons", 84, 5_875, 19, 11_750),
        ("Landmine", 29, 14_820, 9, 14_820),
    ],
)
def test_counts(data_root: Path, name: str, tasks: int, rows: int, features: int, labels: int) -> None:
    data = load(f"mtl:{name}")
    assert (len(data.tasks), data.num_nodes, data.num_features) == (tasks, rows, features)
    counts = {part: sum(data.tasks.counts(part).values()) for part in ("train", "val", "test")}
    assert sum(counts.values()) == labels
    assert counts["train"] == pytest.approx(0.6 * labels, rel=0.02)
    assert min(data.tasks.counts("test").values()) >= 4
    if name == "Landmine":
        assert sum(int(task.target.nansum()) for task in data.tasks.values()) == 904
    other = load(f"mtl:{name}", seed=1)
    assert torch.equal(data.x, other.x)
    first, second = (next(iter(d.tasks.values())).split["test"] for d in (data, other))
    assert not torch.equal(first, second)


def test_the_reader_agrees_with_scipy(data_root: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy")
    for file, names in (("school.mat", ("X", "Y")), ("LandmineData.mat", ("feature", "label"))):
        path = data_root / "mtl_classic" / file
        found, want = read_mat(path), scipy_io.loadmat(path)
        assert set(found) == set(names)
        for name in names:
            for ours, theirs in zip(found[name], want[name].flat, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_names_say_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mtl_classic").mkdir()
    (tmp_path / "mtl_classic" / "school.mat").write_bytes(SCHOOL)
    monkeypatch.setenv("FASTGMTL_DATA", str(tmp_path))
    assert load("mtl:School").num_nodes == 4
    with pytest.raises(ValueError, match=r"'mtl:Landmine' is no data set; .*mtl:School"):
        load("mtl:Landmine")

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgmtl.data.files import csr_to_dense, read_npz, read_sparse_npz, read_text

FORMS = {"a": ("iu", 1), "b": ("f", 2)}


def npz_bytes(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **({"a": np.arange(4000), "b": np.ones((2, 3))} | arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def huge_header() -> bytes:
    """An npz whose array claims to have 2**50 numbers."""
    head = str({"descr": "<i8", "fortran_order": False, "shape": (2**50,)}).encode().ljust(117) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    return buffer.getvalue()


def flipped(raw: bytes) -> bytes:
    """The same bytes with some of them changed in the middle of the packed array."""
    middle = len(raw) // 3
    return raw[:middle] + bytes(255 - b for b in raw[middle : middle + 40]) + raw[middle + 40 :]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK",
        b"not a zip file at all" * 100,
        npz_bytes()[:-30],
        npz_bytes()[: len(npz_bytes()) // 2],
        flipped(npz_bytes()),
        npz_bytes(a=np.array([object()])),
        huge_header(),
    ],
    ids=["empty", "two bytes", "text", "cut", "half", "flipped", "objects", "huge"],
)
def test_damaged_npz_files_are_named(tmp_path, raw):
    path = tmp_path / "bad.npz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{path}: not a readable npz file \(.+\)"):
        read_npz(path, FORMS)


def test_pickled_objects_in_an_npz_are_not_obeyed(tmp_path, hostile):
    raw, mark = hostile
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", raw)
    with pytest.raises(ValueError, match=r"bad.npz: array a must have 1 dimensions and .*, got \|S"):
        read_npz(path, {"a": ("iu", 1)})
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"bad.npz: not a readable npz file"):
        read_npz(path, FORMS)
    assert not mark.exists()


def test_npz_arrays_of_the_wrong_form_are_named(tmp_path):
    path = tmp_path / "some.npz"
    path.write_bytes(npz_bytes())
    assert set(read_npz(path, FORMS)) == {"a", "b"}
    assert set(read_npz(path, FORMS | {"c": ("f", 1)}, optional=["c"])) == {"a", "b"}
    with pytest.raises(ValueError, match=r"some.npz: array c, d is missing"):
        read_npz(path, FORMS | {"c": ("f", 1), "d": ("f", 1)})
    with pytest.raises(ValueError, match=r"array b must have 1 dimensions and .* 'f', got float64 \[2, 3\]"):
        read_npz(path, {"b": ("f", 1)})
    with pytest.raises(ValueError, match=r"array a must have 1 dimensions and a dtype of kind 'f', got int64"):
        read_npz(path, {"a": ("f", 1)})
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_npz(tmp_path / "none.npz", FORMS)


@pytest.mark.parametrize("packed", [False, True])
def test_text_tables(tmp_path, packed):
    path = tmp_path / "t.txt"
    raw = b"1, 2\n3,4\n\n 5 ,6"
    (tmp_path / "t.txt.gz" if packed else path).write_bytes(gzip.compress(raw) if packed else raw)
    table = read_text(path, integer=True)
    assert table.dtype == np.int64
    assert table.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert read_text(path, integer=False).dtype == np.float64


def test_empty_text_tables(tmp_path):
    path = tmp_path / "t.txt"
    for text in ("", "\n \n"):
        path.write_text(text)
        assert read_text(path, integer=True).size == 0


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"1, 2\n\n3\n", "line 3 holds 1 numbers, the lines before it 2"),
        (b"1, 2\n3, x\n", "line 2 holds 'x', which is not an integer of 64 bits"),
        (b"1, 2\n3, 4.5\n", "line 2 holds '4.5', which is not an integer"),
        (b"1, 99999999999999999999\n", "line 1 holds '99999999999999999999', which is not an integer of 64 bits"),
        (b"1, 2_0\n", "could not convert string ' 2_0'"),
        (b"1, 2\n\xff\xfe\n", "not readable"),
        (b"# 1, 2\n", "line 1 holds '# 1', which is not"),
    ],
)
def test_damaged_text_is_named_with_the_line(tmp_path, raw, text):
    path = tmp_path / "t.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{path}: .*{text}"):
        read_text(path, integer=True)


def test_numbers_must_be_finite(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("1.5\nabc\n")
    with pytest.raises(ValueError, match=r"t.txt: line 2 holds 'abc', which is not a number"):
        read_text(path, integer=False)
    for bad in ("nan", "inf", "1e999"):
        path.write_text(f"1\n{bad}\n2\n")
        with pytest.raises(ValueError, match=r"t.txt: line 2 holds a number that is not finite"):
            read_text(path, integer=False)


def test_truncated_gzip_and_missing_files_are_named(tmp_path):
    packed = tmp_path / "t.txt.gz"
    packed.write_bytes(gzip.compress(b"1\n2\n" * 100)[:-9])
    with pytest.raises(ValueError, match=rf"{packed}: not readable \(.+\)"):
        read_text(tmp_path / "t.txt", integer=True)
    with pytest.raises(FileNotFoundError, match=r"u.txt: neither this file nor u.txt.gz exists"):
        read_text(tmp_path / "u.txt", integer=True)


def test_csr_to_dense():
    path, shape = Path("f.npz"), np.array([3, 4])
    indptr, indices = np.array([0, 2, 2, 3]), np.array([0, 3, 1])
    dense = csr_to_dense(path, "x", indptr, indices, shape, np.array([5.0, 6, 7]))
    assert dense.tolist() == [[5, 0, 0, 6], [0, 0, 0, 0], [0, 7, 0, 0]]
    assert csr_to_dense(path, "x", indptr, indices, shape).sum() == 3
    ones = np.ones(3)
    for bad, text in (
        ((np.array([0, 2, 3]), indices, shape, ones), "row pointers must rise from 0 to 3 in 4 steps"),
        ((np.array([0, 2, 1, 3]), indices, shape, ones), "row pointers must rise"),
        ((np.array([1, 2, 2, 3]), indices, shape, ones), "row pointers must rise"),
        ((np.array([0, 2, 2, 9]), indices, shape, ones), "row pointers must rise"),
        ((indptr, np.array([0, 4, 1]), shape, ones), "columns must be in 0..3, got 4"),
        ((indptr, np.array([0, -1, 1]), shape, ones), "columns must be in 0..3, got -1"),
        ((indptr, indices, shape, ones[:2]), "3 columns but 2 values"),
        ((indptr, indices, shape, np.array([1, np.nan, 1])), "a value is not finite"),
        ((indptr, indices, np.array([3]), ones), "shape must be two sizes"),
        ((indptr, indices, np.array([3, -4]), ones), "shape must be two sizes"),
        ((indptr, indices, np.array([3, 2**55]), ones), "do not fit in memory"),
    ):
        with pytest.raises(ValueError, match=f"f.npz: x: .*{text}"):
            csr_to_dense(path, "x", *bad)


def save_sparse(path: Path, **changes: object) -> Path:
    csr = {
        "format": np.array(b"csr"),
        "indptr": [0, 2, 2, 3],
        "indices": [3, 0, 1],
        "data": [1.5, 2, 3],
        "shape": [3, 4],
    }
    np.savez(path, **{k: np.asarray(v) for k, v in (csr | changes).items() if v is not None})
    return path


COO = {
    "format": np.array(b"coo"),
    "indptr": None,
    "indices": None,
    "row": [2, 0, 0],
    "col": [1, 3, 0],
    "data": [3, 1.5, 2],
}


@pytest.mark.parametrize("changes", [{}, COO, COO | {"row": [2, 0, 0, 2], "col": [1, 3, 0, 1], "data": [1, 1.5, 2, 2]}])
def test_sparse_matrices_of_scipy(tmp_path, changes):
    got = read_sparse_npz(save_sparse(tmp_path / "m.npz", **changes), 3)
    assert got.layout == torch.sparse_coo and got.dtype == torch.float32 and got.is_coalesced()
    assert got.to_dense().tolist() == [[2, 0, 0, 1.5], [0, 0, 0, 0], [0, 3, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": [3]}, r"shape must be two sizes, got \[3\]"),
        ({"shape": [4, 4]}, "3 rows are required, got 4"),
        ({"format": np.array(b"csc")}, "format must be csr or coo, got 'csc'"),
        ({"indices": None}, "array indices is missing"),
        ({"indptr": [0, 2, 1, 3]}, "matrix: row pointers must rise from 0 to 3 in 4 steps"),
        ({"indices": [3, 0, 4]}, "columns must be in 0..3, got 4"),
        ({"data": [1.0, 2]}, "3 rows, 3 columns and 2 values"),
        ({"data": [1.0, np.nan, 2]}, "a value is not finite"),
        (COO | {"row": [2, 0, -1]}, "rows must be in 0..2, got -1"),
        (COO | {"col": None}, "array col is missing"),
        (COO | {"col": [1, 2]}, "3 rows, 2 columns and 3 values"),
        ({"data": None}, "array data is missing"),
    ],
)
def test_damaged_sparse_matrices_are_named(tmp_path, changes, text):
    path = save_sparse(tmp_path / "m.npz", **changes)
    with pytest.raises(ValueError, match=rf"^{path}: {text}$"):
        read_sparse_npz(path, 3)

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from fastgmtl.data.edges import length, read_edges

RNG = np.random.default_rng(0)
EDGES = RNG.integers(0, 10**6, (2, 5000))


def _text(path: Path, separator: str = " ") -> None:
    lines = [f"{s}{separator}{d}\n" for s, d in EDGES.T]
    path.write_text(
        "# a list\n" + "".join(lines[:10]) + "\n  \n" + "".join(lines[10:40]) + "# middle\n" + "".join(lines[40:])
    )


def _gz(path: Path) -> None:
    _text(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


def _parquet(path: Path) -> None:
    table = pyarrow.table({"source": EDGES[0], "target": EDGES[1].astype(np.int32), "weight": np.ones(5000)})
    parquet.write_table(table, path, row_group_size=700)


FILES: dict[str, Callable[[Path], object]] = {
    "a.txt": _text,
    "a.csv": lambda path: _text(path, ","),
    "a.tsv": lambda path: _text(path, "\t"),
    "mixed.edges": lambda path: _text(path, " , "),
    "a.txt.gz": _gz,
    "rows.npy": lambda path: np.save(path, EDGES),
    "columns.npy": lambda path: np.save(path, EDGES.T.astype(np.uint32)),
    "fortran.npy": lambda path: np.save(path, np.asfortranarray(EDGES.astype(np.int32))),
    "a.parquet": _parquet,
}


@pytest.mark.parametrize("count", [64, 1000, 10**6])
@pytest.mark.parametrize("name", FILES)
def test_pieces_are_the_edges_from_wherever_one_goes_on(tmp_path: Path, name: str, count: int) -> None:
    FILES[name](path := tmp_path / name)
    pieces = list(read_edges(path, 0, count))
    found = np.stack([np.concatenate([p.src for p in pieces]), np.concatenate([p.dst for p in pieces])])
    assert found.dtype == np.int64 and np.array_equal(found, EDGES)
    assert max(len(p.src) for p in pieces) <= 2 * count
    assert pieces[-1].next == length(path)
    for number in range(0, len(pieces), 7):
        rest = list(read_edges(path, pieces[number].next, count))
        assert [p.next for p in rest] == [p.next for p in pieces[number + 1 :]]
        for one, other in zip(rest, pieces[number + 1 :], strict=True):
            assert np.array_equal(one.src, other.src) and np.array_equal(one.dst, other.dst)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("# nothing\n", []),
        ("\n\n1 2\n\n\n3 4", [[1, 2], [3, 4]]),
        ("1 2 # why\r\n3,4\r\n", [[1, 2], [3, 4]]),
        ("\t1\t2 \n", [[1, 2]]),
        ("-1 2\n", [[-1, 2]]),
    ],
)
def test_text(tmp_path: Path, text: str, found: list[list[int]]) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    pieces = list(read_edges(path, 0, 100))
    assert [[s, d] for p in pieces for s, d in zip(p.src.tolist(), p.dst.tolist(), strict=True)] == found


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("7", "'7'"),
        ("1 2 0.5", "'1 2 0.5'"),
        ("source,target", "'source,target'"),
        ("1.5 2", "'1.5 2'"),
        ("1 2x", "'1 2x'"),
        ("1 99999999999999999999", "'1 99999999999999999999'"),
        ("1\n2 3 4", "'1'"),
        ("\xff\xfe 2", "2'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_wrong_line_is_named(tmp_path: Path, line: str, shown: str, packed: bool) -> None:
    raw = ("# head\n" + "10 20\n" * 300 + line + "\n" + "30 40\n" * 300).encode("latin-1")
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ValueError, match=r"a\.txt.*: line 302 must be two integers of 64 bits") as error:
        list(read_edges(path, 0, 50))
    assert str(error.value).endswith(shown)


def test_damaged_files(tmp_path: Path) -> None:
    _gz(packed := tmp_path / "a.txt.gz")
    packed.write_bytes(packed.read_bytes()[:-2000])
    np.save(array := tmp_path / "a.npy", EDGES)
    array.write_bytes(array.read_bytes()[:-8])
    _parquet(table := tmp_path / "a.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    for path in (packed, array, table):
        with pytest.raises(ValueError, match=f"{path.name}: not a? ?readable"):
            list(read_edges(path, 0, 100))
    with pytest.raises(FileNotFoundError, match=r"absent\.txt: no such file"):
        read_edges(tmp_path / "absent.txt", 0, 100)
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ValueError, match=r"a\.xlsx: must be one of \.txt, .*\.npy, \.parquet"):
        read_edges(tmp_path / "a.xlsx", 0, 100)


@pytest.mark.parametrize("array", [np.zeros((2, 3)), np.zeros(6, int), np.zeros((3, 4), int), np.zeros((2, 2, 2), int)])
def test_arrays_of_another_form(tmp_path: Path, array: np.ndarray) -> None:
    np.save(path := tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"must be integers \[2, E\] or \[E, 2\], got "):
        list(read_edges(path, 0, 100))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0], "b": [2.0]}, "the first two columns must be integers, got a double, b double"),
        ({"a": [1]}, "the first two columns must be integers, got a int64"),
        ({"a": [1, None], "b": [2, 3]}, "a number is missing before row 2"),
    ],
)
def test_tables_of_another_form(tmp_path: Path, columns: dict[str, list[float]], message: str) -> None:
    parquet.write_table(pyarrow.table(columns), path := tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        list(read_edges(path, 0, 100))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _parquet(path := tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"a\.parquet: reading Parquet needs pyarrow; do: pip install"):
        length(path)

"""Reading files of arrays and text: every error names the file and what is wrong with it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
# What an array must be: kinds of dtype ("i" integers, "f" floats, "U" text, "b" bool), number of dimensions.
Form = tuple[str, int]


def data_roots() -> list[Path]:
    """Where real data is looked for: $FASTGMTL_DATA, or ../shared/data beside the checkout and the current folder."""
    named = os.environ.get("FASTGMTL_DATA")
    if named:
        return [Path(named)]
    beside = (Path(__file__).resolve().parents[3], Path.cwd().parent)
    return list(dict.fromkeys(folder / "shared" / "data" for folder in beside))


def find_folder(name: str) -> Path:
    """The folder of that name in the data roots; FileNotFoundError says what was looked for and what to set."""
    for root in data_roots():
        if (root / name).is_dir():
            return root / name
    looked = " and ".join(str(root / name) for root in data_roots())
    raise FileNotFoundError(
        f"data: folder {looked} does not exist; set FASTGMTL_DATA to the folder that holds {name}, "
        "or load('debian'), which comes with the package"
    )


def require(path: Path, fine: bool | np.bool_, wrong: str) -> None:
    """ValueError "path: wrong" unless fine."""
    if not fine:
        raise ValueError(f"{path}: {wrong}")


def read_npz(path: Path, forms: Mapping[str, Form], optional: Iterable[str] = ()) -> dict[str, Array]:
    """The arrays named in ``forms``; nothing is unpickled.

    Raises ValueError naming the file for what is not an npz file, is truncated, lacks an array that is not in
    ``optional``, or holds one of the wrong kind or rank.
    """
    found: dict[str, Array] = {}
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for name in set(forms) & set(file.files):
                # numpy hands out the bytes of a member that is no array.
                found[name] = np.asarray(file[name])
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged bytes
        raise ValueError(f"{path}: not a readable npz file ({error})") from error
    missing = sorted(set(forms) - set(found) - set(optional))
    require(path, not missing, f"array {', '.join(missing)} is missing")
    for name, array in found.items():
        kinds, rank = forms[name]
        require(
            path,
            array.dtype.kind in kinds and array.ndim == rank,
            f"array {name} must have {rank} dimensions and a dtype of kind {kinds!r}, "
            f"got {array.dtype} {list(array.shape)}",
        )
    return found


def map_npy(path: Path) -> Array:
    """The array of an npy file, read from the mapped file where it is used; nothing is unpickled.

    Raises FileNotFoundError for a missing file and ValueError, naming it, for one that is damaged or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy and the tokenizer of headers raise a dozen types for damaged bytes
        raise ValueError(f"{path}: not a readable npy file ({error})") from error


def read_lines(path: Path, encoding: str = "ascii") -> tuple[Path, list[str]]:
    """The lines of a text file, which may be there as ``path.gz``, and where they were found.

    Raises FileNotFoundError for a missing file and ValueError, naming it, for one that is not text.
    """
    path = text_file(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return path, raw.decode(encoding).splitlines()
    except Exception as error:  # gzip raises EOFError, BadGzipFile and zlib.error; decode its own
        raise ValueError(f"{path}: not readable ({error})") from error


def read_text(path: Path, integer: bool, delimiter: str = ",", skip: int = 0) -> Array:
    """A table of separated numbers as [lines, columns], int64 or float64; ``path`` may be there as ``path.gz``.

    ``skip`` lines at the head are no part of it.

    Raises ValueError naming the file, and the line, of what is not a finite number or has another number of columns.
    """
    path, lines = read_lines(path)
    lines = lines[skip:]
    kind = np.int64 if integer else np.float64
    if not any(line.strip() for line in lines):
        return np.empty((0, 0), dtype=kind)
    try:
        table = np.loadtxt(lines, delimiter=delimiter, ndmin=2, comments=None, dtype=kind)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {_first_wrong(lines, integer, delimiter, skip) or error}") from error
    finite = np.isfinite(table).all(axis=1)
    require(path, finite.all(), f"line {int(finite.argmin()) + 1 + skip} holds a number that is not finite")
    return table


def _first_wrong(lines: list[str], integer: bool, delimiter: str, skip: int) -> str:
    """What is wrong with the first line that is not numbers, or not as many as the first; empty if none is found."""
    width = 0
    for number, line in enumerate(lines, start=1 + skip):
        cells = line.split(delimiter) if line.strip() else []
        for cell in cells:
            if not _is_number(cell, integer):
                kind = "an integer of 64 bits" if integer else "a number"
                return f"line {number} holds {cell.strip()!r}, which is not {kind}"
        width = width or len(cells)
        if cells and len(cells) != width:
            return f"line {number} holds {len(cells)} numbers, the lines before it {width}"
    return ""


def _is_number(cell: str, integer: bool) -> bool:
    try:
        number = int(cell) if integer else float(cell)
    except ValueError:
        return False
    return not integer or -(2**63) <= number < 2**63


def text_file(path: Path) -> Path:
    """``path``, or ``path.gz`` where only that exists; FileNotFoundError where neither does."""
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise FileNotFoundError(f"{path}: neither this file nor {packed.name} exists")
    return path if path.exists() else packed


def check_range(path: Path, what: str, index: Array, low: int, high: int) -> None:
    """ValueError unless low <= index < high everywhere."""
    bad = (index < low) | (index >= high)
    if bad.any():
        value = index[bad].flat[0]
        raise ValueError(f"{path}: {what} must be in {low}..{high - 1}, got {value}")


def csr_to_dense(
    path: Path, what: str, indptr: Array, indices: Array, shape: Array, data: Array | None = None
) -> Tensor:
    """The dense float32 tensor of a checked CSR matrix; ``data`` None means ones."""
    require(path, shape.size == 2 and (shape >= 0).all(), f"{what}: shape must be two sizes, got {shape}")
    rows, columns = (int(v) for v in shape)
    _check_pointers(path, what, indptr, indices, rows)
    check_range(path, f"{what}: columns", indices, 0, columns)
    require(
        path,
        data is None or data.shape == indices.shape,
        f"{what}: {indices.size} columns but {0 if data is None else data.size} values",
    )
    require(path, data is None or np.isfinite(data).all(), f"{what}: a value is not finite")
    try:
        dense = np.zeros((rows, columns), dtype=np.float32)
    except (MemoryError, ValueError) as error:
        raise ValueError(f"{path}: {what}: {rows} x {columns} numbers do not fit in memory") from error
    dense[np.repeat(np.arange(rows), np.diff(indptr)), indices] = 1 if data is None else data
    return torch.from_numpy(dense)


SPARSE_FORMS: dict[str, Form] = {
    "format": ("SU", 0),
    "shape": ("iu", 1),
    "data": ("biuf", 1),
    "indptr": ("iu", 1),
    "indices": ("iu", 1),
    "row": ("iu", 1),
    "col": ("iu", 1),
}


def read_sparse_npz(path: Path, rows: int) -> Tensor:
    """The matrix of ``rows`` rows that scipy.sparse.save_npz has written (csr or coo), as a sparse COO float32 tensor.

    Raises ValueError naming the file for a damaged one, an index out of range and a value that is not finite.
    """
    found = read_npz(path, SPARSE_FORMS, optional=("indptr", "indices", "row", "col"))
    kind, shape, data = str(found["format"].astype(str)), found["shape"], found["data"]
    require(path, shape.size == 2 and (shape >= 0).all(), f"shape must be two sizes, got {shape}")
    require(path, int(shape[0]) == rows, f"{rows} rows are required, got {int(shape[0])}")
    parts = {"csr": ("indptr", "indices"), "coo": ("row", "col")}.get(kind)
    require(path, parts is not None, f"format must be csr or coo, got {kind!r}")
    assert parts is not None
    missing = [part for part in parts if part not in found]
    require(path, not missing, f"array {', '.join(missing)} is missing")
    row, col = (found[part] for part in parts)
    if kind == "csr":
        _check_pointers(path, "matrix", row, col, rows)
        row = np.repeat(np.arange(rows), np.diff(row))
    require(path, row.size == col.size == data.size, f"{row.size} rows, {col.size} columns and {data.size} values")
    check_range(path, "rows", row, 0, rows)
    check_range(path, "columns", col, 0, int(shape[1]))
    require(path, np.isfinite(data).all(), "a value is not finite")
    index = torch.stack([to_tensor(row, torch.int64), to_tensor(col, torch.int64)])
    values = to_tensor(data, torch.float32)
    return torch.sparse_coo_tensor(index, values, (rows, int(shape[1])), check_invariants=True).coalesce()


def _check_pointers(path: Path, what: str, indptr: Array, indices: Array, rows: int) -> None:
    require(
        path,
        indptr.size == rows + 1 and indptr[0] == 0 and indptr[-1] == indices.size and (np.diff(indptr) >= 0).all(),
        f"{what}: row pointers must rise from 0 to {indices.size} in {rows + 1} steps",
    )


def to_tensor(array: Array, dtype: torch.dtype) -> Tensor:
    """A tensor of its own memory: the array's values as the numpy type that ``dtype`` stands for."""
    return torch.from_numpy(array.astype(torch.empty(0, dtype=dtype).numpy().dtype, order="C"))

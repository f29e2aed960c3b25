"""Reading edge lists that do not fit in memory, piece by piece: text, npy, Parquet."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastgmtl.data.files import Array, map_npy, require

TEXT = (".txt", ".csv", ".tsv", ".edges", ".el", ".gz")
TABLE = (".parquet", ".pq")
_INT64 = np.iinfo(np.int64)
_COMMENT = re.compile(rb"#[^\n]*")


@dataclass(frozen=True)
class Piece:
    """Some edges of a file, int64 [n] each, and where the next piece begins: a byte of text, a row of a table."""

    src: Array
    dst: Array
    next: int


def read_edges(path: Path, start: int, count: int) -> Iterator[Piece]:
    """The edges of a file in pieces of about ``count``, from where a piece of an earlier reading ended (0: all).

    * text (``.txt``, ``.csv``, ``.tsv``, ``.edges``, ``.el``, each also ``.gz``): a line is a source and a destination
      with blanks or a comma between them; ``#`` begins a comment. At most 2 ``count`` edges a piece;
    * ``.npy``: integers [2, E] (as an edge_index; so is [2, 2]) or [E, 2], read from the mapped file;
    * ``.parquet``, ``.pq``: the first two columns, integers, none missing. Needs pyarrow. At most 2 ``count``.

    Going on inside a ``.gz`` decompresses what lies before anew; nothing else is read twice.

    Raises FileNotFoundError; ValueError naming the file, and the line of a text, for what is no edge list;
    ModuleNotFoundError without pyarrow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npy":
        return _npy(path, start, count)
    if path.suffix in TABLE:
        return _table(path, start, count)
    require(path, path.suffix in TEXT, f"must be one of {', '.join((*TEXT, '.npy', *TABLE))}")
    return _text(path, start, count)


def length(path: Path) -> int:
    """What the ``next`` of a file's last piece is; of a ``.gz`` modulo 2^32, which is all that the file says."""
    if path.suffix == ".npy":
        return _open_npy(path).shape[1]
    if path.suffix in TABLE:
        with _open_table(path) as table:
            return table.metadata.num_rows
    if path.suffix == ".gz":
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4))
            return int.from_bytes(file.read(), "little")
    return path.stat().st_size


# ------------------------------------------------------------------------------------------- npy and Parquet


def _open_npy(path: Path) -> Array:
    """[2, E], mapped."""
    array = map_npy(path)
    right = array.ndim == 2 and array.dtype.kind in "iu" and 2 in array.shape
    require(path, right, f"must be integers [2, E] or [E, 2], got {array.dtype} {list(array.shape)}")
    return array if array.shape[0] == 2 else array.T


def _npy(path: Path, start: int, count: int) -> Iterator[Piece]:
    total = length(path)
    for at in range(start, total, count):
        end = min(total, at + count)
        array = _open_npy(path)  # mapped anew, so that pages that were read are let go
        src, dst = (np.array(array[side, at:end]) for side in (0, 1))
        # Numbers beyond int64 become negative, and are refused as such.
        yield Piece(src.astype(np.int64), dst.astype(np.int64), end)


def _open_table(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{path}: reading Parquet needs pyarrow; do: pip install "fastgmtl[large]"'
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _table(path: Path, start: int, count: int) -> Iterator[Piece]:
    from pyarrow import ArrowException, types

    with _open_table(path) as table:
        kinds = list(table.schema_arrow)[:2]
        right = len(kinds) == 2 and all(types.is_integer(kind.type) for kind in kinds)
        given = ", ".join(f"{kind.name} {kind.type}" for kind in kinds)
        require(path, right, f"the first two columns must be integers, got {given}")
        names, end = [kind.name for kind in kinds], 0
        held: list[list[Array]] = []
        for group in range(table.num_row_groups):
            row, end = end, end + table.metadata.row_group(group).num_rows
            if end <= start:
                continue
            try:
                for batch in table.iter_batches(batch_size=count, row_groups=[group], columns=names):
                    row += batch.num_rows
                    if row <= start:
                        continue
                    require(path, not any(c.null_count for c in batch.columns), f"a number is missing before row {row}")
                    held.append([c.to_numpy(zero_copy_only=False).astype(np.int64) for c in batch.columns])
                    if sum(len(part[0]) for part in held) >= count:
                        yield _joined(held, row)
                        held = []
            except (ArrowException, OSError) as error:
                raise ValueError(f"{path}: not readable ({error})") from error
        if held:
            yield _joined(held, end)


def _joined(parts: list[list[Array]], end: int) -> Piece:
    src, dst = (np.concatenate(side) for side in zip(*parts, strict=True))
    return Piece(src, dst, end)


# ------------------------------------------------------------------------------------------- text


def _open_text(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(path: Path, start: int, count: int) -> Iterator[Piece]:
    with _open_text(path) as file:
        at = start
        try:
            file.seek(at)
            # A line has 4 bytes or more.
            while raw := file.read(8 * count):
                raw += file.readline(1 << 20)
                values = _pairs(raw)
                if values is None:
                    raise ValueError(_first_wrong(path, at, raw))
                at += len(raw)
                yield Piece(values[0::2], values[1::2], at)
        except (OSError, EOFError) as error:  # what gzip raises for damaged bytes
            raise ValueError(f"{path}: not readable ({error})") from error


def _pairs(raw: bytes) -> Array | None:
    """The numbers of some lines, [2 n] int64; None unless there are two in each line that is not blank."""
    if b"#" in raw:
        raw = _COMMENT.sub(b"", raw)
    raw = raw.replace(b",", b" ")
    found = _tokens(raw)
    if found is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of text that is no number, which shows in the count
        try:
            values = np.fromstring(raw, dtype=np.int64, sep=" ") if found else np.empty(0, np.int64)
        except ValueError:
            return None
    # Numbers that int64 does not hold become its ends.
    wide = values.size and (values.max() == _INT64.max or values.min() == _INT64.min)
    return None if values.size != found or wide else values


def _tokens(raw: bytes) -> int | None:
    """How many words some lines have; None unless there are two in each that has any."""
    text = np.frombuffer(raw + b"\n", np.uint8)
    blank = text <= 32
    first = ~blank
    first[1:] &= blank[:-1]
    end = text == 10
    marks = end[first | end]  # of every word and every end of a line, in turn, whether it is an end
    if marks.size % 3 == 0 and _alternate(marks):
        return marks.size // 3 * 2
    keep = ~marks
    keep[1:] |= ~marks[:-1]  # an end after an end, or at the beginning, is that of an empty line
    marks = marks[keep]
    return marks.size // 3 * 2 if marks.size % 3 == 0 and _alternate(marks) else None


def _alternate(marks: Array) -> bool:
    words = marks.reshape(-1, 3)
    return bool(words[:, 2].all()) and not bool(words[:, :2].any())


def _first_wrong(path: Path, start: int, raw: bytes) -> str:
    """What is wrong with the first line that is no edge."""
    with _open_text(path) as file:
        left, line = start, 1
        while left and (before := file.read(min(left, 1 << 24))):
            left, line = left - len(before), line + before.count(b"\n")
    for number, text in enumerate(raw.split(b"\n"), start=line):
        words = _COMMENT.sub(b"", text).replace(b",", b" ").split()
        if words and (len(words) != 2 or not all(_is_integer(word) for word in words)):
            shown = text[:60].decode("utf-8", "replace").strip()
            return f"{path}: line {number} must be two integers of 64 bits, source and destination, got {shown!r}"
    return f"{path}: the lines from {line} on are no edges"


def _is_integer(word: bytes) -> bool:
    try:
        return -(2**63) <= int(word) < 2**63
    except ValueError:
        return False

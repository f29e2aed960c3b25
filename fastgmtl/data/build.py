"""Building a stored graph of edge lists larger than memory: an external bucket sort by destination."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fastgmtl.csr import index_dtype
from fastgmtl.data import store
from fastgmtl.data.edges import Piece, length, read_edges
from fastgmtl.data.external_sort import Bucket, Run, choose_buckets, group_sizes, write_run
from fastgmtl.data.node_arrays import NodeArrays
from fastgmtl.data.store import FORMAT, MANIFEST, Progress, begin_npy, put, sync, write_whole

FULL = (errno.ENOSPC, errno.EDQUOT)
JOURNAL, LOCK = "journal.json", "lock"
BUILD = "fastgmtl build 1"
# An edge that is read or sorted takes at most so many bytes of memory; and more edges at a time make nothing faster.
EDGE_BYTES, MOST_EDGES = 128, 1 << 23

PathLike = str | os.PathLike[str]


def build(
    edges: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    num_nodes: int | None = None,
    features: PathLike | None = None,
    dtype: str = "float32",
    labels: Mapping[str, PathLike] | None = None,
    split: PathLike | None = None,
    edge_ids: bool = False,
    memory: int = 4 << 30,
    source: str = "",
    progress: Progress | None = None,
) -> Path:
    """Store the graph of edge lists in the folder ``out``; :func:`fastgmtl.data.store.open_stored` opens it.

    Rows are destinations; within a row edges keep the order in which they were given, and none is dropped: the arrays
    are those of ``Graph.from_edge_index``.

    Args:
        edges: one file or several, in turn: text, npy or Parquet; see :func:`fastgmtl.data.edges.read_edges`.
        out: a folder that is not there yet. It appears when it is whole; until then all is in ``out``.part.
        num_nodes: N; None for the rows of ``features``, or else the largest index + 1 (which must fit int32).
        features: npy [N, F] of floats or integers, stored as ``dtype``: float32, float64, bfloat16 or float16.
        labels: by the name of a task npy [N] or [N, L]: integers are classes (-1 missing), floats [N] numbers to be
            regressed and floats [N, L] labels 0 and 1 (NaN missing).
        split: npy of integers [N]: 0 train, 1 val, 2 test, -1 none; without it 60/20/20 are drawn where data is loaded.
        edge_ids: store the position of each edge in the order given; needed for edge weights and edge features.
        memory: in bytes, 16 MiB or more. Resident memory stays below it, on top of Python and PyTorch themselves and 32
            bytes for each 1024 nodes, whatever E is: at most 128 bytes an edge are used, of 8 million edges at a time,
            so that more than 1 GiB makes no difference.
        source: one line: where the data is from, and its licence.
        progress: called with a stage, how much of it is done, and of how much.

    On disk it takes 8 bytes an edge (12 with edge_ids; twice for N > 2^31) besides the result, until it is done.

    Stopped at any point (also killed), the same call goes on: runs and buckets that are finished are not made again, an
    array of features or labels that is not finished is. The result is the same, bit for bit.

    Raises FileExistsError where ``out`` holds something; ValueError for files that are not what they should be, an
    index out of range (with the file), and a ``.part`` folder of another build or process; OSError for a full disk:
    what was built is kept.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists; remove it, or build into another folder")
    if memory < 16 << 20:
        raise ValueError(f"build: memory must be at least 16 MiB, got {memory} bytes")
    files = [Path(p) for p in ([edges] if isinstance(edges, (str, os.PathLike)) else edges)]
    if not files:
        raise ValueError("build: at least one file of edges is required")
    arrays = NodeArrays.check(num_nodes, features, dtype, labels or {}, split)
    plan = {
        "edges": [_stamp(path) for path in files],
        "arrays": [_stamp(path) for path in arrays.files],
        "num_nodes": arrays.num_nodes,
        "dtype": dtype,
        "labels": list(labels or {}),
        "edge_ids": edge_ids,
        "source": source,
    }
    part = out.with_name(f"{out.name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            _Build(part, files, arrays, plan, memory, progress or (lambda stage, done, total: None)).run()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"the disk of {part} is full; what is built so far is kept there: make room and do the same again, or "
            "remove that folder",
        ) from error
    os.replace(part, out)
    (out / JOURNAL).unlink()
    return out


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Held by one process at a time, and let go by one that is killed. Without locks of files (Windows): by all."""
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is building there") from None
        yield
    (folder / LOCK).unlink()


def _stamp(path: Path) -> list[Any]:
    """What says whether a file is still the one that was read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


class _Build:
    """One build in its folder. The journal says what is finished; it changes after what it speaks of is on the disk."""

    def __init__(
        self, folder: Path, files: list[Path], arrays: NodeArrays, plan: Any, memory: int, progress: Progress
    ) -> None:
        self.folder, self.files, self.arrays, self.plan, self.progress = folder, files, arrays, plan, progress
        self.at_once = min(MOST_EDGES, memory // EDGE_BYTES)
        self.ids = plan["edge_ids"]
        self.index = index_dtype(arrays.num_nodes or 0)
        self.journal: dict[str, Any] = self._begin()

    def _begin(self) -> dict[str, Any]:
        path = self.folder / JOURNAL
        fresh = {"format": BUILD, "plan": self.plan, "runs": [], "largest": -1, "read": False, "buckets": 0}
        if not path.exists():
            return fresh
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); remove {self.folder} to begin anew") from error
        differs = [key for key in self.plan if found.get("plan", {}).get(key) != self.plan[key]]
        if found.get("format") != BUILD or differs:
            raise ValueError(
                f"{self.folder} holds the beginning of another build ({', '.join(differs) or 'format'} differ); "
                "remove it, or build into another folder"
            )
        return found

    def _note(self, **changes: Any) -> None:
        self.journal.update(changes)
        text = json.dumps(self.journal).encode()
        write_whole(self.folder / JOURNAL, lambda file: put(file, text))

    def run(self) -> None:
        """From where the journal stands to the end."""
        if not self.journal["read"]:
            self._read()
        runs = self._runs()
        num_edges = sum(run.edges for run in runs)
        num_nodes = self.arrays.num_nodes
        if num_nodes is None:
            num_nodes = self.journal["largest"] + 1
        self._sort(runs, num_nodes, num_edges)
        entries = self._copy()
        index = str(index_dtype(num_edges, num_nodes)).removeprefix("torch.")
        for name, kind in (("row_ptr", "int64"), ("col", index), *([("edge_id", index)] if self.ids else ())):
            entries[name] = store.describe(self.folder / f"{name}.npy", kind)
        manifest = {
            "format": FORMAT,
            "num_nodes": num_nodes,
            "num_edges": num_edges,
            "source": self.plan["source"],
            "arrays": entries,
            "tasks": self.arrays.tasks,
        }
        text = json.dumps(manifest, indent=2).encode() + b"\n"
        write_whole(self.folder / MANIFEST, lambda file: put(file, text))
        shutil.rmtree(self.folder / "runs", ignore_errors=True)

    # ------------------------------------------------------------------------------------------- edges to runs

    def _read(self) -> None:
        (self.folder / "runs").mkdir(exist_ok=True)
        sizes = [length(path) for path in self.files]
        last = self.journal["runs"][-1] if self.journal["runs"] else {"file": 0, "next": 0}
        for number in range(last["file"], len(self.files)):
            start = last["next"] if number == last["file"] else 0
            for piece in read_edges(self.files[number], start, self.at_once):
                if len(piece.src):
                    self._add(number, piece)
                done = sum(sizes[:number]) + min(piece.next, sizes[number])
                self.progress("reading edges", done, sum(sizes))
        self._note(read=True)

    def _add(self, number: int, piece: Piece) -> None:
        largest = self._check(self.files[number], piece)
        runs = self.journal["runs"]
        src, dst = (torch.from_numpy(v).to(self.index) for v in (piece.src, piece.dst))
        groups = write_run(self._path(len(runs)), src, dst, self.ids)
        runs.append({"file": number, "next": piece.next, "edges": len(src), "groups": groups})
        self._note(largest=max(self.journal["largest"], largest))

    def _check(self, path: Path, piece: Piece) -> int:
        """The largest index, all of which must be nodes."""
        low = min(int(piece.src.min()), int(piece.dst.min()))
        high = max(int(piece.src.max()), int(piece.dst.max()))
        nodes = self.arrays.num_nodes
        if low < 0 or (nodes is not None and high >= nodes):
            bad = low if low < 0 else high
            raise ValueError(f"{path}: every node must be in 0..{'' if nodes is None else nodes - 1}, got {bad}")
        if nodes is None and high >= torch.iinfo(torch.int32).max:
            raise ValueError(f"{path}: got node {high}; give the number of nodes where they are more than 2^31 - 1")
        return high

    def _path(self, number: int) -> Path:
        return self.folder / "runs" / f"{number:06}"

    def _runs(self) -> list[Run]:
        runs: list[Run] = []
        start, index = 0, store.on_disk(self.index)
        for number, run in enumerate(self.journal["runs"]):
            runs.append(Run(self._path(number), run["edges"], run["groups"], start, index, self.ids))
            start += run["edges"]
        return runs

    # ------------------------------------------------------------------------------------------- runs to rows

    def _sort(self, runs: list[Run], num_nodes: int, num_edges: int) -> None:
        done = self.journal["buckets"]
        if "bounds" in self.journal and done == len(self.journal["bounds"]):
            return
        for run in runs:
            run.check()
        if "bounds" not in self.journal:
            self._note(bounds=choose_buckets(group_sizes(runs, num_nodes), self.at_once))
        bounds = self.journal["bounds"]
        index = index_dtype(num_edges, num_nodes)
        with (
            _Column(self.folder / "row_ptr.npy", torch.int64, num_nodes + 1) as row_ptr,
            _Column(self.folder / "col.npy", index, num_edges) as col,
            _Column(self.folder / "edge_id.npy", index, num_edges if self.ids else None) as edge_id,
        ):
            for number in range(done, len(bounds) - 1):
                bucket = Bucket.of(runs, bounds[number], bounds[number + 1], num_nodes)
                start = row_ptr.read(bucket.first) if number else 0
                self._write(bucket, start, row_ptr, col, edge_id)
                for column in (row_ptr, col, edge_id):
                    column.sync()
                self._note(buckets=number + 1)
                self.progress("sorting rows", start + bucket.edges, num_edges)
            if len(bounds) == 1:
                row_ptr.write(0, torch.zeros(1, dtype=torch.int64))
        self._note(buckets=len(bounds))

    def _write(self, bucket: Bucket, start: int, row_ptr: _Column, col: _Column, edge_id: _Column) -> None:
        """The rows of a bucket whose first edge is ``start``, and where the next bucket begins."""
        if bucket.edges <= self.at_once:
            rows, sources, ids = bucket.sort()
            row_ptr.write(bucket.first, rows + start)
            col.write(start, sources)
            if ids is not None:
                edge_id.write(start, ids)
            return
        # Rows with more edges than fit: first how many, then each piece's share of every row behind the last one's.
        ends = sum(rows for rows, _, _ in bucket.sort_by_pieces(self.at_once)) + start
        assert isinstance(ends, Tensor)
        row_ptr.write(bucket.first, ends)
        place = ends[:-1].tolist()
        for rows, sources, ids in bucket.sort_by_pieces(self.at_once):
            for row in rows.diff().nonzero()[:, 0].tolist():
                begin, end = int(rows[row]), int(rows[row + 1])
                col.write(place[row], sources[begin:end])
                if ids is not None:
                    edge_id.write(place[row], ids[begin:end])
                place[row] += end - begin

    # ------------------------------------------------------------------------------------------- arrays of nodes

    def _copy(self) -> dict[str, Any]:
        """Features, labels and split into the folder; returns the manifest's entries."""
        entries: dict[str, Any] = self.journal.setdefault("arrays", {})
        for name, dtype, copy in self.arrays.copies(self.progress):
            if name not in entries:
                write_whole(self.folder / f"{name}.npy", copy)
                self._note(arrays={**entries, name: store.describe(self.folder / f"{name}.npy", dtype)})
                entries = self.journal["arrays"]
        return dict(entries)


class _Column:
    """An npy file [length] that is written in parts; by plain writes, as a full disk ends who writes to mapped pages.

    With a length of None there is no file, and nothing to write to.
    """

    def __init__(self, path: Path, dtype: torch.dtype, length: int | None) -> None:
        self._path, self._dtype, self._length = path, dtype, length
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Column:
        if self._length is not None:
            # What an interrupted build has written stays.
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            self._data = begin_npy(self._file, self._dtype, (self._length,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, at: int, values: Tensor) -> None:
        assert self._file is not None
        self._file.seek(self._data + at * self._dtype.itemsize)
        put(self._file, values.to(self._dtype).numpy())

    def read(self, at: int) -> int:
        assert self._file is not None
        self._file.seek(self._data + at * self._dtype.itemsize)
        return int(np.frombuffer(self._file.read(8), np.int64)[0])

    def sync(self) -> None:
        if self._file is not None:
            sync(self._file)

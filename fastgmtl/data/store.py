"""A stored graph: a folder of arrays on disk that opens as tensors over the pages of its files.

The folder holds

* ``graph.json``, the manifest: the format and its version, numbers of nodes and edges, and of every array the file, its
  dtype, shape, size in bytes and SHA-256;
* ``row_ptr.npy`` int64 [N + 1], ``col.npy`` int32 [E] where sizes fit, else int64: rows of a :class:`fastgmtl.Graph`;
* ``edge_id.npy``, if wanted: the position of each edge in the order in which edges were given;
* ``x.npy`` [N, F]: features; bfloat16 is stored as the uint16 of its bits, the manifest names it bfloat16;
* the targets of tasks over the nodes, and ``split.npy`` int8 [N]: 0 train, 1 val, 2 test, -1 none of them.

:func:`fastgmtl.data.build.build` makes one of edge lists that do not fit in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fastgmtl.csr import index_dtype
from fastgmtl.data.files import Array, map_npy, require
from fastgmtl.graph import Graph

MANIFEST = "graph.json"
FORMAT = "fastgmtl graph 1"
DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
# Bytes that are read at a time where a whole file is.
BLOCK = 1 << 22

Progress = Callable[[str, int, int], None]  # of a stage, how much of how much is done


@dataclass(frozen=True)
class Stored:
    """An open stored graph; every tensor is mapped: nothing is read before it is used, changes stay in memory."""

    folder: Path
    graph: Graph
    x: Tensor | None
    tasks: list[dict[str, Any]] = field(default_factory=list)  # name, kind, metric, num_outputs, array of the target
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    source: str = ""


def open_stored(folder: str | os.PathLike[str], verify: bool = False) -> Stored:
    """The graph stored in a folder, on memory-mapped tensors: no copy is made and no page read before it is used.

    Sizes and headers of the files are compared with the manifest. That every column is a node and every byte as it was
    written is only known after reading them all: with ``verify``, see :func:`verify_stored`. A kernel given a column
    that is no node reads memory that is not its own: verify what came over a network or from a doubtful disk.

    Raises FileNotFoundError for a missing file, ValueError (naming the file) for one that is truncated or not what the
    manifest says.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    arrays = {name: _open_array(folder, entry) for name, entry in manifest["arrays"].items()}
    path, nodes, edges = folder / MANIFEST, manifest["num_nodes"], manifest["num_edges"]
    index = index_dtype(edges, nodes)
    _expect(path, arrays, "row_ptr", torch.int64, [nodes + 1])
    _expect(path, arrays, "col", index, [edges])
    if "edge_id" in arrays:
        _expect(path, arrays, "edge_id", index, [edges])
    if "split" in arrays:
        _expect(path, arrays, "split", torch.int8, [nodes])
    x = arrays.get("x")
    require(path, x is None or (x.dim() == 2 and x.shape[0] == nodes), f"x must have shape [{nodes}, F]")
    for task in manifest["tasks"]:
        value = arrays.get(task["array"])
        fits = value is not None and value.shape[:1] == (nodes,)
        require(path, fits, f"task {task['name']} must have an array of {nodes} rows")
    ends = [int(arrays["row_ptr"][0]), int(arrays["row_ptr"][-1])]
    require(folder / "row_ptr.npy", ends == [0, edges], f"rows must begin at 0 and end at {edges}, got {ends}")
    graph = Graph(arrays["row_ptr"], arrays["col"], arrays.get("edge_id"), nodes)
    stored = Stored(folder, graph, x, manifest["tasks"], arrays, manifest["source"])
    if verify:
        verify_stored(stored)
    return stored


def verify_stored(stored: Stored, progress: Progress | None = None) -> None:
    """Read every byte: rows must not decrease, columns and edge ids be in range, checksums be those of the manifest.

    Raises ValueError naming the file and the first entry that is wrong.
    """
    verify_index(stored)
    entries = read_manifest(stored.folder)["arrays"].values()
    total, done = sum(entry["bytes"] for entry in entries), 0
    for entry in entries:
        path, digest = stored.folder / entry["file"], hashlib.sha256()
        for block in _blocks(path):
            digest.update(block)
            done += len(block)
            if progress:
                progress("checksums", done, total)
        require(path, digest.hexdigest() == entry["sha256"], "the checksum is not that of the manifest; copy it anew")


def verify_index(stored: Stored) -> None:
    """Raise ValueError unless the graph is one that kernels may read: rows that rise, columns that are nodes."""
    graph, folder = stored.graph, stored.folder
    rows, step = graph.row_ptr, BLOCK // 8
    for at in range(0, graph.num_dst, step):
        part = rows[at : at + step + 1]
        require(folder / "row_ptr.npy", not bool((part.diff() < 0).any()), f"rows {at}.. must not decrease")
    for name, value, size in (("col", graph.col, graph.num_src), ("edge_id", graph.edge_id, graph.num_edges)):
        for at in range(0, graph.num_edges if value is not None else 0, step):
            assert value is not None
            part = value[at : at + step]
            low, high = (int(v) for v in part.aminmax())
            if low < 0 or high >= size:
                wrong = int(((part < 0) | (part >= size)).nonzero()[0])
                raise ValueError(
                    f"{folder / f'{name}.npy'}: entry {at + wrong} must be in 0..{size - 1}, got {int(part[wrong])}"
                )


# ------------------------------------------------------------------------------------------- the manifest


def is_stored(folder: Path) -> bool:
    """Whether a folder has the manifest of a stored graph."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; FileNotFoundError or ValueError with what is wrong."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no stored graph ({MANIFEST} is missing); python -m fastgmtl data build")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    named = found.get("format") if isinstance(found, dict) else None
    require(path, named == FORMAT, f"must be of the format {FORMAT!r}, got {named!r}")
    kinds = {"num_nodes": int, "num_edges": int, "arrays": dict, "tasks": list, "source": str}
    for key, kind in kinds.items():
        require(path, isinstance(found.get(key), kind), f"{key} must be of type {kind.__name__}")
    for number, task in enumerate(found["tasks"]):
        _check_entry(path, f"task {number}", task, _TASK)
    for name, entry in found["arrays"].items():
        _check_entry(path, f"array {name}", entry, _ARRAY)
        # A manifest from elsewhere opens no file outside of its folder.
        require(path, Path(entry["file"]).name == entry["file"], f"array {name}: file must be a name in the folder")
        require(path, entry["dtype"] in DTYPES, f"array {name}: dtype must be one of {', '.join(DTYPES)}")
    return found


_TASK = {"name": str, "kind": str, "metric": str, "num_outputs": int, "array": str}
_ARRAY = {"file": str, "dtype": str, "shape": list, "bytes": int, "sha256": str}


def _check_entry(path: Path, what: str, entry: Any, kinds: Mapping[str, type]) -> None:
    right = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
    require(path, right, f"{what} must have {', '.join(kinds)}")


def describe(path: Path, dtype: str) -> dict[str, Any]:
    """The manifest's entry of a finished npy file."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    shape = list(map_npy(path).shape)
    size = path.stat().st_size
    return {"file": path.name, "dtype": dtype, "shape": shape, "bytes": size, "sha256": digest.hexdigest()}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


# ------------------------------------------------------------------------------------------- arrays on disk


def _open_array(folder: Path, entry: Mapping[str, Any]) -> Tensor:
    path, dtype = folder / entry["file"], DTYPES[entry["dtype"]]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file is missing, the manifest names it")
    size = path.stat().st_size
    require(path, size == entry["bytes"], f"{entry['bytes']} bytes are required, got {size}: truncated or changed")
    value = mapped(path, dtype)
    require(path, list(value.shape) == entry["shape"], f"must have shape {entry['shape']}, got {list(value.shape)}")
    return value


def _expect(path: Path, arrays: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: list[int]) -> None:
    require(path, name in arrays, f"array {name} is missing")
    value = arrays[name]
    wanted, given = (f"{kind} {list(size)}" for kind, size in ((dtype, shape), (value.dtype, value.shape)))
    require(path, wanted == given, f"{name} must be {wanted}, got {given}".replace("torch.", ""))


def mapped(path: Path, dtype: torch.dtype) -> Tensor:
    """The array of an npy file as a tensor over the pages of the file; what is written to it stays in memory.

    bfloat16 is what a file of uint16 holds. Raises ValueError for a file that is none, or holds fewer bytes or another
    dtype than it should.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, held = _header(path, file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
            wanted = on_disk(dtype)
            require(path, held == wanted and not fortran, f"must be {wanted} in C order, got {held}")
            count = math.prod(shape)
            require(path, size == offset + count * held.itemsize, f"{count} entries do not fill its {size} bytes")
            if not count:
                return torch.empty(shape, dtype=dtype)
            memory = _pages(file.fileno())
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    return torch.frombuffer(memory, dtype=dtype, offset=offset, count=count).view(shape)


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)
    except Exception as error:  # numpy and the tokenizer of headers raise a dozen types for damaged bytes
        raise ValueError(f"{path}: not a readable npy file ({error})") from error


def _pages(descriptor: int) -> mmap.mmap:
    if os.name != "posix":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    # Private pages, so that no tensor can spoil the file and no write to one ends the process. Linux refuses such a
    # mapping of more than its memory unless told that it need not be set aside.
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    flags = mmap.MAP_PRIVATE | unreserved
    return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def on_disk(dtype: torch.dtype) -> np.dtype[Any]:
    """The numpy dtype that an npy file holds for a tensor's."""
    return np.dtype(np.uint16) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype


def put(file: IO[bytes], data: bytes | Array) -> None:
    """Write all of ``data``. Every byte of a stored graph goes through here: a full disk is met here."""
    file.write(data if isinstance(data, bytes) else np.ascontiguousarray(data).data)


def begin_npy(file: IO[bytes], dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Write the header of an npy file; returns where its data begins."""
    header = {"descr": np.lib.format.dtype_to_descr(on_disk(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file through ``fill(file)`` so that at any moment the path holds the old content or the new, whole."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        fill(file)
        sync(file)
    os.replace(temporary, path)


def sync(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())

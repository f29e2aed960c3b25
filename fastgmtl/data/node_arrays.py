"""Features, labels and splits of nodes on their way into a stored graph."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.files import Array, map_npy, require
from fastgmtl.data.store import BLOCK, Progress, begin_npy, put

FEATURES = ("float32", "float64", "bfloat16", "float16")
PathLike = str | os.PathLike[str]
Copy = Callable[[IO[bytes]], object]


@dataclass
class NodeArrays:
    """What is stored of every node: the files, checked, and the tasks that their labels make."""

    num_nodes: int | None
    features: Path | None
    dtype: str
    split: Path | None
    labels: dict[str, Path]
    tasks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def check(
        cls,
        num_nodes: int | None,
        features: PathLike | None,
        dtype: str,
        labels: Mapping[str, PathLike],
        split: PathLike | None,
    ) -> NodeArrays:
        """See :func:`fastgmtl.data.build.build`; ValueError for what does not fit together."""
        if num_nodes is not None and num_nodes < 0:
            raise ValueError(f"build: num_nodes must be 0 or more, got {num_nodes}")
        if dtype not in FEATURES:
            raise ValueError(f"build: dtype must be one of {', '.join(FEATURES)}, got {dtype!r}")
        given = None if features is None else Path(features)
        part = None if split is None else Path(split)
        found = cls(num_nodes, given, dtype, part, {name: Path(path) for name, path in labels.items()})
        if given is not None:
            found._sized(given, "fiu", (2,))
        for number, (name, path) in enumerate(found.labels.items()):
            found.tasks.append(found._task(name, path, f"label{number}"))
        if part is not None:
            values = found._sized(part, "iu", (1,))
            for block in _blocks(part, values):
                require(part, bool(((block >= -1) & (block <= 2)).all()), "must be 0 train, 1 val, 2 test or -1 none")
        return found

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.features, self.split, *self.labels.values()) if path is not None]

    def _sized(self, path: Path, kinds: str, ranks: tuple[int, ...]) -> Array:
        """The array of a file, mapped; its rows must be those of the others."""
        array = map_npy(path)
        right = array.dtype.kind in kinds and array.ndim in ranks
        require(path, right, f"must be of kind {kinds!r} and rank {ranks}, got {array.dtype} {list(array.shape)}")
        if self.num_nodes is None:
            self.num_nodes = array.shape[0]
        require(path, array.shape[0] == self.num_nodes, f"must have {self.num_nodes} rows, got {array.shape[0]}")
        return array

    def _task(self, name: str, path: Path, array: str) -> dict[str, Any]:
        values = self._sized(path, "fiu", (1, 2))
        if values.dtype.kind == "f":
            if values.ndim == 1:
                return _entry(name, "regression", "r2", 1, array)
            for block in _blocks(path, values):
                fine = np.isnan(block) | (block == 0) | (block == 1)
                require(path, bool(fine.all()), "labels of a matrix must be 0, 1 or NaN (missing)")
            return _entry(name, "multilabel", "roc_auc", values.shape[1], array)
        require(path, values.ndim == 1, f"classes must have shape [N], got {list(values.shape)}")
        low = min((int(block.min()) for block in _blocks(path, values)), default=-1)
        high = max((int(block.max()) for block in _blocks(path, values)), default=-1)
        require(path, low >= -1, f"classes must be 0 or more, or -1 (missing), got {low}")
        return _entry(name, "class", "accuracy", max(1, high + 1), array)

    def copies(self, progress: Progress) -> Iterator[tuple[str, str, Copy]]:
        """The name of each array, its dtype, and what writes it into a file."""
        if self.features is not None:
            yield "x", self.dtype, _copying(self.features, self.dtype, lambda d, t: progress("features", d, t))
        if self.split is not None:
            yield "split", "int8", _copying(self.split, "int8")
        for task in self.tasks:
            dtype = "int64" if task["kind"] == "class" else "float32"
            yield task["array"], dtype, _copying(self.labels[task["name"]], dtype)


def _entry(name: str, kind: str, metric: str, outputs: int, array: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "metric": metric, "num_outputs": outputs, "array": array}


def _copying(path: Path, dtype: str, progress: Callable[[int, int], object] | None = None) -> Copy:
    def copy(file: IO[bytes]) -> None:
        array, kind, done = map_npy(path), getattr(torch, dtype), 0
        begin_npy(file, kind, array.shape)
        for block in _blocks(path, array):
            put(file, _bits(torch.from_numpy(block.astype(block.dtype.newbyteorder("="))).to(kind)))
            done += len(block)
            if progress:
                progress(done, len(array))

    return copy


def _bits(value: Tensor) -> Array:
    return value.contiguous().view(torch.uint16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


def _blocks(path: Path, array: Array) -> Iterator[Array]:
    """Rows in blocks of about BLOCK bytes; mapped anew for each, so that pages that were read are let go."""
    width = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, BLOCK // width)
    for at in range(0, len(array), step):
        yield np.array(map_npy(path)[at : at + step])

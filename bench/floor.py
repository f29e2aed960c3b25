"""Two floors under a time, measured in the same run on the same number of threads.

* bytes moved: every input read once, every output written once, at the bandwidth of a large copy;
* gather: one row of the features for every edge, in the graph's own order (hot rows of a power-law graph hit the
  caches, so uniformly random rows would be no floor), read by gather.c, which writes nothing.

A working set that fits into the last-level cache can go below the first; reading columns in tiles below the second.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fastgmtl import Graph

COPY_BYTES = 256 << 20


def best_of(run: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    run()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


@lru_cache
def copy_bandwidth(threads: int) -> float:
    """Bytes read plus bytes written in a second by a copy far larger than the caches."""
    torch.set_num_threads(threads)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES / best_of(lambda: target.copy_(source))


@lru_cache
def _reader() -> ctypes.CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="fastgmtl-bench-")) / "gather.so"
    words = [compiler, "-O3", "-march=native", "-fopenmp", "-ffast-math", "-shared", "-fPIC"]
    done = subprocess.run([*words, str(Path(__file__).with_name("gather.c")), "-o", str(library)], capture_output=True)
    if done.returncode:
        return None
    found = ctypes.CDLL(str(library))
    found.read_rows.restype = ctypes.c_float
    found.read_rows.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_int]
    return found


_times: dict[tuple[int, int, int], tuple[Tensor, float]] = {}


def gather_seconds(col: Tensor, num_rows: int, width: int, threads: int) -> float | None:
    """Seconds to read row ``col[e]`` of a float32 table [num_rows, width] for every e; None without a C compiler."""
    key = (col.data_ptr(), width, threads)
    if key not in _times:
        reader, table, index = _reader(), torch.ones(num_rows, width), col.int()
        if reader is None or width % 64:
            return None
        words = (table.data_ptr(), index.data_ptr(), index.numel(), width)
        seconds = min(best_of(lambda a=ahead: reader.read_rows(*words, a, threads), 3) for ahead in (0, 4, 16))
        _times[key] = (col, seconds)  # the tensor stays alive, so that its address names it
    return _times[key][1]


def random_row_bandwidth(num_rows: int, width: int, threads: int) -> float | None:
    """Bytes a second of reading uniformly random rows of a float32 table [num_rows, width]."""
    count = max(1, (512 << 20) // (4 * width))
    index = torch.randint(num_rows, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    seconds = gather_seconds(index, num_rows, width, threads)
    return None if seconds is None else 4 * width * count / seconds


def spmm_bytes(
    graph: Graph,
    width: int,
    weights: int,
    mode: str,
    x_width: int | None = None,
    size: int = 4,
    weight_grad: bool = True,
) -> int:
    """Compulsory traffic of an aggregation: ``width`` numbers of ``size`` bytes a row of y, ``weights`` an edge.

    The backward reads the transposed pattern, the gradient of y and the weights (and x, if the weights want a
    gradient), and writes the gradients of x and the weights.
    """
    x_width = width if x_width is None else x_width
    index = 4 * graph.num_edges + 8 * (graph.num_dst + 1)
    x, y, w = size * graph.num_src * x_width, size * graph.num_dst * width, size * graph.num_edges * weights
    forward = index + x + y + w
    return forward if mode == "fwd" else forward + index + y + x + w + ((w + x) if weights and weight_grad else 0)


def spmm_gather(graph: Graph, width: int, mode: str, threads: int, x_width: int | None = None) -> float | None:
    """Seconds for one row an edge, forward in the graph's order and (``fwdbwd``) backward in the transpose's."""
    back = graph.t()
    parts = [gather_seconds(graph.col, graph.num_src, width if x_width is None else x_width, threads)]
    if mode != "fwd":
        parts.append(gather_seconds(back.col, back.num_src, width, threads))
    return None if None in parts else sum(parts)

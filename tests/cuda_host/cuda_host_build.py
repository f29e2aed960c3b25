"""Builds csrc/cuda for the CPU with g++ (once per content) and calls it on CPU tensors through ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [
    *sorted((CSRC / "cuda").glob("*.cu")),
    *sorted((CSRC / "contract").glob("*.cpp")),
    HERE / "module.cpp",
    *sorted(HERE.glob("*.cu")),
]
FLAGS = (
    "-x c++ -std=c++17 -O1 -g1 -fPIC -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-psabi -DFASTGMTL_WITH_CUDA"
    f" -I{HERE / 'include'} -I{CSRC}"
).split()
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.int32: 4, torch.int64: 5}


def build(cache: Path, sources: list[Path] = SOURCES) -> Path:
    """The shared library of ``sources`` as they are; compiled unless ``cache`` holds it, by one process at a time."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(cache, sources)


def _build(cache: Path, sources: list[Path]) -> Path:
    compiler, extra = os.environ.get("CXX", "c++"), os.environ.get("FASTGMTL_CXXFLAGS", "").split()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(" ".join([version, *FLAGS, *extra, *map(str, sources)]).encode())
    patterns = ("cuda/*", "contract/*", "common/*", "cpu/*.h", "view.h")
    files = [path for pattern in patterns for path in CSRC.glob(pattern)]
    for path in sorted([*files, *HERE.glob("*.h"), *HERE.glob("include/*"), *HERE.glob("*.c*")]):
        digest.update(path.name.encode() + path.read_bytes())
    library = cache / f"cuda_host_{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    for old in cache.glob("cuda_host_*"):
        old.unlink()

    def compile_one(source: Path) -> str:
        target = cache / f"cuda_host_{source.stem}.o"
        command = [compiler, *FLAGS, *extra, "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile for the host:\n{done.stderr}")
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    part = library.with_suffix(".part")
    subprocess.run([compiler, "-shared", *extra, *objects, "-o", str(part), "-ldl"], check=True)
    part.replace(library)
    return library


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


def _struct(tensor: Tensor | None) -> _Tensor:
    if tensor is None:
        return _Tensor(None, (ctypes.c_int64 * 4)(), -1, 0)
    assert tensor.is_contiguous() and not tensor.is_cuda
    shape = (ctypes.c_int64 * 4)(*tensor.shape)
    return _Tensor(tensor.data_ptr(), shape, tensor.dim(), DTYPES[tensor.dtype])


def _view(tensor: Tensor | None) -> object:
    return ctypes.byref(_struct(tensor))


@dataclass(frozen=True)
class Pattern:
    """Rows of edges, as csrc/contract/pattern.h has them."""

    row_ptr: Tensor
    col: Tensor
    edge_id: Tensor | None
    cols: int

    @property
    def rows(self) -> int:
        return self.row_ptr.numel() - 1

    @property
    def edges(self) -> int:
        return self.col.numel()

    def views(self) -> list[object]:
        return [_view(self.row_ptr), _view(self.col), _view(self.edge_id), ctypes.c_int64(self.cols)]


@dataclass(frozen=True)
class Rows:
    """A matrix of tensors, as csrc/contract/gram.h has it."""

    tensors: tuple[Tensor | None, ...]
    count: int
    stacked: bool

    def views(self) -> list[object]:
        table = (_Tensor * max(1, len(self.tensors)))()
        for k, tensor in enumerate(self.tensors):
            table[k] = _struct(tensor)
        return [table, ctypes.c_int64(len(self.tensors)), ctypes.c_int64(self.count), int(self.stacked)]


def _numbers(values: list[int]) -> list[object]:
    return [(ctypes.c_int64 * len(values))(*values), ctypes.c_int64(len(values))]


def _views(tensors: Sequence[Tensor | None]) -> object:
    """An array of pointers to tensors, which it keeps."""
    return (ctypes.POINTER(_Tensor) * len(tensors))(*(ctypes.pointer(_struct(t)) for t in tensors))


def _both(pattern: Pattern, back: Pattern) -> list[object]:
    parts = [pattern.row_ptr, pattern.col, pattern.edge_id, back.row_ptr, back.col, back.edge_id]
    return [_views(parts), ctypes.c_int64(pattern.rows), ctypes.c_int64(pattern.cols)]


class HostError(RuntimeError):
    """What the host execution reported."""


class Host:
    """The compiled library; arguments and results are those of csrc/contract."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self._library = ctypes.CDLL(str(library))
        for name in (
            "spmm",
            "sddmm",
            "relation_gate",
            "relation_gate_backward",
            "attention",
            "attention_backward",
            "gatv2_score",
            "gatv2_backward",
            "edge_energy",
            "gibbs",
            "concrete",
            "concrete_draw",
            "concrete_edges",
            "gather_relu",
            "gather_relu_backward",
            "rspmm",
            "intersect",
            "block_spmm",
            "block_sddmm",
            "relu_sum",
            "relu_sum_backward",
            "gram",
            "combine",
            "task_weights",
            "fault",
            "launch",
            "guard",
            "workspace",
        ):
            getattr(self._library, f"cuda_host_{name}").restype = ctypes.c_char_p
        self.workspaces()

    def workspaces(self, of_torch: bool = True, more: int = 0) -> None:
        """From PyTorch where it offers its allocator, or from cudaMallocAsync; ``more`` bytes than are needed."""
        capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None) if of_torch else None
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        api = None if capsule is None else pointer(capsule, b"dlpack_exchange_api")
        self._library.cuda_host_workspaces(ctypes.c_void_p(api), ctypes.c_int64(more))

    def _call(self, name: str, *args: object) -> None:
        error = getattr(self._library, name)(*args)
        if error is not None:
            raise HostError(error.decode())

    def spmm(
        self,
        pattern: Pattern,
        x: Tensor,
        w: Tensor | None,
        y: Tensor,
        *,
        scale: Tensor | None = None,
        scale_of_cols: bool = False,
        arg: Tensor | None = None,
        arg_of: int = 0,
        reduce: int = 0,
        new_arg: Tensor | None = None,
    ) -> None:
        head = [*pattern.views(), _view(x), _view(w), _view(scale), int(scale_of_cols), _view(arg), arg_of, reduce]
        self._call("cuda_host_spmm", *head, _view(y), _view(new_arg))

    def sddmm(
        self,
        pattern: Pattern,
        a: Tensor,
        b: Tensor,
        out: Tensor,
        *,
        w: Tensor | None = None,
        y: Tensor | None = None,
        scale: Tensor | None = None,
        scale_of_cols: bool = False,
        arg: Tensor | None = None,
        arg_of: int = 0,
    ) -> None:
        head = [*pattern.views(), _view(a), _view(b), _view(w), _view(scale), int(scale_of_cols), _view(arg), arg_of]
        self._call("cuda_host_sddmm", *head, _view(y), _view(out))

    def relation_gate(
        self,
        z: Tensor,
        logits: Tensor,
        weight: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: int,
        y: Tensor,
    ) -> None:
        head = [_view(v) for v in (z, logits, weight, residual, mask)]
        self._call("cuda_host_relation_gate", *head, activation, _view(y))

    def relation_gate_backward(self, *tensors: Tensor | None) -> None:
        """u, z, logits, weight, mask; d_z, d_logits, d_weight, partial."""
        self._call("cuda_host_relation_gate_backward", *map(_view, tensors))

    def gram(self, a: Rows, b: Rows | None, groups: list[int], out: Tensor) -> None:
        nothing = Rows((), 0, True)
        words = [*a.views(), *(b or nothing).views(), *_numbers(groups), _view(out)]
        self._call("cuda_host_gram", *words)

    def combine(self, a: Rows, weights: Tensor, groups: list[int], out: Rows, accumulate: bool = False) -> None:
        words = [*a.views(), _view(weights), *_numbers(groups), *out.views(), int(accumulate)]
        self._call("cuda_host_combine", *words)

    def task_weights(
        self,
        method: int,
        gram: Tensor,
        vector: Tensor | None,
        order: Tensor | None,
        parameter: float,
        state: Tensor | None,
        out: Tensor,
    ) -> None:
        head = [method, _view(gram), _view(vector), _view(order), ctypes.c_double(parameter)]
        self._call("cuda_host_task_weights", *head, _view(state), _view(out))

    def attention(
        self, pattern: Pattern, inputs: list[Tensor | None], numbers: list[float], y: Tensor, lse: Tensor
    ) -> None:
        """``inputs``: from value to seed; ``numbers``: slope, dropout, whether it is of logits."""
        self._call(
            "cuda_host_attention",
            *pattern.views(),
            _views(inputs),
            (ctypes.c_double * 3)(*numbers),
            _view(y),
            _view(lse),
        )

    def attention_backward(
        self,
        pattern: Pattern,
        back: Pattern,
        inputs: list[Tensor | None],
        numbers: list[float],
        outputs: list[Tensor | None],
    ) -> None:
        """``inputs``: from g to seed; ``outputs``: from d_value to d_edge."""
        self._call(
            "cuda_host_attention_backward",
            *_both(pattern, back),
            _views(inputs),
            (ctypes.c_double * 3)(*numbers),
            _views(outputs),
        )

    def gatv2_score(self, pattern: Pattern, inputs: list[Tensor | None], slope: float, out: Tensor) -> None:
        """``inputs``: from x_dst to at_src."""
        self._call("cuda_host_gatv2_score", *pattern.views(), _views(inputs), ctypes.c_double(slope), _view(out))

    def gatv2_backward(
        self,
        pattern: Pattern,
        back: Pattern,
        inputs: list[Tensor | None],
        slope: float,
        outputs: list[Tensor | None],
    ) -> None:
        """``inputs``: from g to at_src; ``outputs``: from d_dst to d_att."""
        head = [*_both(pattern, back), _views(inputs), ctypes.c_double(slope)]
        self._call("cuda_host_gatv2_backward", *head, _views(outputs))

    def edge_energy(
        self, pattern: Pattern, inputs: list[Tensor | None], options: list[int], factor: float, out: Tensor
    ) -> None:
        """``inputs``: from a to label_dst; ``options``: to, field_order, shift_order."""
        head = [*pattern.views(), _views(inputs), *options, ctypes.c_double(factor)]
        self._call("cuda_host_edge_energy", *head, _view(out))

    def gibbs(
        self,
        children: Pattern,
        inputs: list[Tensor | None],
        burn_in: int,
        normalised: bool,
        label: Tensor,
        mean: Tensor,
    ) -> None:
        """``inputs``: from field to seed."""
        head = [*children.views(), _views(inputs), ctypes.c_int64(burn_in), int(normalised)]
        self._call("cuda_host_gibbs", *head, _view(label), _view(mean))

    def concrete(
        self, inputs: list[Tensor | None], order: int, temperature: float, explore: float, out: Tensor
    ) -> None:
        """``inputs``: from logits to seed."""
        numbers = ctypes.c_double(temperature), ctypes.c_double(explore)
        self._call("cuda_host_concrete", _views(inputs), order, *numbers, _view(out))

    def concrete_draw(self, logits: Tensor, seed: Tensor, explore: float, words: Tensor, row_ptr: Tensor) -> None:
        head = [_view(logits), _view(seed), ctypes.c_double(explore)]
        self._call("cuda_host_concrete_draw", *head, _view(words), _view(row_ptr))

    def concrete_edges(self, words: Tensor, row_ptr: Tensor, col: Tensor) -> None:
        self._call("cuda_host_concrete_edges", _view(words), _view(row_ptr), _view(col))

    def gather_relu(self, pattern: Pattern, inputs: list[Tensor | None], out: Tensor) -> None:
        """``inputs``: from h to at_t."""
        self._call("cuda_host_gather_relu", *pattern.views(), _views(inputs), _view(out))

    def gather_relu_backward(
        self, pattern: Pattern, back: Pattern, inputs: list[Tensor | None], outputs: list[Tensor | None]
    ) -> None:
        """``inputs``: from g to at_t; ``outputs``: from d_h to d_t."""
        self._call("cuda_host_gather_relu_backward", *_both(pattern, back), _views(inputs), _views(outputs))

    def rspmm(
        self,
        pattern: Pattern,
        inputs: list[Tensor | None],
        options: list[int],
        y: Tensor,
        new_arg: Tensor | None = None,
    ) -> None:
        """``inputs``: from two to arg; ``options``: to, message, half, reduce."""
        to, message, half, reduce = options
        head = [*pattern.views(), _views(inputs), to, message, ctypes.c_int64(half), reduce]
        self._call("cuda_host_rspmm", *head, _view(y), _view(new_arg))

    def intersect(
        self,
        pattern: Pattern,
        pairs: Tensor,
        without: Tensor | None,
        counts: Tensor,
        outputs: Sequence[Tensor | None] = (None, None, None),
    ) -> None:
        """``outputs``: what is listed of both, first and second; none to count."""
        head = [*pattern.views(), _views([pairs, without]), _view(counts)]
        self._call("cuda_host_intersect", *head, _views(outputs))

    def relu_sum(self, pattern: Pattern, inputs: list[Tensor | None], y: Tensor) -> None:
        """``inputs``: from x to at_e."""
        self._call("cuda_host_relu_sum", *pattern.views(), _views(inputs), _view(y))

    def relu_sum_backward(self, back: Pattern, inputs: list[Tensor | None], outputs: list[Tensor | None]) -> None:
        """``inputs``: from g to at_e; ``outputs``: d_x and d_e."""
        self._call("cuda_host_relu_sum_backward", *back.views(), _views(inputs), _views(outputs))

    def block_spmm(self, pattern: Pattern, blocks: Tensor, x: Tensor, transposed: bool, y: Tensor) -> None:
        self._call("cuda_host_block_spmm", *pattern.views(), _view(blocks), _view(x), int(transposed), _view(y))

    def block_sddmm(self, pattern: Pattern, g: Tensor, x: Tensor, out: Tensor) -> None:
        self._call("cuda_host_block_sddmm", *pattern.views(), _view(g), _view(x), _view(out))

    def fault(self, name: str, data: Tensor, out: Tensor) -> None:
        self._call("cuda_host_fault", name.encode(), ctypes.c_void_p(data.data_ptr()), ctypes.c_void_p(out.data_ptr()))

    def launch(self, blocks: int, tiles: int, stops: bool = False) -> int:
        """How many blocks of a grid have run with all their threads; or it ``stops`` in the first one."""
        complete = ctypes.c_int64()
        self._call("cuda_host_launch", ctypes.c_int64(blocks), ctypes.c_int64(tiles), stops, ctypes.byref(complete))
        return complete.value

    def guard(self, device: int) -> tuple[int, int]:
        """The current device within a guard for ``device``, and after it."""
        found = (ctypes.c_int * 2)()
        self._call("cuda_host_guard", device, found)
        return found[0], found[1]

    def workspace(self, size: int, device: int = 1) -> tuple[bool, int]:
        """Whether a workspace has memory, and how far its byte 8 is from its first."""
        found = (ctypes.c_int64 * 2)()
        self._call("cuda_host_workspace", ctypes.c_int64(size), device, found)
        return bool(found[0]), found[1]

    def kernels(self) -> tuple[set[str], set[str]]:
        """Names of the kernels of csrc/cuda in the library, and of those that have run."""
        room = 1024
        offsets = (ctypes.c_uint64 * room)()
        count = self._library.cuda_host_executed(offsets, ctypes.c_int64(room))
        ran = set(offsets[:count])
        table = subprocess.run(["nm", "-C", str(self.path)], capture_output=True, text=True, check=True).stdout
        known, executed = set(), set()
        for line in table.splitlines():
            address, kind, name = (*line.split(" ", 2), "", "")[:3]
            if kind.lower() == "t" and "_kernel" in name and "(" in name and "cold" not in name:
                known.add(name)
                if int(address, 16) in ran:
                    executed.add(name)
        return known, executed

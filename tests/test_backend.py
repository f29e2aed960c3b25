"""The three states of the compiled module, the choice of a backend, and what an import does; each in a process of its
own, on a copy of the package where the module is absent or broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgmtl
from fastgmtl import backend, use_backend

PACKAGE = Path(fastgmtl.__file__).parent
USE = """
import torch, fastgmtl
graph = fastgmtl.Graph.from_edge_index(torch.tensor([[0, 1], [1, 0]]))
x = torch.ones(2, 1)
print(fastgmtl.ops.spmm(graph, x).tolist(), fastgmtl.ops.sddmm(graph, x, x).tolist())
"""


def run(code: str, path: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FASTGMTL_")}
    env = kept | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-P", "-W", "always::UserWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, cwd=path)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without its compiled module."""
    root = tmp_path_factory.mktemp("without")
    shutil.copytree(PACKAGE, root / "fastgmtl", ignore=shutil.ignore_patterns("_C*", "__pycache__", "*.npz"))
    return root


@pytest.fixture(scope="module")
def broken(without: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose compiled module is no such thing."""
    root = tmp_path_factory.mktemp("broken")
    shutil.copytree(without / "fastgmtl", root / "fastgmtl")
    suffix = next(
        s for s in __import__("importlib.machinery").machinery.EXTENSION_SUFFIXES if "cpython" in s or s == ".abi3.so"
    )
    (root / "fastgmtl" / f"_C{suffix}").write_bytes(b"not a shared library")
    return root


def test_absent_runs_the_reference_and_warns_once(without: Path) -> None:
    done = run("import fastgmtl; print('silent')", without)
    assert (done.returncode, done.stdout, done.stderr) == (0, "silent\n", "")
    done = run(USE + USE, without)
    assert done.returncode == 0 and done.stdout == "[[1.0], [1.0]] [1.0, 1.0]\n" * 2
    assert done.stderr.count("FastgmtlWarning") == 1
    text = "fastgmtl runs its PyTorch reference on cpu: the package was installed without its compiled module"
    assert text in done.stderr


def test_absent_is_an_error_where_kernels_are_asked_for(without: Path) -> None:
    done = run(USE, without, FASTGMTL_BACKEND="kernel")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: FASTGMTL_BACKEND=kernel, but the package was installed without its compiled module. "
        f"Mend it: {backend.REBUILD}"
    )


def test_absent_is_what_was_asked_for(without: Path) -> None:
    done = run(USE, without, FASTGMTL_BACKEND="reference")
    assert (done.returncode, done.stderr) == (0, "")


def test_broken_is_an_error_at_the_first_use(broken: Path) -> None:
    done = run("import fastgmtl; print('imported')", broken)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")
    for choice in ("auto", "kernel"):
        done = run(USE, broken, FASTGMTL_BACKEND=choice)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("RuntimeError: ") and "cannot be loaded" in last and backend.REBUILD in last
        assert f"torch {torch.__version__}" in last
    done = run(USE, broken, FASTGMTL_BACKEND="reference")
    assert done.returncode == 0


def test_info_of_every_state(without: Path, broken: Path, kernels: object) -> None:
    for path, state, runs in (
        (without, "absent", "reference ("),
        (broken, "broken: ", "reference ("),
        (PACKAGE.parent, "ok", "kernel"),
    ):
        done = run("import fastgmtl; print(fastgmtl.info())", path)
        assert done.returncode == 0 and done.stderr == ""
        assert f"compiled module: {state}" in done.stdout
        row = next(line for line in done.stdout.splitlines() if line.startswith("spmm "))
        assert row.split(None, 1)[1].startswith(runs)


def test_unknown_names(without: Path) -> None:
    done = run("import fastgmtl", without, FASTGMTL_BACKEND="cuda")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == "ValueError: FASTGMTL_BACKEND must be one of auto, kernel, reference, got 'cuda'"
    )
    with pytest.raises(ValueError) as caught, use_backend("fast"):
        pass
    assert str(caught.value) == "use_backend: name must be one of auto, kernel, reference, got 'fast'"


def test_use_backend_is_put_back() -> None:
    before = backend.choice()
    with pytest.raises(KeyError), use_backend("reference"):
        assert backend.choice() == "reference"
        raise KeyError
    assert backend.choice() == before


def test_simd_by_the_environment(kernels: object) -> None:
    code = "from fastgmtl import backend; print(backend.kernels.simd())"
    assert run(code, FASTGMTL_SIMD="baseline").stdout == "baseline\n"
    done = run(USE, FASTGMTL_SIMD="sse9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: FASTGMTL_SIMD must be baseline, avx2 or avx512, got 'sse9'"


def test_import_is_silent_and_touches_nothing() -> None:
    """No output, no warning, no CUDA, no network, and nothing heavy that only some parts need."""
    done = run(
        """
import socket, sys
import torch
def refuse(*_, **__): raise AssertionError("import opens a socket")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
import fastgmtl
assert not torch.cuda.is_initialized()
assert fastgmtl.info()
assert not torch.cuda.is_initialized()
heavy = {"torch_geometric", "torch_sparse", "matplotlib", "sklearn", "typer", "rich", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_module_before_torch(kernels: object) -> None:
    done = run("from fastgmtl import _C\nassert _C.simd()\n" + USE)
    assert (done.returncode, done.stderr) == (0, "")


def test_info_names_what_runs(kernels: object) -> None:
    text = fastgmtl.info()
    for word in (fastgmtl.__version__, torch.__version__, "SIMD", "threads", "devices", "built by", "border"):
        assert word in text
    with use_backend("reference"):
        assert next(line for line in fastgmtl.info().splitlines() if line.startswith("spmm ")).split()[1] == "reference"

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastgmtl

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two benchmark files."""
    (tmp_path / "bench").mkdir()
    for name in ("spmm", "overhead"):
        (tmp_path / "bench" / f"bench_{name}.py").write_text("")
    monkeypatch.setattr(fastgmtl, "__file__", str(tmp_path / "fastgmtl" / "__init__.py"))
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run instead of running it; the exit code is 0."""
    commands: list[list[str]] = []

    def record(words: list[str], cwd: Path) -> SimpleNamespace:
        commands.append(words)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", record)
    return commands


def test_all_and_named(cli: Cli, checkout: Path, started: list[list[str]]) -> None:
    assert cli("bench")[0] == 0
    assert cli("bench", "spmm")[0] == 0
    files = [[Path(word).name for word in words if word.endswith(".py")] for words in started]
    assert files == [["bench_overhead.py", "bench_spmm.py"], ["bench_spmm.py"]]


def test_groups(cli: Cli, checkout: Path, started: list[list[str]]) -> None:
    for name in ("meta", "rcgrad", "layers", "gpu"):
        (checkout / "bench" / f"bench_{name}.py").write_text("")
    for group, names in (
        ("ops", ["overhead", "spmm"]),
        ("methods", ["meta", "rcgrad"]),
        ("layers", ["layers"]),  # the file accelerate is not there
    ):
        assert cli("bench", group)[0] == 0
        assert [Path(word).name for word in started[-1] if word.endswith(".py")] == [f"bench_{n}.py" for n in names]
    assert cli("bench", "methods", "meta", "spmm")[0] == 0  # each once
    assert sum(word.endswith(".py") for word in started[-1]) == 3


def test_compare(cli: Cli, checkout: Path, started: list[list[str]]) -> None:
    old = checkout / "old.jsonl"
    code, _, errors = cli("bench", "--compare", old)
    assert code == 2 and errors.startswith(f"error: --compare: file {old} does not exist")
    old.write_text("{}")
    assert cli("bench", "--compare", old)[0] == 0
    assert started[-1][-1] == f"--compare={old}"


def test_unknown_name(cli: Cli, checkout: Path, started: list[list[str]]) -> None:
    code, _, errors = cli("bench", "spm")
    assert code == 2
    known = "gradients, layers, meta, methods, ops, overhead, spmm"
    assert errors == f"error: bench: 'spm' is not known; did you mean spmm? known: {known}\n"
    assert started == []


def test_no_bench_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastgmtl, "__file__", str(tmp_path / "fastgmtl" / "__init__.py"))
    code, _, errors = cli("bench")
    assert code == 2
    assert errors.startswith(f"error: bench: there are no benchmarks in {tmp_path / 'bench'};")


def test_without_pytest_benchmark(
    cli: Cli, checkout: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pytest_benchmark" else name)
    code, _, errors = cli("bench")
    assert code == 2
    assert errors == 'error: bench: pytest_benchmark is not installed; do: pip install "fastgmtl[bench]"\n'

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastgmtl.cli import data as module
from fastgmtl.cli.data import size
from fastgmtl.cli.errors import CliError
from fastgmtl.data import store

Cli = Callable[..., tuple[int, str, str]]
NODES = 200


@pytest.fixture
def files(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    edges = draw.integers(0, NODES, (2000, 2))
    np.savetxt(tmp_path / "edges.csv", edges, fmt="%d", delimiter=",")
    x = draw.normal(size=(NODES, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "sign.npy", (x[:, 0] > 0).astype(int))
    np.save(tmp_path / "sum.npy", x.sum(1))
    return tmp_path


def _build(cli: Cli, files: Path, *more: object) -> tuple[int, str, str]:
    labels = ("--labels", f"sign={files / 'sign.npy'}", "--labels", f"sum={files / 'sum.npy'}")
    words = ("data", "build", files / "edges.csv", "--out", files / "g", "--features", files / "x.npy", *labels)
    return cli(*words, "--dtype", "bfloat16", "--memory", "64MiB", *more)


def test_build_check_show_and_train(cli: Cli, files: Path) -> None:
    code, out, err = _build(cli, files)
    assert (code, err) == (0, "")
    assert "reading edges\nsorting rows\nfeatures\n" in out
    assert "200 nodes, 2,000 edges, 4 features in bfloat16; tasks: sign (class), sum (regression)" in out
    assert f"python -m fastgmtl train --data stored:{files / 'g'}" in out
    code, out, err = cli("data", "check", files / "g")
    assert (code, err) == (0, "") and out.endswith("every index is in range, every checksum right\n")
    code, out, err = cli("data", "show", f"stored:{files / 'g'}")
    assert (code, err) == (0, "")
    assert "g: 200 nodes, 2,000 edges, 4 features" in out and "sign  class" in out
    assert "in-degree: mean 10.00, largest" in out
    for run, more in (("whole", ("recompute=true",)), ("sampled", ("batch_size=50", "neighbors=5,5"))):
        settings = [word for item in ("hidden=8", "layers=2", "epochs=3", *more) for word in ("--set", item)]
        where = ("--data", f"stored:{files / 'g'}", "--out", files / run, "--threads", 1)
        code, out, err = cli("train", *where, *settings)
        assert (code, err) == (0, "")
        with open(files / run / "metrics.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 6


def test_a_terminal_gets_a_bar_a_stage(files: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    options = {"num_nodes": None, "features": files / "x.npy", "dtype": "float16", "split": None, "edge_ids": False}
    module.build_graph(console, [files / "edges.csv"], files / "g", "1GiB", [], source="", **options)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(re.search(rf"{stage} +.*100%", shown) for stage in ("reading edges", "sorting rows", "features"))


def test_a_relative_name_is_found_from_anywhere(cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _build(cli, files)[0] == 0
    monkeypatch.chdir(files)
    settings = ("--set", "hidden=8", "--set", "epochs=2", "--threads", 1)
    assert cli("train", "--data", "stored:g", "--out", "run", *settings)[0] == 0
    monkeypatch.chdir("/")
    assert cli("train", "--resume", "--out", files / "run", "--set", "epochs=3")[0] == 0


def test_a_damaged_graph(cli: Cli, files: Path) -> None:
    assert _build(cli, files)[0] == 0
    col = np.load(files / "g" / "col.npy")
    col[3] = NODES
    np.save(files / "g" / "col.npy", col)
    for words in (("data", "check", files / "g"), ("train", "--data", files / "g", "--out", files / "run")):
        code, _, err = cli(*words)
        assert code in (1, 2) and "col.npy: entry 3 must be in 0..199, got 200" in err
    assert cli("data", "check", files)[0] == 1


def test_an_interrupted_build_says_how_to_go_on(cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "build", interrupted)
        code, out, _ = _build(cli, files)
    assert code == 130 and "the same command goes on where it stopped" in out
    assert _build(cli, files)[0] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--memory", "much"), "--memory: a size as 512MiB or 4GiB is required, got 'much'"),
        (("--memory", "1MiB"), "memory must be at least 16 MiB"),
        (("--labels", "sign"), "--labels: NAME=FILE is required, got 'sign'"),
        (("--num-nodes", "7"), "must have 7 rows, got 200"),
        (("--dtype", "int4"), "dtype must be one of float32"),
    ],
)
def test_refused(cli: Cli, files: Path, more: tuple[str, ...], message: str) -> None:
    code, _, err = _build(cli, files, *more)
    assert code == 2 and err.startswith("error: ") and message in err
    assert not (files / "g").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 << 30), ("512MiB", 512 << 20), ("1.5g", 3 << 29), ("64 mb", 64 << 20), ("1000", 1000)],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


def test_sizes_that_are_none() -> None:
    with pytest.raises(CliError, match="got '4 GiB of it'"):
        size("4 GiB of it")


def test_absent(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("data", "check", tmp_path)
    assert code == 1 and f"no stored graph ({store.MANIFEST} is missing)" in err
    code, _, err = cli("data", "show", "corra")
    assert code == 2 and "is no data set" in err
    code, _, err = cli("data", "build", tmp_path / "none.txt", "--out", tmp_path / "g")
    assert code == 1 and "none.txt: no such file" in err

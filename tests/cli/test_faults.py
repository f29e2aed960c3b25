"""A process may die at any moment: no checkpoint is lost, and the run that goes on has the curve of one that lived."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgmtl.cli import checkpoint, run
from fastgmtl.methods import Trainer

Cli = Callable[..., tuple[int, str, str]]
EPOCHS = 12
WORDS = ("--set", "hidden=4", "--set", "layers=1", "--threads", 1, "--set", f"epochs={EPOCHS}")


def _curve(out: Path) -> list[tuple[str, ...]]:
    with open(out / "metrics.csv", newline="") as file:
        return [tuple(v for k, v in row.items() if k != "seconds") for row in csv.DictReader(file)]


@pytest.fixture
def whole(cli: Cli, rings: Path, tmp_path: Path) -> list[tuple[str, ...]]:
    """The curve of a run that nothing disturbs."""
    assert cli("train", "--data", rings, "--out", tmp_path / "whole", *WORDS)[0] == 0
    return _curve(tmp_path / "whole")


class Killed(BaseException):
    """What a SIGKILL leaves behind: nothing after it runs."""


class Killer:
    """Dies at the n-th of the steps by which files come into being: opened, written in part, flushed, renamed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.seen = 10**9, 0
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "mkdir"), (Trainer, "run_epoch")):
            self._patch(monkeypatch, owner, name)
        monkeypatch.setattr("builtins.open", self._open(open))
        # What a process that is dead does not do: rid of the part of a file that was not finished.
        unlink = Path.unlink
        monkeypatch.setattr(
            Path, "unlink", lambda path, missing_ok=False: self.left > 0 and unlink(path, missing_ok=missing_ok)
        )
        monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)

    def step(self) -> None:
        """One step less to live."""
        self.seen += 1
        self.left -= 1
        if self.left <= 0:
            raise Killed

    def _patch(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def patched(*args: Any, **options: Any) -> Any:
            self.step()
            found = real(*args, **options)
            self.step()
            return found

        monkeypatch.setattr(owner, name, patched)

    def _open(self, real: Any) -> Any:
        def patched(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real(path, mode, *args, **options)
            if "w" in mode or "a" in mode:
                if self.left == 1:
                    file.write(b"half" if "b" in mode else "7,gra")
                    file.close()
                self.step()
            return file

        return patched


def test_death_at_every_write(
    cli: Cli, rings: Path, tmp_path: Path, whole: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run dies after 1, 2, 4, 7 ... steps of those that write files, again and again, until it comes to its end."""
    out, draw, deaths = tmp_path / "run", random.Random(0), 0
    killer = Killer(monkeypatch)
    while True:
        killer.left = 1 + draw.randrange(40) if deaths < 30 else 10**9
        resume = ("--resume",) if (out / "config.json").exists() else ("--data", rings, "--overwrite", *WORDS)
        try:
            code, _, errors = cli("train", "--out", out, *resume)
        except Killed:
            deaths += 1
            if (out / "last.pt").exists():
                killer.left = 10**9
                epoch = checkpoint.load(out / "last.pt")["state"]["epoch"]
                assert 1 <= epoch <= EPOCHS
            continue
        assert (code, errors) == (0, "")
        break
    assert deaths == 30
    assert _curve(out) == whole


def test_fifty_kills(cli: Cli, rings: Path, tmp_path: Path) -> None:
    """By SIGKILL, at random times: checkpoints only advance, all can be read, and the curve is that of one life."""
    epochs, out = 400, tmp_path / "run"
    script = [sys.executable, str(Path(__file__).with_name("kills.py")), str(rings), str(out), str(epochs), "50"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=170)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["code"] == 0 and told["killed"] >= 50
    assert told["epochs"] == sorted(told["epochs"]) and told["epochs"][-1] == epochs
    assert len(set(told["epochs"])) > 10  # they were killed while they trained
    more = ("--set", f"epochs={epochs}", "--set", f"patience={epochs}")
    assert cli("train", "--data", rings, "--out", tmp_path / "whole", *WORDS[:-2], *more)[0] == 0
    assert _curve(out) == _curve(tmp_path / "whole")


def test_a_full_disk(
    cli: Cli, rings: Path, tmp_path: Path, whole: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message; the checkpoint from before is whole, and with room again the run goes on."""
    out = tmp_path / "run"
    assert cli("train", "--data", rings, "--out", out, *WORDS, "--set", "epochs=5")[0] == 0
    before = (out / "last.pt").read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, errors = cli("train", "--resume", "--out", out, "--set", f"epochs={EPOCHS}")
    assert (code, errors) == (1, "error: [Errno 28] No space left on device\n")
    assert (out / "last.pt").read_bytes() == before
    assert cli("train", "--resume", "--out", out, "--set", f"epochs={EPOCHS}")[0] == 0
    assert _curve(out) == whole


@contextmanager
def two_ranks(*words: object) -> Iterator[list[subprocess.Popen[str]]]:
    """The command line in two processes that meet as those of torchrun do, which would end one after the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fastgmtl", *map(str, words)]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **common, **path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_rank_that_is_killed_ends_the_others(cli: Cli, tmp_path: Path) -> None:
    """Within 20 seconds, with a message; one process goes on from the checkpoint."""
    out, small = tmp_path / "run", ("--set", "hidden=8", "--set", "layers=1", "--threads", 1)
    words = ("train", "--dist", "partition", "--data", "debian", "--out", out, *small, "--set", "epochs=4000")
    with two_ranks(*words) as (first, second):
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("epoch  100/"):
                break
        second.kill()
        killed = time.monotonic()
        _, errors = first.communicate(timeout=60)
        assert time.monotonic() - killed < 20
    assert first.returncode == 1
    assert errors.startswith("error: rank 0 of 2: another rank has ended or does not answer ("), errors
    assert f"torchrun --nproc-per-node 2 -m fastgmtl train --resume --out {out}" in errors
    assert "Traceback" not in errors
    if (out / "last.pt").exists():
        reached = checkpoint.load(out / "last.pt")["state"]["epoch"]
        code, text, _ = cli("train", "--resume", "--out", out, "--set", f"epochs={reached + 1}")
        assert code == 0 and f"resumed after epoch {reached}" in text

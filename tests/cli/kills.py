"""Kills a run again and again: ``kills.py DATA OUT EPOCHS KILLS``, in a process of its own that forks the runs.

PyTorch is imported once, so that a run begins within milliseconds; the children are killed by SIGKILL at random times,
or sooner where the machine is so fast that the run would end before the last of them.
Prints how many were killed, and the epochs of the checkpoints that were found after each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fastgmtl.cli import checkpoint, run
from fastgmtl.cli.app import run as command


def child(words: list[str]) -> int:
    """A run in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(command(words))


def wait(path: Path, seconds: float, saves: int) -> None:
    """For so many seconds, or until a file has been written anew more than ``saves`` times."""
    end, seen = time.monotonic() + seconds, _written(path)
    while time.monotonic() < end and saves >= 0:
        time.sleep(0.002)
        saves, seen = saves - (_written(path) != seen), _written(path)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def main(data: str, out: Path, epochs: int, kills: int) -> None:
    run.SAVE_SECONDS = 0.0
    run.machine = lambda device: {}  # asks git, which takes longer than a life
    draw, killed, found = random.Random(1), 0, [0]
    start = ["--data", data, "--set", "hidden=4", "--set", "layers=1", "--threads", "1", "--set", f"epochs={epochs}"]
    start += ["--set", f"patience={epochs}"]
    while True:
        more = ["--resume"] if (out / "config.json").exists() else ["--overwrite", *start]
        pid = child(["train", "--out", str(out), *more])
        if killed < kills:
            wait(out / "last.pt", draw.uniform(0.02, 0.6), (epochs - found[-1]) // (2 * (kills - killed + 1)))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if (out / "last.pt").exists():
            found.append(checkpoint.load(out / "last.pt")["state"]["epoch"])
        if not os.WIFSIGNALED(status):
            print(json.dumps({"killed": killed, "code": os.waitstatus_to_exitcode(status), "epochs": found}))
            return
        killed += 1


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

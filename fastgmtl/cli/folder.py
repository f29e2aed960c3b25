"""The folder of one run: names of its files, refusal to overwrite, the logs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastgmtl.cli import checkpoint
from fastgmtl.cli.errors import CliError
from fastgmtl.data import TaskSet
from fastgmtl.methods import Epoch

COLUMNS = ("epoch", "task", "metric", "train_loss", "val_score", "rank", "best", "seconds")
FILES = (
    "config.json",
    "machine.json",
    "metrics.csv",
    "events.jsonl",
    "curves.png",
    "results.json",
    "report.md",
    "last.pt",
    "best.pt",
)


@dataclass
class History:
    """What metrics.csv holds: by task the epochs, training losses and val scores; the seconds of all epochs."""

    epochs: list[int] = field(default_factory=list)
    loss: dict[str, list[float]] = field(default_factory=dict)
    score: dict[str, list[float]] = field(default_factory=dict)
    best: int = 0
    seconds: float = 0.0


def check(path: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds anything unless told to go on in it or to start again. Nothing is changed."""
    if path.exists() and not path.is_dir():
        raise CliError(f"--out: {path} is a file, a folder is required")
    if path.is_dir() and any(path.iterdir()) and not resume and not overwrite:
        raise CliError(
            f"--out: {path} is not empty; --resume goes on in it, --overwrite starts again in it, "
            "--out takes another folder"
        )


def make(path: Path, overwrite: bool) -> None:
    """Make the folder; with ``overwrite``, rid of what an earlier run wrote."""
    path.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _clear(path)


def _clear(path: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    for seed in path.glob("seed*"):
        if (seed / "config.json").exists():
            _clear(seed)
            if not any(seed.iterdir()):
                seed.rmdir()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. NaN and infinity, which JSON lacks, become null."""
    checkpoint.write_text(path, json.dumps(_plain(value), indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; CliError names the file and what is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CliError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CliError(f"{path}: an object is required, got {type(value).__name__}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Logs:
    """metrics.csv, one row an epoch and task, and events.jsonl, one line an event. Both are flushed at every call."""

    def __init__(self, path: Path, tasks: TaskSet) -> None:
        self.metrics = path / "metrics.csv"
        self.events = path / "events.jsonl"
        self._tasks = tasks

    def begin(self, epoch: int) -> None:
        """Make metrics.csv ready to go on after the epoch: rows of later ones, lost to a checkpoint, are dropped."""
        rows = [row for row in self._rows() if int(row["epoch"]) <= epoch]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        checkpoint.write_text(self.metrics, text.getvalue())

    def add(self, epoch: Epoch) -> None:
        """One row a task."""
        with open(self.metrics, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for name, task in self._tasks.items():
                values = (epoch.loss[name], epoch.score[name], epoch.rank)
                numbers = ["" if math.isnan(v) else repr(v) for v in values]
                tail = (int(epoch.best), f"{epoch.seconds:.6f}")
                writer.writerow([epoch.epoch, name, task.metric, *numbers, *tail])

    def event(self, name: str, **values: Any) -> None:
        """One line with the time, the name and the values."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps(_plain({"time": now, "event": name, **values}))
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def history(self) -> History:
        """All epochs so far."""
        out = History(loss={t: [] for t in self._tasks}, score={t: [] for t in self._tasks})
        for row in self._rows():
            epoch, task = int(row["epoch"]), row["task"]
            if not out.epochs or out.epochs[-1] != epoch:
                out.epochs.append(epoch)
                out.seconds += float(row["seconds"])
            out.loss[task].append(_number(row["train_loss"]))
            out.score[task].append(_number(row["val_score"]))
            if row["best"] == "1":
                out.best = epoch
        return out

    def _rows(self) -> list[dict[str, str]]:
        if not self.metrics.exists():
            return []
        with open(self.metrics, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # A process that was killed may leave half a last row; it is of an epoch after the last checkpoint.
        if rows and not self._whole(rows[-1]):
            rows.pop()
        for line, row in enumerate(rows, 2):
            if not self._whole(row):
                raise CliError(f"{self.metrics}: line {line} is damaged; mend or remove it to go on")
        return rows

    def _whole(self, row: dict[str, str]) -> bool:
        try:
            numbers = [float(row[key] or "nan") for key in ("train_loss", "val_score", "rank")]
            return (
                int(row["epoch"]) >= 1
                and float(row["seconds"]) >= 0
                and row["task"] in self._tasks
                and row["best"] in ("0", "1")
                and len(numbers) == 3
            )
        except (KeyError, TypeError, ValueError):
            return False


class NoLogs(Logs):
    """Of a process that is not the one that writes."""

    def begin(self, epoch: int) -> None:
        """Nothing."""

    def add(self, epoch: Epoch) -> None:
        """Nothing."""

    def event(self, name: str, **values: Any) -> None:
        """Nothing."""

    def history(self) -> History:
        """Of no epochs."""
        return History()


def _number(text: str) -> float:
    return float(text) if text else math.nan

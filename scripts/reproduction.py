"""docs/reproduction.md: one section a system, each written by its own script from what it has measured."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

import fastgmtl
from fastgmtl.cli.options import parse
from fastgmtl.methods import METHODS
from fastgmtl.methods.training import TrainConfig

BOOK = Path(__file__).resolve().parents[1] / "docs" / "reproduction.md"
HEAD = """# What was reproduced

Published figures beside those of this package, whatever they show. Every section is written by the command that it
names; means and deviations (of a sample) are over seeds or folds.
"""


class Plan(Protocol):
    """What is measured: one training, or a few that belong together."""

    @property
    def key(self) -> tuple[str, ...]:
        """What it is: the first columns of its row."""

    def measure(self) -> tuple[str, ...]:
        """What was found: the other columns."""


def parser(description: str | None, runs: Iterable[str], epochs: int, name: str) -> argparse.ArgumentParser:
    """What the scripts of methods take; rows go to results/NAME.csv."""
    found, known = argparse.ArgumentParser(description=description), list(runs)
    found.add_argument("--runs", nargs="+", choices=known, default=known)
    found.add_argument("--epochs", type=int, default=epochs)
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    found.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the methods that have it")
    found.add_argument("--out", type=Path, default=Path(f"results/{name}.csv"), help="a row for each training")
    return found


def configured(method: str, changes: Mapping[str, Any], settings: Sequence[str], epochs: int) -> TrainConfig:
    """The method's settings: what differs from its defaults, and KEY=VALUE for those that it has."""
    kind = METHODS[method].config_type
    keys = {field.name for field in dataclasses.fields(kind)}
    mine = [setting for setting in settings if setting.partition("=")[0] in keys]
    return parse(kind, mine, {**changes, "epochs": epochs, "patience": epochs})


def measured(
    plans: Sequence[Plan], head: Sequence[str], path: Path, minutes: float = float("inf")
) -> list[tuple[str, ...]]:
    """The rows of the plans; those not in the file yet are added as long as there is time to begin them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(",".join(head) + "\n")
    with path.open(newline="") as file:
        kept = [tuple(row) for row in list(csv.reader(file))[1:]]
    found, start = [], time.perf_counter()
    for plan in plans:
        row = next((row for row in kept if row[: len(plan.key)] == plan.key), None)
        if row is None and time.perf_counter() - start <= 60 * minutes:
            row = (*plan.key, *plan.measure())
            with path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, sep="  ", flush=True)
        if row is not None:
            found.append(row)
    return found


def write_section(name: str, title: str, command: str, text: str) -> None:
    """Put a section into the book, in the place of the one of this name if there is one."""
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = f"fastgmtl {fastgmtl.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    command = re.sub(r" --minutes \S+", "", command)  # how long one was willing to wait changes no row
    section = f"<!-- {name} -->\n## {title}\n\n`{command}`, {now}, {versions}.\n\n{text.strip()}\n<!-- /{name} -->\n"
    book = BOOK.read_text() if BOOK.exists() else HEAD
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->\n", re.DOTALL)
    book = pattern.sub(lambda _: section, book) if pattern.search(book) else f"{book.rstrip()}\n\n{section}"
    BOOK.parent.mkdir(exist_ok=True)
    BOOK.write_text(book)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def spread(values: Sequence[float], scale: float = 100.0) -> str:
    """Mean and deviation, in percent unless ``scale`` says otherwise."""
    found = torch.tensor(values, dtype=torch.float64) * scale
    deviation = f" ± {float(found.std()):.2f}" if len(values) > 1 else ""
    return f"{float(found.mean()):.2f}{deviation}"

"""The commands data build, data check and data show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastgmtl.cli.errors import CliError
from fastgmtl.data import load
from fastgmtl.data import store as stores
from fastgmtl.data.build import build

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def build_graph(
    console: Console, edges: Sequence[Path], out: Path, memory: str, labels: Sequence[str], **options: Any
) -> None:
    """Build a stored graph, with a bar for each stage."""
    named = dict(_named(item) for item in labels)
    try:
        with _bars(console) as progress:
            build(edges, out, memory=size(memory), labels=named, progress=progress, **options)
        stored = stores.open_stored(out)
    except KeyboardInterrupt:
        _say(console, f"interrupted; the same command goes on where it stopped ({out}.part)")
        raise
    except (ValueError, ModuleNotFoundError) as error:
        raise CliError(str(error)) from None
    _describe(console, stored)
    _say(console, f"to train on it: python -m fastgmtl train --data stored:{out}")


def check_graph(console: Console, folder: Path) -> None:
    """Verify a stored graph."""
    try:
        stored = stores.open_stored(folder)
        with _bars(console) as progress:
            stores.verify_stored(stored, progress)
    except ValueError as error:
        raise CliError(str(error), 1) from None
    _describe(console, stored)
    _say(console, "every index is in range, every checksum right")


def show(console: Console, name: str) -> None:
    """What is known of a data set."""
    try:
        dataset = load(name)
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from None
    degree = dataset.graph.in_degree()
    _say(console, dataset.summary())
    if degree.numel():
        mean, most, alone = degree.double().mean().item(), int(degree.max()), int((degree == 0).sum())
        _say(console, f"in-degree: mean {mean:.2f}, largest {most:,}; {alone:,} nodes without an edge into them")


def size(text: str) -> int:
    """Bytes of 512MiB, 4GiB, 4g, 1000000; every unit is a power of 1024."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if found is None:
        raise CliError(f"--memory: a size as 512MiB or 4GiB is required, got {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


def _named(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if not (name and equals and path):
        raise CliError(f"--labels: NAME=FILE is required, got {item!r}")
    return name, Path(path)


@contextmanager
def _bars(console: Console) -> Iterator[stores.Progress]:
    """A bar a stage, on a terminal; on any other console the stages by name."""
    columns = (TextColumn("{task.description:16}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bars: dict[str, Any] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as display:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = display.add_task(stage)
                if not console.is_terminal:
                    _say(console, stage)
            display.update(bars[stage], completed=done, total=total)

        yield report


def _describe(console: Console, stored: stores.Stored) -> None:
    graph, x = stored.graph, stored.x
    kept = "no features" if x is None else f"{x.shape[1]:,} features in {str(x.dtype).removeprefix('torch.')}"
    tasks = ", ".join(f"{task['name']} ({task['kind']})" for task in stored.tasks) or "none"
    _say(console, f"{stored.folder}: {graph.num_dst:,} nodes, {graph.num_edges:,} edges, {kept}; tasks: {tasks}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

"""Options, the session's rows, and what happens with them at the end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import bars
from bench.harness import Settings
from bench.report import append, card, changes, newest, provenance, summary, write_markdown

RESULTS = Path(__file__).with_name("results")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastgmtl")
    group.addoption("--quick", action="store_true", help="a smoke run: few cases, few rounds, nothing under results/")
    group.addoption("--results", metavar="FOLDER", type=Path, help="where the rows and tables go (default: results/)")
    group.addoption("--compare", metavar="OLD.jsonl", type=Path, help="print how the ratios to the peers have changed")


def pytest_configure(config: pytest.Config) -> None:
    old = config.getoption("--compare")
    if old is not None and not old.is_file():
        raise pytest.UsageError(f"--compare: {old} must be a file that an earlier run has written")
    config.stash[ROWS] = Settings(quick=config.getoption("--quick"), budget=0.3 if config.getoption("--quick") else 2.0)
    config.stash[START] = time.time()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left = [item for item in items if item.get_closest_marker("quick") is None]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


ROWS, START = pytest.StashKey[Settings](), pytest.StashKey[float]()


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """The run's settings; threads are put back after the test."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn of their beta state
        yield request.config.stash[ROWS]
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run = config.stash[ROWS]
    if not run.rows:
        return
    old = config.getoption("--compare")
    before = newest(old) if old is not None else []  # before this run may append to the very file
    say = terminalreporter.write_line
    folder = Path(config._tmp_path_factory.getbasetemp()) if run.quick else RESULTS
    folder = config.getoption("--results") or folder
    folder.mkdir(exist_ok=True)
    head = provenance(run.rows, time.time() - config.stash[START], run.quick)
    for name in sorted({row["bench"] for row in run.rows}):
        rows = [row for row in run.rows if row["bench"] == name]
        append(folder / f"{name}.jsonl", head, rows)
        write_markdown(folder / f"{name}.md", head, rows)
        bars.write(folder / f"{name}.png", rows)
        terminalreporter.section(f"{name}: {folder / name}.md")
        for line in summary(rows):
            say(line)
    terminalreporter.section("machine")
    say(card(head))
    if old is not None:
        terminalreporter.section(f"against {old}")
        for line in changes(before, run.rows):
            say(line)

"""A TU data set small enough to train in a second, with graph class, node class and link tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fastgmtl.cli.app import run

GRAPHS, SIZE = 30, 10


@pytest.fixture(autouse=True)
def _threads(threads: None) -> None:
    """The command line sets the number of threads."""


@pytest.fixture(scope="session")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 30 rings of 10 nodes; graphs of class 1 have chords."""
    folder = tmp_path_factory.mktemp("data") / "RINGS"
    folder.mkdir()
    draw = random.Random(0)
    edges, owner, graph_class, node_class = [], [], [], []
    for graph in range(GRAPHS):
        first = graph * SIZE + 1
        kind = graph % 2
        graph_class.append(kind + 1)
        for node in range(SIZE):
            owner.append(graph + 1)
            node_class.append(draw.randrange(3) if node % 2 else 0)
            edges.append((first + node, first + (node + 1) % SIZE))
            if kind:
                edges.append((first + node, first + (node + 3) % SIZE))
    both = sorted({*edges, *((b, a) for a, b in edges)})
    files = {
        "A": [f"{a}, {b}" for a, b in both],
        "graph_indicator": owner,
        "graph_labels": graph_class,
        "node_labels": node_class,
    }
    for name, lines in files.items():
        (folder / f"RINGS_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line: exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call

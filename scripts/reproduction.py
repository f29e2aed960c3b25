"""docs/reproduction.md: one section a system, each written by its own script from what it has measured."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

import fastgmtl

BOOK = Path(__file__).resolve().parents[1] / "docs" / "reproduction.md"
HEAD = """# What was reproduced

Published figures beside those of this package, whatever they show. Every section is written by the command that it
names; means and deviations (of a sample) are over seeds or folds.
"""


def write_section(name: str, title: str, command: str, text: str) -> None:
    """Put a section into the book, in the place of the one of this name if there is one."""
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = f"fastgmtl {fastgmtl.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
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

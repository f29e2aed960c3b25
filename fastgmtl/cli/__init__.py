"""The command line: the only place that parses arguments, prints, draws and writes files."""

from __future__ import annotations

import sys

NEEDS = ("typer", "rich", "matplotlib")


def main() -> None:
    """``python -m fastgmtl``. Exit codes: 0 fine, 1 a run that failed, 2 a usage error, 130 interrupted."""
    # The doctor has to work in the very installation that lacks what the other commands need.
    if sys.argv[1:] == ["info"]:
        from fastgmtl.info import info

        print(info())
        return
    try:
        from fastgmtl.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        print(
            f'error: {error.name} is not installed; do: pip install "fastgmtl[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))

"""Errors that end a command with one message and no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CliError(Exception):
    """A message for the user and the exit code: 2 for what the user can mend in the call, 1 for a run that failed."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def unknown(option: str, given: str, known: Iterable[str]) -> CliError:
    """``option: 'x' is not known; did you mean ...? known: ...``."""
    known = list(known)
    near = difflib.get_close_matches(given.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return CliError(f"{option}: {given!r} is not known; {hint}known: {', '.join(known)}")

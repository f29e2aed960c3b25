"""Two and three processes on gloo give what one process gives: see the checks, which run in the processes."""

from __future__ import annotations

from collections.abc import Callable

Processes = Callable[[str, int], list[str]]


def test_two_processes(processes: Processes) -> None:
    """A graph in parts, surgery, training."""
    assert len(processes("checks_partition,checks_surgery,checks_training", 2)) == 11 + 12 + 9


def test_three_processes(processes: Processes) -> None:
    """A graph in parts."""
    assert len(processes("checks_partition", 3)) == 11

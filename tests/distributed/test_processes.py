"""Two and three processes on gloo give what one process gives: see the checks, which run in the processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Processes = Callable[[str, int], list[str]]


@pytest.mark.parametrize("size", [2, 3])
def test_a_graph_in_parts(processes: Processes, size: int) -> None:
    assert len(processes("checks_partition", size)) == 11


def test_surgery_on_several_ranks(processes: Processes) -> None:
    assert len(processes("checks_surgery", 2)) == 12


def test_training_by_several_processes(processes: Processes) -> None:
    assert len(processes("checks_training", 2)) == 9

"""Fuzzing of the public constructors and operators: valid input gives what the reference gives, anything else a
Python error. It runs in a process of its own, so that a crash is a failed test with the example that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = {
    "fuzz.py": "edges sparse hetero spmm sddmm relation_gate grouped_matmul arguments border",
    "fuzz_lists.py": "gram combine project rotate small_problem list_arguments list_border",
}


@pytest.mark.parametrize(
    ("file", "target"), [(file, name) for file, names in TARGETS.items() for name in names.split()]
)
def test_fuzz(file: str, target: str, kernels: object) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(Path(__file__).resolve().parent / file), target],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, (
        f"fuzzing {target} ended with {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    )
    assert int(run.stdout.split()[0]) >= 400

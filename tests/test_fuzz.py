"""Fuzzing of the public constructors and operators: valid input gives what the reference gives, anything else a
Python error. It runs in a process of its own, so that a crash is a failed test with the example that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz.py"


@pytest.mark.parametrize(
    "target", ["edges", "sparse", "hetero", "spmm", "sddmm", "relation_gate", "grouped_matmul", "arguments", "border"]
)
def test_fuzz(target: str, kernels: object) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(FUZZ), target],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, (
        f"fuzzing {target} ended with {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    )
    assert int(run.stdout.split()[0]) >= 400

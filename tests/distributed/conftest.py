"""Several processes on gloo, which meet by a file: no ports, so that tests may run beside each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture
def processes(tmp_path: Path) -> Callable[[str, int], list[str]]:
    """Runs all checks of modules (with commas) on some ranks; returns their names. What fails on a rank is an error."""

    def run(modules: str, size: int) -> list[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        started = [
            subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), modules, str(rank), str(size), str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
            for rank in range(size)
        ]
        try:
            texts = [process.communicate(timeout=150)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert all(process.returncode == 0 for process in started), "\n".join(texts)
        found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
        failed = [f"rank {r}, {k}:\n{text}" for r, f in enumerate(found) for k, text in f["failed"].items()]
        assert not failed, "\n".join(failed)
        return found[0]["ran"]

    return run

"""bench/gpu.sh with the processor in place of a GPU: it runs end to end, and goes on after a step that fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("card", "python", "build", "suite", "tests", "memcheck", "racecheck", "synccheck", "bench", "ptxas")
pytestmark = [
    pytest.mark.usefixtures("kernels"),
    pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="needs the source tree"),
]


def run(out: Path, steps: list[str], selected: str) -> tuple[int, dict[str, str], str]:
    """Status, how each step ended, and what was printed; ``selected`` is the choice of tests."""
    own = {"FASTGMTL_GPU_STANDIN": "1", "OUT": str(out), "PYTHON": sys.executable, "FASTGMTL_GPU_TESTS": selected}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(ROOT / "bench/gpu.sh"), *steps], env=environment, capture_output=True, text=True)
    ends = dict(line.split(": ", 1) for line in (out / "gpu_steps.txt").read_text().splitlines())
    return done.returncode, ends, done.stdout + done.stderr


def test_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    status, ends, said = run(tmp_path, [], "-k test_layers")
    assert status == 0, said
    assert set(ends) == set(STEPS) and all(end.startswith("ok, ") for end in ends.values())
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert rows[0]["gpu"]["name"].startswith("none")
    ours = [row for row in rows if row.get("provider") == "fastgmtl"]
    assert {(row["t"], row["dtype"], row["mode"]) for row in ours} == {
        (t, dtype, mode) for t in (1, 4) for dtype in ("float32", "bfloat16") for mode in ("fwd", "fwdbwd")
    }
    assert all(row["x_moved"] > 0 and row["x_gather"] > 0 for row in ours)
    peers = {row["provider"].removeprefix("loop: ") for row in rows if "provider" in row}
    assert {"torch CSR @", "torch.sparse.mm COO", "PyG edge_index", "PyG EdgeIndex.matmul"} <= peers
    assert "fastgmtl" in (tmp_path / "gpu.md").read_text()


def test_a_failed_step_is_told_and_followed_by_the_next(tmp_path: Path) -> None:
    status, ends, said = run(tmp_path, ["card", "tests", "ptxas"], "-k no_test_has_this_name")
    assert status == 1
    assert re.match(r"FAILED \(5\), \d+ of 150 s", ends["tests"]), said
    assert ends["card"].startswith("ok") and ends["ptxas"].startswith("ok")


def test_predictions_are_of_kernels_that_are_built() -> None:
    """The table of ptxas has every kernel that bench/predict.py takes for chosen, and no time is below a bound."""
    done = subprocess.run([sys.executable, "-m", "bench.predict"], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 32
    for row in rows:
        moved, gather, *bounds, extra, time = map(float, row[2:10])
        assert 0 < moved < gather and time >= max(bounds) and extra > 0

"""The script behind docs/scale.md: what it draws, and the page that it writes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the source tree")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.measure_scale")


def test_every_stage_runs_on_what_is_drawn(script: ModuleType, tmp_path: Path) -> None:
    rows = {stage: run(tmp_path, 20_000) for stage, run in script.STAGES.items()}
    edges = np.load(tmp_path / "edges.npy")
    assert edges.shape == (2, 20_000) and edges.min() >= 0 and edges.max() < 2000
    text = np.loadtxt(tmp_path / "edges.txt", dtype=np.int32)
    assert np.array_equal(text.T, edges)
    # Power-law degrees: a node in a hundred has more than a tenth of the edges, and most nodes have few.
    degree = np.sort(np.bincount(edges[1], minlength=2000))
    assert degree[-20:].sum() > 2000 and np.median(degree) < 8
    graph = script.open_stored(tmp_path / "graph", verify=True).graph
    assert graph.num_edges == 20_000 and graph.num_dst == 2000
    assert rows["full"]["seconds"] > 0 and rows["sampled"]["steps"] == 1
    for row in rows.values():
        row.update(peak=script.peak(), before=1 << 30)
    lines = script.table({20_000: rows}, torch.get_num_threads()).splitlines()
    assert script.model(10**8, 0) == 12 * 10**8 + 16 * 10**7 + 36 * 32 * 10**7
    assert len({line.count("|") for line in lines[-3:]}) == 1 and lines[-1].startswith("| 2e4 | 2e3 |")


def test_the_page_keeps_what_is_beside_the_section(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "scale.md"
    monkeypatch.setattr(script, "BOOK", page)
    script.write("first")
    assert page.read_text() == f"{script.HEAD}\n{script.BEGIN}\nfirst\n{script.END}\n"
    page.write_text(page.read_text() + "\nmore\n")
    script.write("second")
    assert page.read_text() == f"{script.HEAD}\n{script.BEGIN}\nsecond\n{script.END}\n\nmore\n"


def test_stages_that_were_measured_are_not_measured_again(script: ModuleType, tmp_path: Path) -> None:
    kept = tmp_path / "scale.jsonl"
    kept.write_text("".join(f'{{"stage": "{s}", "edges": 100, "threads": 1, "peak": 7}}\n' for s in script.STAGES))
    rows = script.measure(kept, tmp_path / "none", 100, 1)
    assert list(rows) == list(script.STAGES) and all(row["peak"] == 7 for row in rows.values())

"""Curves and points: the numbers are in the CSV, the picture is a picture."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from fastgmtl.cli import plot
from fastgmtl.methods import Plot

PNG = b"\x89PNG"


def test_every_point_is_in_the_csv(tmp_path: Path) -> None:
    curve = Plot("loss, by step", {"a": [(0.0, 1.5), (1.0, 0.5)], "b": []}, "step", "loss")
    cloud = Plot("nodes", {f"class {c}": [(c / 7, -c / 7)] for c in range(10)}, "first", "second", joined=False)
    plot.write(tmp_path, "seen", "seen in a run", [curve, cloud])
    with (tmp_path / "seen.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 + 10
    assert lines[1] == {"plot": "loss, by step", "series": "a", "x": "1", "y": "0.5"}
    assert lines[-1] == {"plot": "nodes", "series": "class 9", "x": "1.28571", "y": "-1.28571"}
    assert (tmp_path / "seen.png").read_bytes().startswith(PNG)


def test_nothing_to_see_is_an_empty_picture(tmp_path: Path) -> None:
    plot.write(tmp_path, "none", "nothing", [])
    assert (tmp_path / "none.csv").read_text() == "plot,series,x,y\n"
    assert (tmp_path / "none.png").read_bytes().startswith(PNG)


def test_a_run_of_same_draws_adaptation_and_embeddings(
    cli: Callable[..., tuple[int, str, str]], rings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("--set", "hidden=8", "--set", "epochs=2", "--set", "batch=6", "--threads", 1)
    code, _, errors = cli("train", "--method", "esame", "--data", rings, "--out", out, *words)
    assert (code, errors) == (0, "")
    with (out / "adaptation.csv").open(newline="") as file:
        curves = list(csv.DictReader(file))
    assert {row["series"] for row in curves} <= {"graph_class", "node_class", "link"}
    assert sorted({float(row["x"]) for row in curves}) == list(range(11))
    assert "class 1" in (out / "embeddings.csv").read_text()
    assert (out / "adaptation.png").read_bytes().startswith(PNG)
    assert cli("train", "--resume", "--out", out, "--set", "epochs=3")[0] == 0

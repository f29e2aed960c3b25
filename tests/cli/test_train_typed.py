"""The command line on typed data: a run on each data set, with gates as a picture and its numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from fastgmtl.data import load

Cli = Callable[..., tuple[int, str, str]]


def _train(cli: Cli, out: Path, data: str, method: str) -> Any:
    """results.json of a short run."""
    small = ("--set", "hidden=8", "--set", "layers=2", "--set", "epochs=2", "--threads", 1)
    code, text, errors = cli("train", "--data", data, "--method", method, "--out", out, *small)
    assert (code, errors) == (0, "")
    assert f"{method} on {data}, seed 0" in text and str(out / "best.pt") in text
    results = json.loads((out / "results.json").read_text())
    assert (results["method"], results["data"], results["epochs"]) == (method, data, 2)
    return results


@pytest.mark.parametrize(("data", "method"), [("dblp", "ple"), ("heco_acm", "shared-hgt")])
@pytest.mark.usefixtures("data_root")
def test_every_task_of_published_data_is_scored(cli: Cli, tmp_path: Path, data: str, method: str) -> None:
    tasks = {
        "dblp": {"author_area": 2840, "paper_venue": 2866},
        "heco_acm": {"paper_class": 805, "paper_subject": 805},
    }[data]
    results = _train(cli, tmp_path / "run", data, method)
    assert {name: task["labels"]["test"] for name, task in results["tasks"].items()} == tasks
    assert all(0 <= task["test"] <= 1 for task in results["tasks"].values())


def test_gates_of_debian_are_a_picture_and_numbers(cli: Cli, tmp_path: Path) -> None:
    """Of every level, node type, relation into it and pair of tasks; what a task takes of all of them is 1."""
    results = _train(cli, tmp_path / "run", "debian", "struchis")
    tasks = list(results["tasks"])
    assert tasks == ["section", "tags", "installed_size"]
    hetero = load("debian").hetero
    assert hetero is not None
    with (tmp_path / "run" / "gates.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    wanted = [
        (f"level {level}, {name}", f"{source} {relation}: {task}", other)
        for level in (1, 2)
        for name in hetero.node_types
        for source, relation, _ in hetero.packed(name).relations
        for task in tasks
        for other in tasks
    ]
    assert [(line["panel"], line["row"], line["column"]) for line in lines] == wanted
    values = [float(line["value"]) for line in lines]
    assert all(abs(sum(values[k : k + 3]) - 1) < 1e-5 for k in range(0, len(values), 3))
    pixels = image.imread(tmp_path / "run" / "gates.png")
    assert len(wanted) == 2 * 38 * 9 and pixels.shape[0] > 300 and len({*map(tuple, pixels[::7, ::7, 0])}) > 20

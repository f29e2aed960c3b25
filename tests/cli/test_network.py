"""Pictures of learned graphs: the edges are in the CSV, the picture is a picture."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib import image

from fastgmtl.cli import network
from fastgmtl.methods import Network

HEAD = ["network", "from", "to", "strength", "probability"]


def test_every_edge_is_in_the_csv(tmp_path: Path) -> None:
    shown = [
        Network("learned", ("a", "b, c", "d"), [(0, 1, -1.5, 0.75), (2, 0, 0.25, 0.01)]),
        Network("true", ("a", "b, c", "d"), []),
    ]
    network.write(tmp_path, "graph", "a graph", shown)
    with (tmp_path / "graph.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [HEAD, ["learned", "a", "b, c", "-1.5", "0.75"], ["learned", "d", "a", "0.25", "0.01"]]
    picture = image.imread(tmp_path / "graph.png")
    assert picture.std() > 0.01 and picture.shape[1] > 1.5 * picture.shape[0]  # two side by side


@pytest.mark.parametrize("count", [1, 2, 90])
def test_any_number_of_nodes_is_drawn(tmp_path: Path, count: int) -> None:
    edges = [(k, k + 1, 1.0, 1.0) for k in range(count - 1)]
    network.write(tmp_path, "graph", "a graph", [Network("one", tuple(map(str, range(count))), edges)])
    assert image.imread(tmp_path / "graph.png").std() > 0.005


def test_gcnet_draws_its_task_graph(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    small = ("--set", "hidden=8", "--set", "epochs=2", "--set", "batch=2048", "--threads", 1)
    out = tmp_path / "run"
    code, _, errors = cli("train", "--method", "gcnet", "--data", "scm:S1", "--out", out, *small)
    assert (code, errors) == (0, "")
    for name in ("task_graph", "edges", "couplings", "structure"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (out / "task_graph.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["network"] for line in lines} == {"learned", "true"}
    with (out / "structure.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert [(p["plot"], p["x"]) for p in points] == [
        (plot, epoch) for plot in ("edges", "AUROC", "AUPRC", "SHD") for epoch in ("1", "2")
    ]

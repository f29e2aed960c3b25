"""train on several processes: torchrun, who writes, what goes on with another number of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgmtl.cli import folder, train
from fastgmtl.cli.errors import CliError
from fastgmtl.distributed import World

Cli = Callable[..., tuple[int, str, str]]
SMALL = ("--dist", "partition", "--data", "debian", "--threads", 1, "--set", "hidden=8", "--set", "layers=2")


def torchrun(ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    """The command, as a user gives it."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = (*start, "-m", "fastgmtl", *words)
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, env=environment, timeout=150)


def _rows(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_and_then_one_are_one(cli: Cli, tmp_path: Path) -> None:
    """Losses to 1e-5 and scores to 1e-3 in float32; in float64 checks_training.py has 1e-9. One of them writes."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    done = torchrun(2, "train", *SMALL, "--set", "epochs=3", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 3/3") == 1 and "Traceback" not in done.stderr
    assert sorted(os.listdir(out)) == sorted(folder.FILES)
    assert json.loads((out / "machine.json").read_text())["ranks"] == 2
    assert (
        "torchrun --nproc-per-node 2 -m fastgmtl train --method shared --data debian --dist partition"
        in (out / "report.md").read_text()
    )
    code, text, errors = cli("train", "--resume", "--out", out, "--set", "epochs=5")
    assert (code, errors) == (0, "") and "resumed after epoch 3" in text
    assert cli("train", *SMALL, "--set", "epochs=5", "--out", whole)[0] == 0
    found, expected = _rows(out), _rows(whole)
    assert [(r["epoch"], r["task"]) for r in found] == [(r["epoch"], r["task"]) for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), abs=1e-5)
        assert float(a["val_score"]) == pytest.approx(float(b["val_score"]), abs=1e-3)
    shapes = [
        {k: v.shape for k, v in torch.load(path / "last.pt", weights_only=True)["state"]["model"].items()}
        for path in (out, whole)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dist", "partitions"), "--dist: 'partitions' is not known; did you mean partition? known: "),
        (("--dist", "partition", "--method", "ple"), "--dist partition: ple cannot be trained so; these can: shared\n"),
        (
            ("--dist", "episodes"),
            "--dist episodes: shared cannot be trained so; these can: isame, esame, same-concurrent\n",
        ),
        (("--dist", "ddp"), "--dist ddp: shared cannot be trained so; these can: labels\n"),
        (
            ("--dist", "partition", "--data", "RINGS"),
            "shared on RINGS: --dist partition: all tasks must be about nodes, task graph_class is about whole graphs",
        ),
    ],
)
def test_what_does_not_fit(cli: Cli, rings: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    given = [rings if word == "RINGS" else word for word in words]
    code, _, errors = cli("train", "--out", tmp_path / "run", *given)
    assert code == 2
    assert errors.replace(str(rings), "RINGS").startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_several_processes_without_a_way_to_share_the_work(tmp_path: Path) -> None:
    names = [field.name for field in dataclasses.fields(train.Request)]
    request = train.Request(**{**dict.fromkeys(names), "settings": (), "resume": False, "overwrite": False})
    with pytest.raises(CliError, match=r"^--dist: 2 processes need a way to share the work: ddp, partition, episodes$"):
        train._checked(request, tmp_path / "run", World(0, 2))


def test_a_mode_is_not_forgotten(cli: Cli, tmp_path: Path) -> None:
    """The run of one process goes on as one; folders of earlier versions know no modes."""
    out = tmp_path / "run"
    assert cli("train", *SMALL[2:], "--set", "epochs=1", "--out", out)[0] == 0
    config = json.loads((out / "config.json").read_text())
    assert config.pop("dist") is None
    (out / "config.json").write_text(json.dumps(config))
    assert cli("train", "--resume", "--out", out)[0] == 0
    code, _, errors = cli("train", "--resume", "--out", out, "--dist", "partition")
    assert code == 2
    assert (
        errors == f"error: --resume: {out} holds another run:\n  dist: the checkpoint has None, this run 'partition'\n"
    )

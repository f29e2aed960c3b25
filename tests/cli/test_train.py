from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from torch import Tensor

from fastgmtl.cli import folder, progress
from fastgmtl.methods import Trainer

Cli = Callable[..., tuple[int, str, str]]
FAST = ("--set", "hidden=8", "--set", "layers=2", "--threads", 1)


def _words(data: object, out: Path, *more: object, epochs: int = 6) -> tuple[object, ...]:
    return ("train", "--data", data, "--out", out, *FAST, "--set", f"epochs={epochs}", *more)


def _model(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state"]["model"]


def _rows(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in _leaves(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _assert_same_state(one: Path, other: Path) -> None:
    states = [_leaves(torch.load(path / "last.pt", weights_only=True)["state"]) for path in (one, other)]
    assert len(states[0]) == len(states[1]) > 50
    for left, right in zip(*states, strict=True):
        assert torch.equal(left, right) if isinstance(left, Tensor) else left == right


def test_a_run_writes_everything(cli: Cli, rings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text, errors = cli(*_words(rings, out, "--seed", 3))
    assert (code, errors) == (0, "")
    assert sorted(os.listdir(out)) == sorted(folder.FILES)
    tasks = ["graph_class", "node_class", "link"]
    rows = _rows(out)
    assert [(r["epoch"], r["task"]) for r in rows] == [(str(e), t) for e in range(1, 7) for t in tasks]
    assert all(float(r["train_loss"]) > 0 and 0 <= float(r["val_score"]) <= 1 for r in rows)
    config = json.loads((out / "config.json").read_text())
    assert (config["method"], config["seed"], config["threads"]) == ("shared", 3, 1)
    assert config["config"]["hidden"] == 8
    machine = json.loads((out / "machine.json").read_text())
    assert machine["packages"]["torch"] == torch.__version__
    assert machine["threads"] == 1 and machine["processor"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["tasks"]) == tasks
    assert [e["event"] for e in _events(out) if e["event"] != "best"] == ["start", "end"]
    report = (out / "report.md").read_text()
    for name in tasks:
        score = f"{results['tasks'][name]['test']:.4f}"
        assert any(name in line and score in line for line in report.splitlines())
        assert any(name in line and score in line for line in text.splitlines())
    assert str(out / "curves.png") in text and str(out / "best.pt") in text
    best = torch.load(out / "best.pt", weights_only=True)
    assert best["state"]["epoch"] == results["best_epoch"]
    assert best["run"]["dataset"]["nodes"] == 300


def test_the_picture_shows_something(cli: Cli, rings: Path, tmp_path: Path) -> None:
    cli(*_words(rings, tmp_path / "run"))
    pixels = image.imread(tmp_path / "run" / "curves.png")[..., :3]
    assert pixels.shape[0] > 300 and pixels.shape[1] > 900
    for colour in ("#1f6f8b", "#b5651d", "#c0392b"):  # val metric, training loss, best epoch
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=2) < 0.02).sum() > 100


def test_plain_lines(cli: Cli, rings: Path, tmp_path: Path) -> None:
    code, text, _ = cli(*_words(rings, tmp_path / "run", epochs=100))
    assert code == 0
    lines = [line for line in text.splitlines() if line.startswith("epoch")]
    assert lines[0].startswith("epoch   1/100  graph_class ")
    assert len(lines) <= 52
    assert all("link" in line and "/" in line for line in lines)
    assert "\x1b" not in text


def test_the_live_table(rings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    from fastgmtl.data import load
    from fastgmtl.methods import Shared
    from fastgmtl.methods.shared import Config

    data, config = load(str(rings)), Config(epochs=3, hidden=8)
    console = Console(file=StringIO(), force_terminal=True, width=140, height=30)
    with progress.progress(console, "shared on rings", data.tasks, config) as display:
        assert isinstance(display, progress.LiveTable)
        for epoch in Trainer(Shared, data, config):
            display.update(epoch)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3/3 epochs" in text and "best val" in text
    for name in data.tasks:
        assert f"{epoch.loss[name]:.4f}" in text and f"{epoch.score[name]:.4f}" in text


def test_refuses_to_overwrite(cli: Cli, rings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    code, _, errors = cli(*_words(rings, out))
    assert code == 2
    assert errors == (
        f"error: --out: {out} is not empty; --resume goes on in it, --overwrite starts again in it, "
        "--out takes another folder\n"
    )
    assert os.listdir(out) == ["thesis.txt"]
    assert cli(*_words(rings, out, "--overwrite", "--seeds", 2, epochs=2))[0] == 0
    assert cli(*_words(rings, out, "--overwrite", epochs=3))[0] == 0
    assert sorted(os.listdir(out)) == sorted([*folder.FILES, "thesis.txt"])
    assert len(_rows(out)) == 9
    assert (out / "thesis.txt").read_text() == "years of work"


def test_out_is_a_file(cli: Cli, rings: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    code, _, errors = cli(*_words(rings, path))
    assert (code, errors) == (2, f"error: --out: {path} is a file, a folder is required\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "shred"), "--method: 'shred' is not known; did you mean shared or shared-hgt or shared-hgb?"),
        (("--data", "debain"), "data: 'debain' is no data set; did you mean debian"),
        (("--set", "epoch=3"), "--set: 'epoch' is not known; did you mean epochs?"),
        (("--device", "cpuu"), "--device: 'cpuu' is not known; did you mean cpu or cuda?"),
        (("--device", "mps"), "--device: 'mps' is not known;"),
        (("--threads", 0), "--threads: at least 1 is required, got 0"),
        (("--seeds", 0), "--seeds: at least 1 is required, got 0"),
        (("--seed", -1), "--seed: 0 or more is required, got -1"),
        (("--resume", "--overwrite"), "--resume and --overwrite: one of them, not both"),
    ],
)
def test_usage_errors(cli: Cli, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    code, _, errors = cli("train", "--out", tmp_path / "run", *words)
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "No such command 'trian'"),
        (("train", "--dat", "x"), "--data"),
        (("train", "--seeds", "many"), "--seeds"),
    ],
)
def test_wrong_words(cli: Cli, words: tuple[str, ...], message: str) -> None:
    code, _, errors = cli(*words)
    assert code == 2
    assert message in errors and "Traceback" not in errors


def test_a_damaged_data_file_is_one_message(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "BAD"
    data.mkdir()
    (data / "BAD_A.txt").write_text("1, 2\n2, x\n")
    (data / "BAD_graph_indicator.txt").write_text("1\n1\n")
    code, _, errors = cli(*_words(data, tmp_path / "run"))
    assert code == 2
    assert errors.startswith("error: ") and "BAD_A.txt" in errors and "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_seeds(cli: Cli, rings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text, _ = cli(*_words(rings, out, "--seeds", 3, "--seed", 4))
    assert code == 0
    merged = json.loads((out / "results.json").read_text())
    assert merged["seeds"] == [4, 5, 6]
    for name, task in merged["tasks"].items():
        values = [json.loads((out / f"seed{s}" / "results.json").read_text())["tasks"][name]["test"] for s in (4, 5, 6)]
        assert task["test"]["values"] == values
        assert task["test"]["mean"] == pytest.approx(np.mean(values))
        assert task["test"]["std"] == pytest.approx(np.std(values, ddof=1))
        assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in (out / "report.md").read_text()
    assert len({tuple(task["test"]["values"]) for task in merged["tasks"].values()}) == 3
    assert (out / "curves.png").stat().st_size > 20_000
    assert "seeds 4, 5, 6" in text
    alone = tmp_path / "alone"
    cli(*_words(rings, alone, "--seed", 5))
    _assert_same_state(alone, out / "seed5")


def test_resume_of_a_finished_run_and_more_epochs(cli: Cli, rings: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    cli(*_words(rings, whole, epochs=9))
    cli(*_words(rings, out, epochs=5))
    before = (out / "metrics.csv").read_text()
    code, text, _ = cli("train", "--resume", "--out", out)
    assert code == 0 and "resumed after epoch 5" in text
    assert (out / "metrics.csv").read_text() == before
    assert cli("train", "--resume", "--out", out, "--set", "epochs=9")[0] == 0
    _assert_same_state(out, whole)
    assert [r["epoch"] for r in _rows(out)] == [r["epoch"] for r in _rows(whole)]


def test_resume_says_what_differs(cli: Cli, rings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli(*_words(rings, out))
    before = (out / "last.pt").read_bytes()
    for words, message in (
        (("--set", "lr=0.5"), "config.lr: the checkpoint has 0.01, this run 0.5"),
        (("--data", "synthetic"), f"data: the checkpoint has {str(rings)!r}, this run 'synthetic'"),
        (("--seed", 1), "seed: the checkpoint has 0, this run 1"),
        (("--seeds", 2), "seeds: the checkpoint has 1, this run 2"),
    ):
        code, _, errors = cli("train", "--resume", "--out", out, *words)
        assert code == 2
        assert errors == f"error: --resume: {out} holds another run:\n  {message}\n"
    assert (out / "last.pt").read_bytes() == before


def test_resume_refuses_changed_data(cli: Cli, rings: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "RINGS", tmp_path / "run"
    data.mkdir()
    for path in rings.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    cli(*_words(data, out))
    edges = (data / "RINGS_A.txt").read_text().splitlines(keepends=True)
    (data / "RINGS_A.txt").write_text("".join(line for line in edges if line not in ("1, 2\n", "2, 1\n")))
    code, _, errors = cli("train", "--resume", "--out", out)
    assert code == 2
    assert errors.startswith(f"error: --resume: checkpoint {out / 'last.pt'} is of another run:\n")
    assert "dataset.edges: the checkpoint has " in errors


def test_resume_without_a_run(cli: Cli, tmp_path: Path) -> None:
    code, _, errors = cli("train", "--resume", "--out", tmp_path / "nothing")
    assert code == 2
    assert (
        errors == f"error: --resume: there is no run in {tmp_path / 'nothing'} (no config.json); leave --resume out\n"
    )
    (tmp_path / "config.json").write_text("{")
    code, _, errors = cli("train", "--resume", "--out", tmp_path)
    assert code == 2 and errors.startswith(f"error: {tmp_path / 'config.json'} is not valid JSON: ")
    (tmp_path / "config.json").write_text('{"seed": 1}')
    code, _, errors = cli("train", "--resume", "--out", tmp_path)
    assert code == 2 and "lacks method, data, seeds" in errors


def test_resume_from_a_damaged_checkpoint(cli: Cli, rings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli(*_words(rings, out))
    part = (out / "last.pt").read_bytes()[:-500]
    (out / "last.pt").write_bytes(part)
    code, _, errors = cli("train", "--resume", "--out", out)
    assert code == 2
    assert errors.startswith(f"error: checkpoint {out / 'last.pt'} cannot be read: its {len(part)} bytes are no whole")
    assert (out / "last.pt").read_bytes() == part


def test_logs_after_a_kill(cli: Cli, rings: Path, tmp_path: Path) -> None:
    """Rows of epochs that no checkpoint holds, and half a row, are dropped; other damage is refused."""
    out = tmp_path / "run"
    cli(*_words(rings, out))
    good = (out / "metrics.csv").read_text()
    later = good.splitlines()[-1].replace("6,", "7,", 1)
    (out / "metrics.csv").write_text(f"{good}{later}\n8,gra")
    assert cli("train", "--resume", "--out", out)[0] == 0
    assert (out / "metrics.csv").read_text() == good
    (out / "metrics.csv").write_text(good.replace("\n2,", "\ntwo,", 1))
    code, _, errors = cli("train", "--resume", "--out", out)
    assert code == 2 and errors == f"error: {out / 'metrics.csv'}: line 5 is damaged; mend or remove it to go on\n"


def test_divergence_fails_with_a_message(cli: Cli, rings: Path, tmp_path: Path) -> None:
    code, _, errors = cli(*_words(rings, tmp_path / "run", "--set", "lr=1e30"))
    assert code == 1
    assert errors.startswith("error: training diverged in epoch ") and "--set lr=" in errors
    assert _events(tmp_path / "run")[-1]["event"] == "diverged"


def test_default_folder(cli: Cli, rings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, _ = cli("train", "--data", rings, *FAST, "--set", "epochs=2")
    assert code == 0
    assert (tmp_path / "results" / "shared-RINGS" / "report.md").exists()
    assert "results/shared-RINGS/curves.png" in text


def _start(words: tuple[object, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastgmtl", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_interrupt_and_resume_give_the_same_weights(cli: Cli, rings: Path, tmp_path: Path) -> None:
    """A real SIGINT, with dropout and link negatives; no epoch is lost or done twice."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    patience = ("--set", "patience=4000", "--set", "dropout=0.4")
    process = _start(_words(rings, out, *patience, epochs=4000))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch  100/"):
            break
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert "stopping after this epoch" in text
    assert f"to go on: python -m fastgmtl train --resume --out {out}" in text
    stopped = torch.load(out / "last.pt", weights_only=True)["state"]["epoch"]
    assert 100 <= stopped < 4000
    assert _events(out)[-1]["event"] == "interrupted"
    assert int(_rows(out)[-1]["epoch"]) == stopped
    assert (out / "curves.png").exists()
    last = stopped + 20
    assert cli("train", "--resume", "--out", out, "--set", f"epochs={last}")[0] == 0
    assert cli(*_words(rings, whole, *patience, epochs=last))[0] == 0
    _assert_same_state(out, whole)
    assert [r["val_score"] for r in _rows(out)] == [r["val_score"] for r in _rows(whole)]


def test_second_interrupt_stops_at_once(cli: Cli, rings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    cli(*_words(rings, out))
    before, handler = (out / "last.pt").read_bytes(), signal.getsignal(signal.SIGINT)

    def impatient(trainer: Trainer) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal did not stop the epoch")

    monkeypatch.setattr(Trainer, "run_epoch", impatient)
    code, text, errors = cli("train", "--resume", "--out", out, "--set", "epochs=9")
    assert (code, errors) == (130, "")
    assert text.endswith(f"interrupted\nto go on: python -m fastgmtl train --resume --out {out}\n")
    assert (out / "last.pt").read_bytes() == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_missing_extra(tmp_path: Path) -> None:
    """Without rich there is a message, and info works."""
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('No module named rich', name='rich')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = [
        subprocess.run(
            [sys.executable, "-m", "fastgmtl", word], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        for word in ("train", "info")
    ]
    assert (done[0].returncode, done[0].stdout) == (2, "")
    assert done[0].stderr == 'error: rich is not installed; do: pip install "fastgmtl[cli]"\n'
    assert done[1].returncode == 0 and "torch" in done[1].stdout


def test_info(cli: Cli) -> None:
    code, text, _ = cli("info")
    assert code == 0 and torch.__version__ in text


def test_a_task_without_training_labels(cli: Cli, rings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from fastgmtl.cli import run
    from fastgmtl.data import Dataset, TaskSet, load

    def partly(name: str, seed: int) -> Dataset:
        data = load(name, seed)
        task = data.tasks["node_class"]
        gone = dataclasses.replace(task, target=task.target.masked_fill(task.split["train"], -1))
        tasks = (gone if t is task else t for t in data.tasks.values())
        return dataclasses.replace(data, tasks=TaskSet(tasks))

    monkeypatch.setattr(run, "load", partly)
    out = tmp_path / "run"
    code, text, _ = cli(*_words(rings, out))
    assert code == 0
    assert "task node_class has no labels in train: it is not trained" in text
    assert {r["train_loss"] for r in _rows(out) if r["task"] == "node_class"} == {""}
    results = json.loads((out / "results.json").read_text())["tasks"]["node_class"]
    assert results["constant"] is None and not math.isnan(results["test"])

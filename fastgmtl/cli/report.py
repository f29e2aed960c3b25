"""The end of a run: results.json, report.md and the table of test scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from fastgmtl.cli import checkpoint
from fastgmtl.cli.folder import write_json
from fastgmtl.cli.progress import number
from fastgmtl.data import Dataset
from fastgmtl.methods import Trainer, constant_score

HEAD = ("task", "metric", "constant", "val", "test", "labels")
NOTE = (
    "Scores of the weights of the best epoch; constant is the test score of the best constant prediction, "
    "chosen from the training labels."
)
Results = dict[str, Any]


def results(run: Mapping[str, Any], dataset: Dataset, trainer: Trainer, seconds: float) -> Results:
    """Plain values of a finished run: its description, its epochs and, for each task, the scores."""
    best = trainer.best
    val, test = trainer.evaluate_best("val"), trainer.evaluate_best("test")
    return {
        **{key: run[key] for key in ("method", "data", "seed")},
        "epochs": trainer.epoch,
        "best_epoch": best.epoch if best else None,
        "stopped_by": "epochs" if trainer.epoch >= trainer.config.epochs else "patience",
        "seconds": round(seconds, 3),
        "tasks": {
            name: {
                "kind": task.kind,
                "level": task.level,
                "metric": task.metric,
                "higher_is_better": task.higher_is_better,
                "labels": {split: task.count(split) for split in ("train", "val", "test")},
                "constant": constant_score(task, "test"),
                "val": val[name],
                "test": test[name],
            }
            for name, task in dataset.tasks.items()
        },
    }


def merged(runs: Sequence[Results]) -> Results:
    """Mean, deviation (of a sample) and the single values over seeds."""
    first = runs[0]
    return {
        **{key: first[key] for key in ("method", "data")},
        "seeds": [run["seed"] for run in runs],
        "best_epochs": [run["best_epoch"] for run in runs],
        "seconds": round(sum(run["seconds"] for run in runs), 3),
        "tasks": {
            name: {
                **task,
                **{key: _spread([run["tasks"][name][key] for run in runs]) for key in ("constant", "val", "test")},
            }
            for name, task in first["tasks"].items()
        },
    }


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": values}


def _mean(value: Any) -> float:
    return float(value["mean"] if isinstance(value, Mapping) else value)


def table(result: Results, plus_minus: str = "±") -> list[tuple[str, ...]]:
    """The rows under HEAD."""

    def cell(value: Any) -> str:
        if isinstance(value, Mapping):
            if value["mean"] != value["mean"]:
                return "-"
            return f"{value['mean']:.4f} {plus_minus} {value['std']:.4f}"
        return number(value)

    return [
        (
            name,
            task["metric"] if task["higher_is_better"] else f"{task['metric']} (lower is better)",
            number(_mean(task["constant"])),
            *(cell(task[key]) for key in ("val", "test")),
            f"{task['labels']['test']:,}",
        )
        for name, task in result["tasks"].items()
    ]


def show(console: Console, result: Results) -> None:
    """Print the table of test scores."""
    unicode = console.encoding.startswith("utf")
    grid = Table(title=Text(_title(result), style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(HEAD):
        justify: JustifyMethod = "right" if place > 1 else "left"
        grid.add_column(name, justify=justify, style="bold" if name == "test" else None, no_wrap=True)
    for row in table(result, "±" if unicode else "+-"):
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def write(path: Path, result: Results, run: Mapping[str, Any], command: str) -> None:
    """Write results.json and report.md."""
    write_json(path / "results.json", result)
    rule = ["---"] * 2 + ["---:"] * 4
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, rule, *table(result))]
    settings = ", ".join(f"{key} {value}" for key, value in run["config"].items())
    text = [
        f"# {_title(result)}",
        "",
        *lines,
        "",
        NOTE,
        "",
        "![training curves](curves.png)",
        "",
        f"* {_epochs(result)}; {result['seconds']:.1f} s of training",
        f"* data: {run['dataset']['source'] or result['data']}",
        f"* settings: {settings}",
        f"* again: `{command}`",
        "* machine and versions: machine.json; every epoch: metrics.csv; results.json holds this table",
        "",
    ]
    checkpoint.write_text(path / "report.md", "\n".join(text))


def _title(result: Results) -> str:
    seeds = result.get("seeds")
    return f"{result['method']} on {result['data']}, " + (
        f"seeds {', '.join(map(str, seeds))}" if seeds else f"seed {result['seed']}"
    )


def _epochs(result: Results) -> str:
    if "seeds" in result:
        return f"best epochs {', '.join(str(epoch) for epoch in result['best_epochs'])}"
    by = "patience" if result["stopped_by"] == "patience" else "the last epoch"
    return f"best epoch {result['best_epoch']} of {result['epochs']}, ended by {by}"

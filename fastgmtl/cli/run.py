"""One run: one seed, one folder."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from rich.console import Console

from fastgmtl.cli import checkpoint, heatmap, network, picture, plot, report
from fastgmtl.cli.errors import CliError
from fastgmtl.cli.folder import History, Logs, NoLogs, write_json
from fastgmtl.cli.machine import machine
from fastgmtl.cli.progress import progress
from fastgmtl.data import Dataset, load
from fastgmtl.distributed import World
from fastgmtl.methods import METHODS, MODES, Diverged, Panel, Plot, TrainConfig, Trainer, constant_score

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

# A process that is killed loses at most this much training.
SAVE_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What is to be run, with every default filled in. seeds > 1: the seeds seed .. seed + seeds - 1."""

    method: str
    data: str
    seed: int
    seeds: int
    device: str
    threads: int
    config: TrainConfig
    version: str
    dist: str | None = None  # how several processes share the work

    def describe(self) -> dict[str, Any]:
        """Plain values: config.json."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "config": dataclasses.asdict(self.config)}


class Stop:
    """SIGINT: the first one asks to stop after the epoch, the next one stops at once. A context."""

    def __init__(self, console: Console) -> None:
        self.asked = False
        self._console = console

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._console.print("stopping after this epoch; interrupt again to stop at once")


@dataclass
class Run:
    """A run in its folder. :meth:`train` returns whether it came to its end; then :meth:`finish` gives the results."""

    console: Console
    plan: Plan
    path: Path
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.leads = self.world.rank == 0  # alone prints and writes
        self.dataset = agreed(self.world, lambda: dataset(self.plan))
        self.trainer = self._trainer()
        self.logs = (Logs if self.leads else NoLogs)(self.path, self.dataset.tasks)
        self.description = {**self.plan.describe(), "dataset": fingerprint(self.dataset)}
        self._saved_best = 0

    @property
    def title(self) -> str:
        """What the run is, in a few words."""
        return f"{self.plan.method} on {self.plan.data}, seed {self.plan.seed}"

    def train(self, stop: Stop, resume: bool) -> bool:
        """Train to the end or until asked to stop; a checkpoint is there in both cases."""
        self._untrained()
        if self.leads:
            self.path.mkdir(exist_ok=True)
        if self.world.lead(lambda: resume and (self.path / "last.pt").exists()):
            self._load()
        else:
            self.logs.begin(0)
            self.logs.event("start", **self.description)
        if self.leads:
            write_json(self.path / "config.json", self.plan.describe())
            write_json(self.path / "machine.json", {**machine(self.dataset.x.device), "ranks": self.world.size})
        try:
            self._epochs(stop)
        except Diverged as error:
            self.logs.event("diverged", message=str(error))
            raise CliError(f"{error}; set it with --set lr={self.plan.config.lr / 3:.2g}", 1) from None
        self._save()
        if not self.trainer.done:
            self.logs.event("interrupted", epoch=self.trainer.epoch)
            self._draw()
        return self.trainer.done

    def finish(self) -> report.Results:
        """Test the best weights; write results.json, report.md, curves.png and what the method has to show."""
        history = self._draw()
        result = report.results(self.description, self.dataset, self.trainer, history.seconds)
        if not self.leads:
            return result
        report.write(self.path, result, self.description, again(self.plan, self.path, self.world.size))
        for name, panels in self.trainer.panels_best().items():
            heatmap.write(self.path, name, f"{self.title}: {name}", panels)
        for name, plots in self.trainer.plots_best().items():
            plot.write(self.path, name, f"{self.title}: {name}", plots)
        for name, networks in self.trainer.networks_best().items():
            network.write(self.path, name, f"{self.title}: {name}", networks)
        for name, items in self.trainer.method.history().items():
            drawn = [item for item in items if isinstance(item, Plot)]
            if drawn:
                plot.write(self.path, name, f"{self.title}: {name}", drawn)
            panels = [item for item in items if isinstance(item, Panel)]
            if panels:
                heatmap.write(self.path, name, f"{self.title}: {name}", panels)
        self.logs.event("end", **result)
        return result

    def constants(self) -> dict[str, float]:
        """The val score of the best constant prediction, by task."""
        return {name: constant_score(task, "val") for name, task in self.dataset.tasks.items()}

    def _trainer(self) -> Trainer:
        try:
            method = METHODS[self.plan.method]
            mode = None if self.plan.dist is None else MODES[self.plan.dist](self.world)
            return Trainer(method, self.dataset, self.plan.config, self.plan.seed, mode)
        except ValueError as error:
            raise CliError(f"{self.plan.method} on {self.plan.data}: {error}") from None

    def _epochs(self, stop: Stop) -> None:
        saved = time.monotonic()
        with progress(self.console, self.title, self.dataset.tasks, self.plan.config) as display:
            for epoch in self.trainer:
                self.logs.add(epoch)
                display.update(epoch)
                if epoch.best:
                    self.logs.event("best", epoch=epoch.epoch, rank=epoch.rank, val=epoch.score)
                if self.world.any(stop.asked):
                    return
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()

    def _save(self) -> None:
        if not self.leads:
            return
        checkpoint.save(self.path / "last.pt", self.description, self.trainer.state_dict())
        best = self.trainer.best
        if best is not None and best.epoch != self._saved_best:
            checkpoint.save(self.path / "best.pt", self.description, vars(best))
            self._saved_best = best.epoch

    def _load(self) -> None:
        path = self.path / "last.pt"
        content = self.world.lead(lambda: checkpoint.load(path))
        wrong = checkpoint.differences(content["run"], self.description)
        if wrong:
            raise CliError(f"--resume: checkpoint {path} is of another run:\n  " + "\n  ".join(wrong))
        try:
            self.trainer.load_state_dict(content["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CliError(f"--resume: checkpoint {path} does not fit the model: {error}") from None
        self.logs.begin(self.trainer.epoch)
        self.logs.event("resume", epoch=self.trainer.epoch, **self.description)
        self.console.print(f"resumed after epoch {self.trainer.epoch}", markup=False)

    def _untrained(self) -> None:
        for name, count in self.trainer.train_counts.items():
            if not count:
                self.console.print(
                    f"task {name} has no labels in train: it is not trained and does not count for the best epoch",
                    markup=False,
                    highlight=False,
                )

    def _draw(self) -> History:
        history = self.logs.history()
        if history.epochs and self.leads:
            tasks = self.dataset.tasks
            picture.draw(self.path / "curves.png", self.title, tasks, [history], self.constants())
        return history


def dataset(plan: Plan) -> Dataset:
    """The data of a run, on its device."""
    try:
        return load(plan.data, seed=plan.seed).to(torch.device(plan.device))
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from None


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What two data sets must have in common for a run on one to go on with the other."""
    tasks: Mapping[str, Any] = {
        name: {
            "kind": task.kind,
            "level": task.level,
            "metric": task.metric,
            "outputs": task.num_outputs,
            "labels": [task.count(split) for split in ("train", "val", "test")],
        }
        for name, task in data.tasks.items()
    }
    return {
        "name": data.name,
        "source": data.source,
        "nodes": data.num_nodes,
        "edges": data.graph.num_edges,
        "features": data.num_features,
        "graphs": data.num_graphs,
        "tasks": tasks,
    }


def agreed(world: World, make: Callable[[], T]) -> T:
    """What ``make`` returns on this rank; where it fails on some ranks, an error on all that names these."""
    value, error = None, None
    try:
        value = make()
    except CliError as failure:
        error = str(failure)
    errors = world.gather(error)
    wrong = [r for r, message in enumerate(errors) if message is not None]
    if wrong and len(wrong) < world.size:
        raise CliError(f"rank {wrong[0]} of {world.size}: {errors[wrong[0]]}")
    if error is not None:
        raise CliError(error)
    return cast(T, value)


def launcher(dist: str | None, ranks: int) -> list[str]:
    """The first words of a command: python, or torchrun where several processes share the work."""
    start = ["python"] if dist is None or ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks)]
    return [*start, "-m", "fastgmtl", "train"]


def again(plan: Plan, path: Path, ranks: int = 1) -> str:
    """The command that repeats a run."""
    default = type(plan.config)()
    words = [*launcher(plan.dist, ranks), "--method", plan.method, "--data", plan.data]
    words += ["--dist", plan.dist] if plan.dist else []
    words += ["--seed", str(plan.seed)] + (["--seeds", str(plan.seeds)] if plan.seeds > 1 else [])
    words += ["--device", plan.device, "--threads", str(plan.threads)]
    for key, value in dataclasses.asdict(plan.config).items():
        if value != getattr(default, key):
            words += ["--set", f"{key}={value}"]
    return shlex.join([*words, "--out", str(path)])

"""What is seen while a run trains: a live table of tasks on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fastgmtl.data import TaskSet
from fastgmtl.methods import Epoch, TrainConfig

if TYPE_CHECKING:
    from typing import Self

LINES = 40


class Progress(Protocol):
    """Shows epochs as they come; a context, so that a live display is taken down whatever happens."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, epoch: Epoch) -> None:
        """Show an epoch."""


def progress(console: Console, title: str, tasks: TaskSet, config: TrainConfig) -> Progress:
    """The display that suits the console."""
    if console.is_terminal:
        return LiveTable(console, title, tasks, config)
    return PlainLines(console, tasks, config)


def number(value: float, form: str = ".4f") -> str:
    """A figure, or a dash where there is none."""
    return "-" if math.isnan(value) else format(value, form)


class PlainLines:
    """About LINES lines a run: every few epochs, the first and the last."""

    def __init__(self, console: Console, tasks: TaskSet, config: TrainConfig) -> None:
        self._console, self._tasks, self._epochs = console, tasks, config.epochs
        self._every = max(1, config.epochs // LINES)
        self._last: Epoch | None = None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last is not None and self._last.epoch != self._shown:
            self._show(self._last)

    def update(self, epoch: Epoch) -> None:
        first, self._last = self._last is None, epoch
        if first or epoch.epoch % self._every == 0:
            self._show(epoch)

    def _show(self, epoch: Epoch) -> None:
        self._shown = epoch.epoch
        cells = [f"{name} {number(epoch.loss[name])} / {number(epoch.score[name])}" for name in self._tasks]
        mark = "  best" if epoch.best else ""
        line = f"epoch {epoch.epoch:>{len(str(self._epochs))}}/{self._epochs}  {' | '.join(cells)}{mark}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveTable:
    """One line of progress and one row a task: training loss, val metric, the best epoch's and the distance to it."""

    def __init__(self, console: Console, title: str, tasks: TaskSet, config: TrainConfig) -> None:
        self._title, self._tasks, self._config = title, tasks, config
        self._epoch: Epoch | None = None
        self._best: Epoch | None = None
        self._pace = 0.0
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, epoch: Epoch) -> None:
        self._pace = 0.9 * self._pace + 0.1 * epoch.seconds if self._pace else epoch.seconds
        self._epoch = epoch
        if epoch.best:
            self._best = epoch

    def _render(self) -> RenderableType:
        return Group(self._head(), self._table())

    def _head(self) -> RenderableType:
        epoch, last = self._epoch, self._config.epochs
        done = epoch.epoch if epoch else 0
        left = (last - done) * self._pace
        title = Text(self._title, style="bold")
        if epoch and self._best:
            waited = epoch.epoch - self._best.epoch
            title.append(f"   best epoch {self._best.epoch}, patience {waited}/{self._config.patience}", "not bold")
        pace = f"{done}/{last} epochs, {self._pace:.2f} s each, at most {left // 60:.0f}:{left % 60:02.0f} left"
        row = Table.grid(padding=(0, 2))
        row.add_row(ProgressBar(total=last, completed=done, width=24), Text(pace))
        return Group(title, row)

    def _table(self) -> Table:
        table = Table()
        for name in ("task", "metric"):
            table.add_column(name)
        for name in ("train loss", "val", "best val", "to best"):
            table.add_column(name, justify="right", min_width=8)
        for name, task in self._tasks.items():
            cells = ["-"] * 4
            if self._epoch:
                now = self._epoch.score[name]
                best = self._best.score[name] if self._best else math.nan
                gap = number(now - best, "+.4f")
                cells = [number(self._epoch.loss[name]), number(now), number(best), gap]
            table.add_row(Text(name), task.metric, *cells)
        return table

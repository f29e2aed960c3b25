"""The training loop that every method shares, and what a method has to be.

A method is a module (its weights, and every other state as a buffer) with three functions: :meth:`Method.build`,
:meth:`Method.step` and :meth:`Method.evaluate`. The loop owns the optimiser, the random numbers, early stopping and the
best weights. It knows nothing of files or terminals: it yields one record an epoch, and gives and takes its state.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset
from fastgmtl.methods.panel import Network, Panel, Plot
from fastgmtl.methods.parallel import Mode

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


def require(condition: bool, key: str, wanted: str, given: object) -> None:
    """Raise ValueError ``key: must be wanted, got given`` unless the condition holds."""
    if not condition:
        raise ValueError(f"{key}: must be {wanted}, got {given!r}")


@dataclass(frozen=True)
class TrainConfig:
    """What the loop itself needs to know; the Config of a method extends it.

    epochs: most passes over the data. patience: stop after so many epochs without a better mean val score.
    lr, weight_decay: those of AdamW. evaluate_every: val scores after every so many epochs and after the last one.
    """

    epochs: int = 300
    patience: int = 60
    lr: float = 0.01
    weight_decay: float = 1e-4
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.patience >= 1, "patience", "at least 1", self.patience)
        require(0 < self.lr < math.inf, "lr", "positive", self.lr)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "0 or more", self.weight_decay)
        require(self.evaluate_every >= 1, "evaluate_every", "at least 1", self.evaluate_every)


class Method(nn.Module, ABC):
    """One method on one data set: what the loop trains.

    Everything that must survive a checkpoint is a parameter or a buffer. Layers and dropout may draw from PyTorch's
    global generator (the loop seeds, saves and restores it); what takes a generator draws from the one of ``build``.
    """

    config_type: ClassVar[type[TrainConfig]]
    # Whether features of another dtype than the weights' are cast part by part; else all are, before it is built.
    widens: ClassVar[bool] = False
    modes: ClassVar[frozenset[str]] = frozenset()  # of fastgmtl.methods.parallel, in which several processes train it

    @classmethod
    @abstractmethod
    def build(cls, dataset: Dataset, config: Any, generator: torch.Generator) -> Self:
        """The method with fresh weights, on the data set's device. Raises ValueError if it does not fit the data."""

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterable[Any]:
        """What one epoch steps over, at least one batch: here the whole data set. ``generator`` is the one of build."""
        yield dataset

    @abstractmethod
    def step(self, batch: Any) -> dict[str, Tensor]:
        """The mean training loss of each task over the batch, differentiable; 0 for a task without labels.

        A method may have losses besides, by names that are no task's.
        """

    @abstractmethod
    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """The score of each task on a split; NaN where nothing is labelled. Called in eval mode, without gradients."""

    @property
    def adds_up(self) -> bool:
        """Whether :meth:`backward` leaves the gradients of all processes; otherwise the trainer adds them up."""
        return False

    def settle(self) -> None:
        """Fix the parameters that no loss depends on; called before several processes train the method.

        Their gradients are what rounding leaves, which differs with the number of processes, and Adam makes steps of
        lr of it.
        """

    def panels(self, batch: Dataset) -> Mapping[str, Sequence[Panel]]:
        """What there is to see of the weights, by the name of the picture. Called as :meth:`evaluate` is."""
        return {}

    def plots(self, batch: Dataset) -> Mapping[str, Sequence[Plot]]:
        """Curves and points that there are to see, by the name of the picture. Called as :meth:`evaluate` is."""
        return {}

    def networks(self, batch: Dataset) -> Mapping[str, Sequence[Network]]:
        """Graphs that were learned, by the name of the picture. Called as :meth:`evaluate` is."""
        return {}

    def history(self) -> Mapping[str, Sequence[Panel | Plot]]:
        """What there is to see of the epochs so far, by the name of the picture."""
        return {}

    def improves(self, epoch: Epoch, best: Best) -> bool:
        """Whether an epoch's weights are better than the best yet: here by the mean of the val scores."""
        return epoch.rank > best.rank

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Fill the gradients from the losses of one step: here those of their sum."""
        torch.autograd.backward(list(losses.values()))


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    epoch: from 1. loss: mean training loss by task, NaN for a task without training labels. score: val metric by task.
    rank: what early stopping compares: the mean of the scores, mae counted negative. best: whether it is the best yet.
    Scores of an epoch after which none are taken (``evaluate_every``) and their rank are NaN.
    """

    epoch: int
    loss: dict[str, float]
    score: dict[str, float]
    rank: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Best:
    """The best epoch yet, its val scores and a copy of its weights."""

    epoch: int
    rank: float
    score: dict[str, float]
    model: dict[str, Tensor]


class Diverged(RuntimeError):
    """A training loss is no longer a finite number."""


class Trainer:
    """Trains one method on one data set, one step a batch; a batch is the whole data set unless the method says else.

    ``for epoch in trainer: ...`` runs to the end or may be left after any epoch; :meth:`state_dict` then holds all that
    is needed to go on (:meth:`load_state_dict` of a Trainer made with the same arguments), bit for bit on a CPU with
    the same number of threads. Random numbers come from ``seed`` alone: those of the caller are neither used nor
    changed. After an exception inside an epoch only a state from before it is good.

    ``mode``: how several processes share the work, each with a Trainer made with the same arguments. Their states are
    the same, and fit any number of processes.
    """

    def __init__(
        self, method: type[Method], dataset: Dataset, config: TrainConfig, seed: int = 0, mode: Mode | None = None
    ) -> None:
        if mode is not None and mode.name not in method.modes:
            raise ValueError(f"{method.__name__} cannot be trained by several processes in mode {mode.name}")
        if dataset.x.dtype != torch.get_default_dtype() and not method.widens:
            dataset = replace(dataset, x=dataset.x.to(torch.get_default_dtype()))
        self.config = config
        self.mode = mode
        self.epoch = 0
        self.stale = 0
        self.best: Best | None = None
        self.train_counts = dataset.tasks.counts("train")
        if not any(self.train_counts.values()):
            raise ValueError(f"data set {dataset.name}: no task has a label in train")
        self._random = _Random(seed, dataset.x.device)
        with self._random.active():
            self.method = method.build(dataset, config, self._random.generator)
        self.dataset = dataset if mode is None else mode.take(self.method, dataset)
        if mode is not None:
            mode.check(self.method)
        self._optimizer = torch.optim.AdamW(self.method.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or patience is."""
        return self.epoch >= self.config.epochs or self.stale >= self.config.patience

    def __iter__(self) -> Iterator[Epoch]:
        while not self.done:
            yield self.run_epoch()

    def run_epoch(self) -> Epoch:
        """One step a batch, then the val scores. Raises Diverged before the step that would spoil the weights."""
        start = time.perf_counter()
        with self._random.active():
            self.method.train()
            made = self.method.batches(self.dataset, self._random.generator)
            steps = [self._step(batch) for batch in (made if self.mode is None else self.mode.batches(made))]
        self.epoch += 1
        due = self.epoch % self.config.evaluate_every == 0 or self.epoch >= self.config.epochs
        score = self.evaluate("val") if due else dict.fromkeys(self.dataset.tasks, math.nan)
        rank = self._rank(score)
        names = dict.fromkeys([*self.dataset.tasks, *(name for step in steps for name in step)])
        seen = {name: [step[name] for step in steps if name in step] for name in names}
        loss = {k: sum(v) / len(v) if v and self.train_counts.get(k, 1) else math.nan for k, v in seen.items()}
        epoch = Epoch(self.epoch, loss, score, rank, False, time.perf_counter() - start)
        better = self.best is None or math.isnan(self.best.rank) or self.method.improves(epoch, self.best)
        self.stale = 0 if better else self.stale + 1
        if better:
            model = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
            self.best = Best(self.epoch, rank, score, model)
        return replace(epoch, best=better, seconds=time.perf_counter() - start)

    def _step(self, batch: Dataset) -> dict[str, float]:
        self._optimizer.zero_grad()
        losses = self.method.step(batch)
        if self.mode is not None:
            values = self.mode.backward(self.method, losses, self._finite)
        else:
            values = self._finite(losses)
            self.method.backward(losses)
        self._optimizer.step()
        return values

    def evaluate(self, split: str) -> dict[str, float]:
        """The score of each task on a split, with the present weights. Leaves the run's random numbers as they were."""
        scores = self._looking(lambda: self.method.evaluate(self.dataset, split))
        return scores if self.mode is None else self.mode.agree(scores)

    def evaluate_best(self, split: str) -> dict[str, float]:
        """The score of each task on a split, with the best weights; the present ones stay."""
        return self._at_best(lambda: self.evaluate(split))

    def plots_best(self) -> Mapping[str, Sequence[Plot]]:
        """Curves and points of the best weights; the present ones stay."""
        return self._at_best(lambda: self._looking(lambda: self.method.plots(self.dataset)))

    def networks_best(self) -> Mapping[str, Sequence[Network]]:
        """Graphs that the best weights have learned; the present ones stay."""
        return self._at_best(lambda: self._looking(lambda: self.method.networks(self.dataset)))

    def panels_best(self) -> Mapping[str, Sequence[Panel]]:
        """What there is to see of the best weights; the present ones stay."""
        return self._at_best(lambda: self._looking(lambda: self.method.panels(self.dataset)))

    def _looking(self, look: Callable[[], T]) -> T:
        self.method.eval()
        before = self._random.state_dict()
        with torch.no_grad(), self._random.active():
            seen = look()
        self._random.load_state_dict(before)
        return seen

    def _at_best(self, look: Callable[[], T]) -> T:
        if self.best is None:
            return look()
        present = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
        self.method.load_state_dict(self.best.model)
        try:
            return look()
        finally:
            self.method.load_state_dict(present)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors, numbers, strings, lists and dicts only. Tensors are not copied."""
        return {
            "epoch": self.epoch,
            "stale": self.stale,
            "model": dict(self.method.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "random": self._random.state_dict(),
            "best": None if self.best is None else vars(self.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises KeyError, ValueError or RuntimeError when it is of another model."""
        self.method.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._random.load_state_dict(state["random"])
        self.best = None if state["best"] is None else Best(**state["best"])
        self.epoch, self.stale = state["epoch"], state["stale"]

    def _rank(self, score: Mapping[str, float]) -> float:
        """Mean over the tasks that are trained and have a score; NaN when there is none."""
        sign = {name: 1 if t.higher_is_better else -1 for name, t in self.dataset.tasks.items()}
        values = [
            sign[name] * value for name, value in score.items() if self.train_counts[name] and not math.isnan(value)
        ]
        return sum(values) / len(values) if values else math.nan

    def _finite(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        values = dict(zip(losses, torch.stack([v.detach() for v in losses.values()]).tolist(), strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return values
        name, value = wrong[0], values[wrong[0]]
        raise Diverged(
            f"training diverged in epoch {self.epoch + 1}: the loss of task {name} is {value}; "
            f"try a smaller lr (it is {self.config.lr:g}), and look for NaN or huge features"
        )


class _Random:
    """The random numbers of one run: PyTorch's global generators and one generator for what takes one."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
        self._states = [torch.Generator(d).manual_seed(seed).get_state() for d in self._devices]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the global generators are those of the run; outside, those of the caller, untouched."""
        with torch.random.fork_rng(self._devices[1:]):
            for device, state in zip(self._devices, self._states, strict=True):
                _default(device).set_state(state)
            yield
            self._states = [_default(d).get_state() for d in self._devices]

    def state_dict(self) -> dict[str, Tensor]:
        named = {d.type: s for d, s in zip(self._devices, self._states, strict=True)}
        return {"generator": self.generator.get_state(), **named}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; of a run on another device, what both have."""
        self.generator.set_state(state["generator"])
        self._states = [state.get(d.type, mine) for d, mine in zip(self._devices, self._states, strict=True)]


def _default(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


__all__ = ["Best", "Diverged", "Epoch", "Method", "TrainConfig", "Trainer", "require"]

"""A task: labels with gaps, splits, a loss and a metric. A task set: several of them over one graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.data.metrics import LOWER_IS_BETTER, METRICS
from fastgmtl.data.negatives import NegativeSampler

SPLITS = ("train", "val", "test")
LEVELS = ("node", "graph", "edge")
# What may be measured: metrics of each kind.
KINDS: dict[str, tuple[str, ...]] = {
    "class": ("accuracy", "macro_f1"),
    "multilabel": ("roc_auc", "average_precision"),
    "regression": ("mae", "r2"),
    "link": ("roc_auc", "average_precision"),
}

Output = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """One task: what is to be predicted, for which nodes, graphs or pairs, and how it is judged.

    kind and target (n entries: nodes of ``node_type`` or graphs; missing labels allowed everywhere):

    * ``class``: int64 [n], -1 missing; output [n, C] logits; loss cross entropy.
    * ``multilabel``: float32 [n, L] of 0, 1, NaN missing; output [n, L] logits; loss binary cross entropy.
    * ``regression``: float32 [n], NaN missing; output [n] or [n, 1]; loss squared error.
    * ``link``: positive pairs int64 [2, M]; output (scores of positives [P], of negatives [Q]) of the split asked
      for; loss binary cross entropy.

    split: "train", "val", "test" to bool [n] ([M] for links), disjoint.
    num_outputs: C, L, 1 and 1: the width of the head.
    Raises ValueError or TypeError when these do not fit together.
    """

    name: str
    kind: str
    level: str
    target: Tensor
    split: Mapping[str, Tensor]
    metric: str
    node_type: str = "node"
    num_outputs: int = 1
    sampler: NegativeSampler | None = None
    fixed_negatives: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.metric not in LOWER_IS_BETTER

    def loss(self, output: Output, split: str) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the split's labelled entries, and how many they are (int64, no gradient).

        Divide by the sum of the counts over all batches and processes, so that the mean is one over all labels.
        With nothing labelled the sum is 0, still attached to ``output``. Half precision is computed in float32.
        """
        if self.kind == "link":
            positive, negative = self._pair(output)
            score = torch.cat((_widen(positive), _widen(negative)))
            truth = torch.zeros_like(score)
            truth[: positive.numel()] = 1
            total = F.binary_cross_entropy_with_logits(score, truth, reduction="sum")
            return total, torch.tensor(score.numel(), device=score.device)
        rows, truth, count = self._labelled(split)
        guess = _widen(self._checked(output).index_select(0, rows))
        if self.kind == "class":
            total = F.cross_entropy(guess, truth, reduction="sum")
        elif self.kind == "regression":
            total = (guess - truth.to(guess.dtype)).square().sum()
        else:
            known = ~truth.isnan()
            each = F.binary_cross_entropy_with_logits(guess, truth.nan_to_num().to(guess.dtype), reduction="none")
            total = torch.where(known, each, 0).sum()
        return total, count

    def score(self, output: Output, split: str) -> float:
        """The task's metric on the split's labelled entries; NaN when there are none."""
        if self.kind == "link":
            positive, negative = (v.detach() for v in self._pair(output))
            truth = torch.cat((torch.ones_like(positive), torch.zeros_like(negative)))
            return METRICS[self.metric](torch.cat((positive, negative)), truth)
        rows, truth, _ = self._labelled(split)
        if not rows.numel():
            return math.nan
        return METRICS[self.metric](self._checked(output).detach().index_select(0, rows), truth)

    def count(self, split: str) -> int:
        """Labelled entries of the split: nodes or graphs, entries of the label matrix, positive pairs."""
        return int(self._labelled(split)[2])

    def labelled(self, split: str) -> Tensor:
        """Entries of the split that have a label, sorted: int64."""
        return self._labelled(split)[0]

    def positives(self, split: str) -> Tensor:
        """The positive pairs of the split of a link task: int64 [2, P]."""
        self._only_links("positives")
        return self._labelled(split)[1]

    def negatives(self, split: str, generator: torch.Generator | None = None) -> Tensor:
        """Negative pairs for the split of a link task: int64 [2, Q], Q <= P.

        Those of val and test are fixed when the data set is made; those of train are drawn anew from ``generator``.
        """
        self._only_links("negatives")
        self._mask(split)
        if split in self.fixed_negatives:
            return self.fixed_negatives[split]
        assert self.sampler is not None
        return self.sampler.draw(self.positives(split), generator)

    def to(self, device: torch.device | str) -> Task:
        """The same task with every tensor on the device."""
        return dataclasses.replace(
            self,
            target=self.target.to(device),
            split={k: v.to(device) for k, v in self.split.items()},
            sampler=None if self.sampler is None else self.sampler.to(device),
            fixed_negatives={k: v.to(device) for k, v in self.fixed_negatives.items()},
        )

    def _mask(self, split: str) -> Tensor:
        if split not in self.split:
            raise ValueError(f"task {self.name}: split must be one of {', '.join(self.split)}, got {split!r}")
        return self.split[split]

    @cached_property
    def _cache(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        return {}

    def _labelled(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the split with a label, their targets, and the number of labelled entries."""
        mask = self._mask(split)
        if split not in self._cache:
            if self.kind == "class":
                known = self.target >= 0
            elif self.kind == "link":
                known = torch.ones_like(mask)
            else:
                known = ~self.target.isnan()
            rows = (mask & (known.any(1) if known.dim() == 2 else known)).nonzero()[:, 0]
            truth = self.target[:, rows] if self.kind == "link" else self.target[rows]
            self._cache[split] = rows, truth, known[rows].sum()
        return self._cache[split]

    def _checked(self, output: Output) -> Tensor:
        """The output as [n, C], [n, L] or [n], or an error that says which was required."""
        width = {"class": self.num_outputs, "multilabel": self.num_outputs}.get(self.kind)
        n = self.target.shape[0]
        if not isinstance(output, Tensor):
            raise TypeError(f"task {self.name}: output must be a tensor, got {type(output).__name__}")
        if width is None and output.dim() == 2 and output.shape[1] == 1:
            output = output[:, 0]
        want = [n] if width is None else [n, width]
        if list(output.shape) != want:
            raise ValueError(f"task {self.name}: output must have shape {want}, got {list(output.shape)}")
        return output

    def _pair(self, output: Output) -> tuple[Tensor, Tensor]:
        if isinstance(output, Tensor) or len(output) != 2 or any(v.dim() != 1 for v in output):
            raise ValueError(
                f"task {self.name}: output of a link task must be a pair (scores of positives [P], "
                "scores of negatives [Q])"
            )
        return output

    def _only_links(self, what: str) -> None:
        if self.kind != "link":
            raise ValueError(f"task {self.name}: only link tasks have {what}, this one is {self.kind}")


class TaskSet(Mapping[str, Task]):
    """Tasks by name, in the order given. Immutable."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            if task.name in self._tasks:
                raise ValueError(f"TaskSet: names must be unique, got {task.name!r} twice")
            self._tasks[task.name] = task

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def counts(self, split: str) -> dict[str, int]:
        """Labelled entries of the split, by task."""
        return {name: task.count(split) for name, task in self.items()}

    def to(self, device: torch.device | str) -> TaskSet:
        """The same tasks with every tensor on the device."""
        return TaskSet(task.to(device) for task in self.values())

    def __repr__(self) -> str:
        head = ("task", "kind", "level", "outputs", "metric", *SPLITS)
        rows = [head] + [
            (t.name, t.kind, t.level, str(t.num_outputs), t.metric, *(f"{t.count(s):,}" for s in SPLITS))
            for t in self.values()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        # Text columns to the left, figures to the right.
        return "\n".join(
            "  ".join(
                cell.rjust(w) if i == 3 or i > 4 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _widen(value: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _check(task: Task) -> None:
    who, target = f"task {task.name}", task.target
    if task.kind not in KINDS:
        raise ValueError(f"{who}: kind must be one of {', '.join(KINDS)}, got {task.kind!r}")
    if task.metric not in KINDS[task.kind]:
        raise ValueError(
            f"{who}: metric of a {task.kind} task must be one of {', '.join(KINDS[task.kind])}, got {task.metric!r}"
        )
    if task.level not in LEVELS or (task.level == "edge") != (task.kind == "link"):
        raise ValueError(
            f"{who}: level must be edge for link tasks and node or graph for others, "
            f"got {task.level!r} for {task.kind!r}"
        )
    integer = task.kind in ("class", "link")
    if target.dtype != (torch.int64 if integer else torch.float32):
        raise TypeError(
            f"{who}: target of a {task.kind} task must be {'int64' if integer else 'float32'}, got {target.dtype}"
        )
    _check_shape(who, task)
    _check_split(who, task)


def _check_shape(who: str, task: Task) -> None:
    target, outputs = task.target, task.num_outputs
    wanted = {"class": "[n]", "regression": "[n]", "multilabel": f"[n, {outputs}]", "link": "[2, M]"}
    fits = {
        "class": target.dim() == 1,
        "regression": target.dim() == 1 and outputs == 1,
        "multilabel": target.dim() == 2 and target.shape[-1] == outputs,
        "link": target.dim() == 2 and target.shape[0] == 2 and outputs == 1,
    }
    if not fits[task.kind]:
        raise ValueError(
            f"{who}: target of a {task.kind} task with num_outputs {outputs} must have shape "
            f"{wanted[task.kind]}, got {list(target.shape)}"
        )
    if task.kind == "class" and target.numel():
        low, high = int(target.min()), int(target.max())
        if low < -1 or high >= outputs:
            raise ValueError(f"{who}: classes must be -1 (missing) or 0..{outputs - 1}, got {low}..{high}")
    if task.kind == "multilabel":
        strange = ~(target.isnan() | (target == 0) | (target == 1))
        if bool(strange.any()):
            raise ValueError(f"{who}: labels must be 0, 1 or NaN, got {float(target[strange][0]):g}")
    if task.kind == "link" and task.sampler is None:
        raise ValueError(f"{who}: a link task needs a sampler of negatives")


def _check_split(who: str, task: Task) -> None:
    n = task.target.shape[-1 if task.kind == "link" else 0]
    if sorted(task.split) != sorted(SPLITS):
        raise ValueError(f"{who}: splits must be {', '.join(SPLITS)}, got {', '.join(task.split)}")
    for name, mask in task.split.items():
        if mask.dtype != torch.bool or list(mask.shape) != [n]:
            raise ValueError(f"{who}: split {name} must be bool [{n}], got {mask.dtype} {list(mask.shape)}")
    if n and int(torch.stack(list(task.split.values())).sum(0).max()) > 1:
        raise ValueError(f"{who}: splits must be disjoint, some entries are in two")

"""Auxiliary learning on molecules: a pre-trained encoder learns its target, and tasks besides that may help it.

Source: Dey and Ning, Enhancing molecular property prediction with auxiliary learning and task-specific adaptation,
J. Cheminformatics 2024. Every strategy makes one update of the encoder from the gradients g_0 of the target and g_i of
the auxiliary tasks; heads get the gradients of their own losses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from fastgmtl import gradients, ops
from fastgmtl.data import Dataset
from fastgmtl.data.files import find_folder
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods.auxiliary_tasks import TASKS, View
from fastgmtl.methods.conflicts import Conflicts
from fastgmtl.methods.panel import Panel, Plot
from fastgmtl.methods.training import Method, TrainConfig, require
from fastgmtl.nn import MoleculeEncoder

if TYPE_CHECKING:
    from typing import Self

FILES = {"gcn": "gcn", "sage": "graphsage", "gin": "gin"}
EVALUATED = 1024  # molecules at once


@dataclass(frozen=True)
class Config(TrainConfig):
    """conv, hidden, layers, dropout: of the encoder. batch: molecules a step.

    pretrained: the released weights that the encoder starts from (a file of pretrained_gnn/chem without its prefix), or
    none.
    """

    epochs: int = 100
    patience: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    conv: Literal["gin", "gcn", "sage"] = "gcn"
    hidden: int = 300
    layers: int = 5
    dropout: float = 0.5
    batch: int = 256
    pretrained: str = "supervised_contextpred"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.conv in FILES, "conv", "gin, gcn or sage", self.conv)
        for key in ("hidden", "layers"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        require(self.batch >= 2, "batch", "at least 2", self.batch)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)

    @property
    def names(self) -> list[str]:
        """The auxiliary tasks: none."""
        return []


@dataclass(frozen=True)
class TasksConfig(Config):
    """auxiliary: names of auxiliary tasks, with commas: masking, edges, context, infomax, motif."""

    auxiliary: str = "masking,edges,context,infomax,motif"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = all(name in TASKS for name in self.names) and len(set(self.names)) == len(self.names)
        require(known, "auxiliary", f"some of {', '.join(TASKS)}, each once", self.auxiliary)

    @property
    def names(self) -> list[str]:
        """The auxiliary tasks."""
        return [name.strip() for name in self.auxiliary.split(",")]


@dataclass(frozen=True, eq=False)
class Captured:
    """Gradients of one step: of the encoder's parameters, T lists of tensors or None, and of each task's head."""

    encoder: list[list[Tensor | None]]
    heads: list[list[Tensor | None]]


class Auxiliary(Method):
    """What the strategies share: the encoder, a linear head for the target's labels, the auxiliary tasks."""

    config_type: ClassVar[type[TrainConfig]] = TasksConfig
    epoch: Tensor
    target: nn.Module

    def __init__(self, dataset: Molecules, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        (task,) = dataset.tasks.values()
        self.config, self.generator, self.dataset = config, generator, dataset
        self.encoder = MoleculeEncoder(config.conv, config.hidden, config.layers, config.dropout)
        self.target = nn.Linear(config.hidden, task.num_outputs)
        self.auxiliary = nn.ModuleDict({name: TASKS[name](self.encoder) for name in config.names})
        self.conflicts = Conflicts([task.name, *self.auxiliary], config.epochs)
        self.register_buffer("epoch", torch.tensor(0))
        self.trained = task.split["train"].nonzero()[:, 0].cpu()

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """For molecules with labels that are 0 or 1; starts from the released weights unless ``pretrained`` is none."""
        kinds = [task.kind for task in dataset.tasks.values()]
        if not isinstance(dataset, Molecules) or kinds != ["multilabel"]:
            raise ValueError("the data must be molecules with labels of 0 and 1, such as moleculenet:clintox")
        method = cls(dataset, config, generator)
        if config.pretrained != "none":
            folder = find_folder("pretrained_gnn") / "chem"
            path = folder / f"{FILES[config.conv]}_{config.pretrained}.pth"
            if not path.exists():
                there = ", ".join(sorted(p.stem for p in folder.glob("*.pth")))
                raise ValueError(f"pretrained: {path} does not exist, only {there}; none starts from fresh weights")
            method.encoder.load_pretrained(path)
        return method.to(dataset.x.device)

    @property
    def names(self) -> tuple[str, ...]:
        """The target and the auxiliary tasks: rows of every Gram matrix."""
        return self.conflicts.names

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Dataset]:
        """The training molecules in a random order, ``batch`` at a time; none is left alone in the last one."""
        self.epoch += 1
        assert isinstance(dataset, Molecules)
        order = self.trained[torch.randperm(len(self.trained), generator=generator)]
        parts = list(order.split(self.config.batch))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return (dataset.take(part.to(dataset.x.device)) for part in parts)

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        """The loss of the target and those of the auxiliary tasks."""
        view = View.of(self.encoder, cast(Molecules, batch), self.generator)
        losses = {name: task(view) for name, task in self.auxiliary.items()}
        return {self.names[0]: self.target_loss(view), **losses}

    def target_loss(self, view: View) -> Tensor:
        """Mean binary cross entropy of the labels that are there, in float64."""
        (task,) = view.batch.tasks.values()
        total, count = task.loss(self.target(view.pooled).double(), "train")
        return total / count.clamp(min=1)

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """ROC-AUC over the labelled entries, averaged over the labels with both classes."""
        assert isinstance(batch, Molecules)
        (task,) = batch.tasks.values()
        output = torch.zeros(batch.num_graphs, task.num_outputs, device=batch.x.device)
        for part in task.split[split].nonzero()[:, 0].split(EVALUATED):
            output[part] = self.target(View.of(self.encoder, batch.take(part), self.generator).pooled)
        return {task.name: task.score(output, split)}

    def history(self) -> Mapping[str, Sequence[Panel | Plot]]:
        """Conflicts and weights."""
        return self.conflicts.pictures()

    # ------------------------------------------------------------------------------------------- gradients

    @property
    def shared(self) -> list[nn.Parameter]:
        """The encoder's parameters."""
        return list(self.encoder.parameters())

    def heads(self) -> list[list[nn.Parameter]]:
        """Parameters that only one task uses, by task."""
        return [list(module.parameters()) for module in (self.target, *self.auxiliary.values())]

    def capture(self, losses: Mapping[str, Tensor]) -> Captured:
        """The gradient of every loss by itself."""
        shared, found = self.shared, []
        for number, (loss, head) in enumerate(zip(losses.values(), self.heads(), strict=True), 1):
            wanted = [*shared, *head]
            found.append(torch.autograd.grad(loss, wanted, retain_graph=number < len(losses), allow_unused=True))
        split = len(shared)
        return Captured([list(g[:split]) for g in found], [list(g[split:]) for g in found])

    def fill(self, captured: Captured, weights: Tensor, scale: Tensor | None = None) -> None:
        """Gradients of the encoder: the sum of all tasks' by ``weights`` [T]; of heads: their own, by ``scale`` [T]."""
        for parameter, grad in zip(self.shared, ops.combine(captured.encoder, weights), strict=True):
            parameter.grad = grad
        for number, (head, grads) in enumerate(zip(self.heads(), captured.heads, strict=True)):
            for parameter, grad in zip(head, grads, strict=True):
                parameter.grad = grad if grad is None or scale is None else grad * scale[number].to(grad.dtype)

    def note(self, weights: Tensor, gram: Tensor | None = None, learned: Tensor | None = None) -> None:
        """Write down a step."""
        epoch = max(0, int(self.epoch) - 1)
        if gram is not None:
            self.conflicts.add_gram(epoch, gram)
        self.conflicts.add_weights(epoch, weights, learned)


class Finetune(Auxiliary):
    """The target alone."""

    config_type: ClassVar[type[TrainConfig]] = Config


class Sum(Auxiliary):
    """``mtl``: the sum of all losses, g = g_0 + sum_i g_i, in one backward."""


class Surgery(Auxiliary):
    """A weighted sum of the gradients, the weights a function of their Gram matrix."""

    def __init__(self, dataset: Molecules, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self.aggregator = self.make(len(self.names))

    @abstractmethod
    def make(self, tasks: int) -> gradients.GramAggregator:
        """The aggregator, with the target as row 0."""

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Gram matrix, weights, combination; heads get plain gradients."""
        report = gradients.backward(list(losses.values()), self, self.aggregator)
        assert report.weights is not None and report.gram is not None
        self.note(report.weights, report.gram)


class GCS(Surgery):
    """Auxiliary gradients weighted by their cosine with the target's, 0 where it is negative."""

    def make(self, tasks: int) -> gradients.GramAggregator:
        """See :class:`fastgmtl.gradients.GCS`."""
        return gradients.GCS()


class GNS(Surgery):
    """Auxiliary gradients scaled down to the norm of the target's where they are longer."""

    def make(self, tasks: int) -> gradients.GramAggregator:
        """See :class:`fastgmtl.gradients.GNS`."""
        return gradients.GNS()


class PCGrad(Surgery):
    """Auxiliary gradients that go against the target's are projected onto its normal plane."""

    def make(self, tasks: int) -> gradients.GramAggregator:
        """See :class:`fastgmtl.gradients.TargetPCGrad`."""
        return gradients.TargetPCGrad()

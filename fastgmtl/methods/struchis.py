"""StrucHIS: tasks on a heterogeneous graph share what they see along each relation, as far as gates let them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from fastgmtl.data import Dataset, Task
from fastgmtl.hetero import HeteroGraph
from fastgmtl.methods.heads import Heads, Output, standard
from fastgmtl.methods.panel import Panel
from fastgmtl.methods.training import Best, Epoch, TrainConfig, require
from fastgmtl.methods.typed import TypedInput
from fastgmtl.nn import StrucHISLayer
from fastgmtl.nn.struchis_layer import dropped
from fastgmtl.ops import attention

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Config(TrainConfig):
    """hidden: width. layers: gated levels. dropout: of features and of logits of the attention.

    sharing: relation; layer (without relation-wise sharing) or none (also without layer-wise: gates at the end only).
    variant: as_described, or as_released. task_weights: of the losses, such as 0.005,0.995; empty for 1 each.
    """

    lr: float = 5e-3
    weight_decay: float = 0.0
    hidden: int = 64
    layers: int = 3
    dropout: float = 0.5
    sharing: Literal["relation", "layer", "none"] = "relation"
    variant: Literal["as_described", "as_released"] = "as_described"
    task_weights: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        numbers = self.weights()
        fine = numbers is not None and all(0 <= w < math.inf for w in numbers)
        require(fine, "task_weights", "numbers of 0 or more with commas between", self.task_weights)

    def weights(self) -> list[float] | None:
        """The numbers of ``task_weights``; None if they are none."""
        try:
            return [float(part) for part in self.task_weights.split(",")] if self.task_weights else []
        except ValueError:
            return None


class AttentionHead(nn.Module):
    """The output of one node task from its embeddings h [N, d] of all nodes: one more attention, without gates.

    Its softmax runs over the neighbours along all relations at once. W by the type of the task's nodes only: as
    released, every type has one, and there are weights of an attention over relations, which nothing reads.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, task: Task, graph: HeteroGraph, config: Config) -> None:
        super().__init__()
        c, d, self.config = task.num_outputs, config.hidden, config
        released = config.variant == "as_released"
        types = graph.node_types if released else (task.node_type,)
        self.weight = nn.ParameterDict({name: Parameter(torch.empty(c, d)) for name in types})
        self.relation = Parameter(torch.empty(len(graph.relations), d))
        self.weight_relation = Parameter(torch.empty(d, d))
        self.att_dst, self.att_src = Parameter(torch.empty(c)), Parameter(torch.empty(c))
        self.att_relation = Parameter(torch.empty(d))
        self.res = nn.Linear(d, c)
        self.att_out = nn.Linear(2 * c, 1) if released else None
        for value in (*self.weight.values(), self.relation, self.weight_relation):
            nn.init.xavier_uniform_(value)
        for value in (self.att_dst, self.att_src, self.att_relation):
            nn.init.xavier_uniform_(value.unsqueeze(0))
        numbers = task.kind == "regression"
        seen = task.target[task.split["train"] & ~task.target.isnan()] if numbers else torch.zeros(0)
        shift, scale = standard(seen[:, None])
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, task: Task, h: Tensor, batch: Dataset) -> Tensor:
        """Logits [N_type, C]; as released of length 1, for classes. Regression: in units of the target."""
        assert batch.hetero is not None
        drop = self.config.dropout if self.training else 0.0
        rows, packed = batch.hetero.rows(task.node_type), batch.hetero.packed(task.node_type)
        out = self.res(h[rows])
        if packed.num_relations:
            weight = self.weight[task.node_type]
            value, centre = (dropped(v, drop) @ weight.t() for v in (h, h[rows]))
            of_relation = self.relation[list(packed.relation_ids)] @ self.weight_relation @ self.att_relation
            found = attention(
                packed.by_node(),
                value.unsqueeze(1),
                score_dst=(centre @ self.att_dst).unsqueeze(1),
                score_src=(value @ self.att_src).unsqueeze(1),
                score_type=of_relation.unsqueeze(1),
                edge_type=packed.edge_type(),
                dropout=drop,
                dropout_on="logits",
                training=self.training,
            )
            assert isinstance(found, Tensor)
            out = out + found.squeeze(1)
        if task.kind == "regression":
            return out * self.scale + self.shift
        return F.normalize(out, dim=-1) if self.config.variant == "as_released" else out


class StrucHIS(Heads):
    """StrucHIS on heterogeneous data with node tasks.

    Source: the paper's slides and released code; :class:`fastgmtl.nn.StrucHISLayer` has the formulas of a level. The
    two differ, and so do the variants:

    * ``as_described`` (default): gates see the embedding of the node; the loss is that of the task (cross entropy);
      early stopping by the mean val score.
    * ``as_released``: gates see the dropped embedding twice; weights that cancel are there (583,296 parameters on
      DBLP); logits have length 1 and the loss is the binary cross entropy of softmax probabilities, which cannot fall
      below a positive floor: a probability is at most e^q / (e^q + C - 1), q = sqrt(C / (C - 1)), .128 for C = 20; an
      epoch counts as better only if no task got worse.

    The published runs have lr 5e-5, loss weights 0.005,0.995 (DBLP) or lr 5e-3, 1,1 (Aminer), up to 2,000 epochs.
    """

    config_type = Config

    def __init__(self, dataset: Dataset, config: Config, generator: torch.Generator) -> None:
        graph = dataset.hetero
        if graph is None:
            raise ValueError(f"struchis: data must be heterogeneous, such as dblp, got {dataset.name}")
        strange = [task.name for task in dataset.tasks.values() if task.level != "node"]
        if strange:
            raise ValueError(f"struchis: every task must be about nodes, got {', '.join(strange)}")
        weights = config.weights() or [1.0] * len(dataset.tasks)
        if len(weights) != len(dataset.tasks):
            raise ValueError(f"struchis: task_weights must be {len(dataset.tasks)} numbers, got {len(weights)}")
        self._graph, self.config = graph, config
        super().__init__(dataset, config.hidden, generator)
        self.task_weights = dict(zip(dataset.tasks, weights, strict=True))
        tasks, metadata = len(dataset.tasks), (graph.node_types, graph.relations)
        self.input = TypedInput(dataset, config.hidden)
        self.layers = nn.ModuleList(
            StrucHISLayer(
                config.hidden,
                metadata,
                tasks,
                dropout=config.dropout,
                residual=level > 0,
                sharing=config.sharing,
                variant=config.variant,
            )
            for level in range(config.layers)
        )
        # Without sharing in the layers, gates mix the final embeddings.
        self.gate = nn.Linear(config.hidden, tasks * tasks) if config.sharing == "none" else None

    def head(self, task: Task, hidden: int) -> nn.Module:
        """A fresh attention head."""
        return AttentionHead(task, self._graph, self.config)

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:
        """Fresh weights for heterogeneous data; ValueError for others."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Of the last level, by task."""
        assert batch.hetero is not None
        first = self.input(batch)
        h = first.unsqueeze(1).expand(-1, len(batch.tasks), -1)
        for layer in self.layers:
            h = layer(h, batch.hetero)
        if self.gate is not None:
            share = self.gate(first).unflatten(1, (len(batch.tasks), -1)).softmax(1)
            h = torch.einsum("nts,ntd->nsd", share, h)
        return {name: h[:, t] for t, name in enumerate(batch.tasks)}

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        """Mean loss by task, before the task weights."""
        if self.config.variant == "as_described":
            return super().step(batch)
        outputs = self.outputs(batch, "train")
        return {name: _released_loss(task, outputs[name]) for name, task in batch.tasks.items()}

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Gradients of the weighted sum."""
        weights = [loss.new_tensor(self.task_weights[name]) for name, loss in losses.items()]
        torch.autograd.backward(list(losses.values()), weights)

    def panels(self, batch: Dataset) -> Mapping[str, Sequence[Panel]]:
        """Gates: the mean over a type's nodes of what each task takes of each task, by level and relation."""
        assert batch.hetero is not None
        names, found = tuple(batch.tasks), []
        h = self.input(batch).unsqueeze(1).expand(-1, len(names), -1)
        for level, layer in enumerate(self.layers, 1):
            assert isinstance(layer, StrucHISLayer)
            for node_type in layer.gates:
                rows, into = batch.hetero.rows(node_type), batch.hetero.packed(node_type).relations
                relations = [f"{r[0]} {r[1]}" for r in into] if layer.sharing == "relation" else ["all"]
                mean = layer.gate_logits(node_type, h[rows]).softmax(2).mean(0)  # [R, from, into]
                found.append(
                    Panel(
                        f"level {level}, {node_type}",
                        tuple(f"{relation}: {name}" for relation in relations for name in names),
                        names,
                        mean.transpose(1, 2).flatten(0, 1).tolist(),
                        "relation: task",
                        "takes of",
                        "mean gate",
                    )
                )
            h = layer(h, batch.hetero)
        return {"gates": found} if found else {}

    def improves(self, epoch: Epoch, best: Best) -> bool:
        """As described by the mean of the val scores; as released only if no task has become worse."""
        if self.config.variant == "as_described":
            return super().improves(epoch, best)
        return all(not epoch.score[name] < score for name, score in best.score.items())


def _released_loss(task: Task, output: Output) -> Tensor:
    """Mean over labelled entries of the binary cross entropy of probabilities; squared errors for regression."""
    assert isinstance(output, Tensor)
    if task.kind == "class":
        rows = task.split["train"] & (task.target >= 0)
        wanted = F.one_hot(task.target[rows], task.num_outputs).to(output.dtype)
        chance = output.softmax(-1)[rows]
    elif task.kind == "multilabel":
        here = task.split["train"].unsqueeze(1) & ~task.target.isnan()
        wanted, chance = task.target[here], output.sigmoid()[here]
    else:
        total, count = task.loss(output, "train")
        return total / count.clamp(min=1)
    total = F.binary_cross_entropy(chance, wanted, reduction="sum")
    return total / max(1, wanted.numel())

"""One encoder of typed nodes for each task (single), or one for all of them (shared), and a head for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fastgmtl.data import Dataset
from fastgmtl.methods.heads import Heads
from fastgmtl.methods.training import TrainConfig, require
from fastgmtl.methods.typed import TypedInput, of_x

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class EncoderConfig(TrainConfig):
    """hidden: width of the encoder. layers: how many. heads: of each layer. dropout: see the encoder."""

    lr: float = 5e-3
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "hidden", "at least 1", self.hidden)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(self.heads >= 1 and self.hidden % self.heads == 0, "heads", "a divisor of hidden", self.heads)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)


class SingleEncoder(Heads):
    """An encoder for each task by itself: T encoders that share nothing, in one pass over the edges.

    The tasks are trained at the same time, and stop at the same epoch: that with the best mean val score. A subclass
    says which ``encoder``: made of data set, config and the number S of sets of weights, it takes the input
    [N, S, hidden] of all nodes and the data set to embeddings of the same shape.
    """

    encoder_type: ClassVar[Callable[..., nn.Module]]
    shares: ClassVar[bool] = False

    def __init__(self, dataset: Dataset, config: EncoderConfig, generator: torch.Generator) -> None:
        super().__init__(dataset, config.hidden, generator)
        sets = 1 if self.shares else len(dataset.tasks)
        self.inputs = nn.ModuleList(TypedInput(dataset, config.hidden) for _ in range(sets))
        self.encoder = type(self).encoder_type(dataset, config, sets)

    @classmethod
    def build(cls, dataset: Dataset, config: EncoderConfig, generator: torch.Generator) -> Self:
        """Fresh weights for the data set; it fits any."""
        return cls(dataset, config, generator).to(dataset.x.device)

    def embed(self, batch: Dataset) -> Mapping[str, Tensor]:
        """Of a task's own encoder, or of that of all tasks."""
        h = of_x(batch, self.encoder(torch.stack([given(batch) for given in self.inputs], 1), batch))
        return {name: h[:, 0 if self.shares else t] for t, name in enumerate(batch.tasks)}

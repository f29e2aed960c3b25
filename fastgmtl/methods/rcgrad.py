"""RCGrad: auxiliary gradients that conflict with the target's are rotated, by an amount that is learned.

Source: Dey and Ning, Enhancing molecular property prediction with auxiliary learning and task-specific adaptation,
J. Cheminformatics 2024, and its released code, which does something else than the text says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgmtl import gradients, ops
from fastgmtl.data import Dataset
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import auxiliary
from fastgmtl.methods.panel import Panel, Plot
from fastgmtl.methods.training import TrainConfig, require

VARIANTS = ("as_released", "as_described")


@dataclass(frozen=True)
class Config(auxiliary.TasksConfig):
    """variant: as_released, the decaying scalar of the released code; as_described, a rotation of learned angle."""

    variant: Literal["as_released", "as_described"] = "as_released"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variant in VARIANTS, "variant", " or ".join(VARIANTS), self.variant)


class RCGrad(auxiliary.Surgery):
    r"""g = g_0 + sum_i g_i' with learned w_i in [0, 1], 1 at first, trained by the same optimiser as the weights.

    as_released: ``g_i' = (min(1, |g_0| / |g_i|) + w_i) / 2`` times the projection of g_i onto the normal plane of g_0
    (g_i itself where it does not conflict). Heads get w_i times their gradient. The gradient of w_i is the loss L_i,
    which is never negative: under Adam w_i falls to 0 within about 1 / lr steps, whatever the task.

    as_described: g_i' is g_i, turned towards g_0 by w_i of the angle by which it exceeds 90 degrees, its norm kept. w
    is trained by a hypergradient: with p the target's gradient at the next batch, the change of the next loss by the
    last step is, to first order in the learning rate, ``-lr <p, g(w)>``, and its derivative in w needs only inner
    products. Every epoch starts without a last step. Heads get plain gradients.
    """

    config_type: ClassVar[type[TrainConfig]] = Config
    config: Config
    aggregator: gradients.RCGrad

    def __init__(self, dataset: Molecules, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self._last: tuple[auxiliary.Captured, Tensor] | None = None

    def make(self, tasks: int) -> gradients.RCGrad:
        """See :class:`fastgmtl.gradients.RCGrad`."""
        return gradients.RCGrad(tasks, rotate=self.config.variant == "as_described")

    def batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Dataset]:
        """As of every strategy; what was kept of the last step is forgotten."""
        self._last = None
        return super().batches(dataset, generator)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """The update, and the gradient of w."""
        omega = self.aggregator.omega
        with torch.no_grad():
            omega.clamp_(0, 1)
        captured = self.capture(losses)
        gram = ops.gram(captured.encoder)
        with torch.no_grad():
            weights = self.aggregator.weights(gram)
        scale = None
        if self.config.variant == "as_released":
            scale = omega.detach().clone()
            scale[0] = 1
            omega.grad = torch.stack([loss.detach().to(omega) for loss in losses.values()])
            omega.grad[0] = 0
        else:
            omega.grad = self._hypergradient(captured)
            self._last = captured, gram
        self.fill(captured, weights, scale)
        self.note(weights, gram, omega.detach())

    def _hypergradient(self, captured: auxiliary.Captured) -> Tensor:
        """d/dw of -<p, g(w)>, for the last step's g and this step's p; 0 where there was no last step."""
        omega = self.aggregator.omega
        if self._last is None:
            return torch.zeros_like(omega)
        before, gram = self._last
        products = ops.gram([captured.encoder[0], *before.encoder])[0, 1:]
        with torch.enable_grad():
            gain = (self.aggregator.weights(gram) * products).sum()
        return torch.autograd.grad(-gain, omega)[0]

    def history(self) -> Mapping[str, Sequence[Panel | Plot]]:
        """Conflicts, weights, and w."""
        rotated = self.config.variant == "as_described"
        return self.conflicts.pictures("share of the rotation" if rotated else "learned scalar w")

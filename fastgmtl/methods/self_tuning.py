"""Self-tuning networks on molecules: the weights of auxiliary losses, by a network that answers to them.

Source: MacKay, Vicol, Lorraine, Duvenaud and Grosse, Self-tuning networks: bilevel optimization of hyperparameters
using structured best-response functions, ICLR 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import bilevel
from fastgmtl.methods.training import TrainConfig, require
from fastgmtl.nn.self_tuning import SelfTuningLinear, make_self_tuning_, respond_to

if TYPE_CHECKING:
    from typing import Self

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Config(bilevel.MetaConfig):
    """meta_lr: of lambda and the width of its noise. scale: that width at first. entropy: what wide noise is worth."""

    adapt_every: int = 2
    meta_lr: float = 3e-3
    scale: float = 0.5
    entropy: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.meta_lr < math.inf, "meta_lr", "positive", self.meta_lr)
        require(0 < self.scale < math.inf, "scale", "positive", self.scale)
        require(0 <= self.entropy < math.inf, "entropy", "0 or more", self.entropy)


class SelfTuning(bilevel.MetaLearner):
    r"""``stn``: the second bilevel mode, beside ``blo``: no Hessian, but weights that answer to hyperparameters.

    lambda [T] are the logarithms of phi, which start at 1 / T as those of ``blo``. The linear maps of the encoder and
    of the target's head are :class:`fastgmtl.nn.SelfTuningLinear`, of lambda less its start: training begins at the
    pre-trained weights. Two phases take turns:

    * every step: all weights go down ``L_train(lambda + eps, W(lambda + eps))``, with eps ~ N(0, softplus(rho)^2);
    * every ``adapt_every`` steps: lambda and rho go down ``L_0(W(lambda + eps)) - entropy H(eps)`` on held-out
      molecules, by Adam, through the layers' answer alone.

    Scores are those of W(lambda), without noise.
    """

    config_type: ClassVar[type[TrainConfig]] = Config
    config: Config
    lam: Tensor
    rho: Tensor
    noise: Tensor
    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, dataset: Molecules, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        tasks = len(self.names)
        self.register_buffer("lam", torch.full((tasks,), -math.log(tasks), dtype=torch.float64))
        self.register_buffer("rho", torch.full((tasks,), math.log(math.expm1(config.scale)), dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(tasks, dtype=torch.float64))
        for name in ("mean", "square"):
            self.register_buffer(name, torch.zeros(2, tasks, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    @classmethod
    def build(cls, dataset: Dataset, config: Config, generator: torch.Generator) -> Self:  # type: ignore[override]
        """As of every auxiliary method; the maps of encoder and target answer to lambda."""
        method = super().build(dataset, config, generator)
        tasks = len(method.names)
        make_self_tuning_(method.encoder, tasks)
        method.target = SelfTuningLinear.of(cast(nn.Linear, method.target), tasks)
        return method.to(dataset.x.device)

    def learned(self) -> Tensor:
        """phi [T] of the present step."""
        return (self.lam + self.noise).exp()

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        """Fresh noise, a meta step where one is due, then the losses."""
        self.noise.copy_(self._draw(self.rho))
        self._respond(self.lam + self.noise)
        return super().step(batch)

    def meta_step(self) -> None:
        """One step of lambda and of the width of its noise."""
        lam, rho = (value.clone().requires_grad_() for value in (self.lam, self.rho))
        self._respond(lam + self._draw(rho))
        part = self.meta[torch.randperm(len(self.meta), generator=self.generator)[: self.config.batch]]
        loss = self.target_loss(self._view(part)) - self.config.entropy * F.softplus(rho).log().sum()
        self.descend(torch.stack(torch.autograd.grad(loss, (lam, rho))))
        self._respond(self.lam + self.noise)

    def descend(self, gradient: Tensor) -> None:
        """A step of Adam on lambda and rho, with their gradients [2, T]."""
        self.count += 1
        for kept, beta, value in zip((self.mean, self.square), BETAS, (gradient, gradient.square()), strict=True):
            kept.lerp_(value, 1 - beta)
        mean, square = (
            kept / (1 - beta ** int(self.count)) for kept, beta in zip((self.mean, self.square), BETAS, strict=True)
        )
        step = self.config.meta_lr * mean / (square.sqrt() + EPS)
        self.lam.sub_(step[0])
        self.rho.sub_(step[1])

    def evaluate(self, batch: Dataset, split: str) -> dict[str, float]:
        """Scores without noise."""
        self._respond(self.lam)
        return super().evaluate(batch, split)

    def _draw(self, rho: Tensor) -> Tensor:
        drawn = torch.randn(len(rho), generator=self.generator, device=self.generator.device, dtype=rho.dtype)
        return drawn.to(rho.device) * F.softplus(rho)

    def _respond(self, lam: Tensor) -> None:
        respond_to(self, lam + math.log(len(self.names)))

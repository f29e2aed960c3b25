"""Bilevel auxiliary learning: the weights of the losses are trained so that the target's loss on held-out data falls.

Source: Dey and Ning, Enhancing molecular property prediction with auxiliary learning and task-specific adaptation,
J. Cheminformatics 2024; the hypergradient is that of Lorraine, Vicol and Duvenaud, Optimizing millions of
hyperparameters by implicit differentiation, AISTATS 2020.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgmtl import gradients, ops
from fastgmtl.data import Dataset
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import auxiliary
from fastgmtl.methods.auxiliary_tasks import View
from fastgmtl.methods.panel import Panel, Plot
from fastgmtl.methods.rcgrad import VARIANTS
from fastgmtl.methods.training import TrainConfig, require

CLIP, META_LR, MOMENTUM = 25.0, 1e-3, 0.9


@dataclass(frozen=True)
class MetaConfig(auxiliary.TasksConfig):
    """adapt_every: steps from one meta step to the next. meta_share: of the training molecules, held out for it."""

    adapt_every: int = 10
    meta_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.adapt_every >= 1, "adapt_every", "at least 1", self.adapt_every)
        require(0 < self.meta_share < 1, "meta_share", "in (0, 1)", self.meta_share)


@dataclass(frozen=True)
class Config(MetaConfig):
    """terms, eta: of the Neumann series."""

    terms: int = 3
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.terms >= 0, "terms", "0 or more", self.terms)
        require(self.eta > 0, "eta", "positive", self.eta)


@dataclass(frozen=True)
class RCGradConfig(Config):
    """variant: as_described, weights are trained; as_released, they stay at 1 / T, as in the released code."""

    variant: Literal["as_released", "as_described"] = "as_described"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variant in VARIANTS, "variant", " or ".join(VARIANTS), self.variant)


def neumann(
    start: Sequence[Tensor], product: Callable[[list[Tensor]], list[Tensor]], terms: int, eta: float
) -> list[Tensor]:
    """``sum_{j <= terms} (1 - eta H)^j v``: v is ``start``, ``product`` gives H v. It tends to ``H^-1 v / eta``.

    It does so where the eigenvalues of H are in (0, 2 / eta), which nothing here makes sure of.
    """
    power = list(start)
    total = [v.clone() for v in power]
    for _ in range(terms):
        power = [v - eta * h for v, h in zip(power, product(power), strict=True)]
        total = [t + v for t, v in zip(total, power, strict=True)]
    return total


def hypergradient(
    shared: Sequence[Tensor],
    losses: Sequence[Tensor],
    weights: Tensor,
    validation: Sequence[Tensor],
    terms: int,
    eta: float,
) -> tuple[Tensor, Tensor]:
    """d L_val / d phi [T] for a training loss ``sum_t weights_t L_t`` that phi scales, and the Gram matrix [T, T] of L.

    The t-th entry is ``-<p, dL_t>``, p the series of :func:`neumann` with H the Hessian of the training loss in
    ``shared``, begun at dL_val (``validation``, a tensor for each of ``shared``). A positive factor eta is left out.
    """
    grads = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in losses]
    total = sum(weight * loss for weight, loss in zip(weights.unbind(), losses, strict=True))
    assert isinstance(total, Tensor)
    first = torch.autograd.grad(total, shared, create_graph=True, materialize_grads=True)

    def product(v: list[Tensor]) -> list[Tensor]:
        curved = [(grad, part) for grad, part in zip(first, v, strict=True) if grad.requires_grad]
        grads, parts = zip(*curved, strict=True)
        return list(torch.autograd.grad(grads, shared, parts, retain_graph=True, materialize_grads=True))

    series = neumann(validation, product, terms, eta) if terms else list(validation)
    gram = ops.gram([series, *map(list, grads)])
    return -gram[0, 1:], gram[1:, 1:]


class MetaLearner(auxiliary.Auxiliary):
    """What has a meta step every ``adapt_every`` steps, for which the last ``meta_share`` of the training molecules is.

    Besides it trains on ``L_train = L_0 + sum_t phi_t L_t``, t = 0 the target, with the :meth:`weights` of a subclass.
    """

    config_type: ClassVar[type[TrainConfig]] = MetaConfig
    config: MetaConfig
    taken: Tensor

    def __init__(self, dataset: Molecules, config: MetaConfig, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self.register_buffer("taken", torch.tensor(0))
        kept = int((1 - config.meta_share) * len(self.trained))
        if not 0 < kept < len(self.trained):
            raise ValueError(f"meta_share: must leave molecules on both sides, got {config.meta_share}")
        self.trained, self.meta = self.trained[:kept], self.trained[kept:]

    def step(self, batch: Dataset) -> dict[str, Tensor]:
        """A meta step where one is due, then the losses."""
        if self.learns and int(self.taken) and int(self.taken) % self.config.adapt_every == 0:
            self.meta_step()
        self.taken += 1
        return super().step(batch)

    @property
    def learns(self) -> bool:
        """Whether phi is trained."""
        return True

    @abstractmethod
    def learned(self) -> Tensor:
        """phi [T]."""

    @abstractmethod
    def meta_step(self) -> None:
        """One step of phi."""

    def weights(self, gram: Tensor | None) -> Tensor:
        """Weights [T] of the losses in L_train."""
        weights = self.learned().clone()
        weights[0] += 1
        return weights

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """The gradient of L_train, everywhere."""
        weights = self.weights(None)
        torch.autograd.backward([w.to(v) * v for w, v in zip(weights, losses.values(), strict=True)])
        self.note(weights, None, self.learned())

    def _molecules(self, part: Tensor) -> Molecules:
        return self.dataset.take(part.to(self.dataset.x.device))

    def _view(self, part: Tensor) -> View:
        return View.of(self.encoder, self._molecules(part), self.generator)

    def history(self) -> Mapping[str, Sequence[Panel | Plot]]:
        """Conflicts (where they are known), weights, and phi."""
        return self.conflicts.pictures("phi of the auxiliary tasks")


class Bilevel(MetaLearner):
    r"""``blo``: trains on ``L_train = L_0 + sum_t phi_t L_t`` (t = 0 the target) and phi on held-out molecules.

    phi starts at 1 / T. Every ``adapt_every`` steps it goes down the :func:`hypergradient` of the target's loss, summed
    over all batches of the last ``meta_share`` of the training molecules, at one fresh training batch: clipped to a
    norm of 25, SGD with learning rate 1e-3 and momentum 0.9, negative entries to 0.
    """

    config_type: ClassVar[type[TrainConfig]] = Config
    config: Config
    phi: Tensor
    velocity: Tensor

    def __init__(self, dataset: Molecules, config: Config, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        tasks = len(self.names)
        self.register_buffer("phi", torch.full((tasks,), 1 / tasks, dtype=torch.float64))
        self.register_buffer("velocity", torch.zeros(tasks, dtype=torch.float64))

    def learned(self) -> Tensor:
        """phi [T]."""
        return self.phi

    def meta_step(self) -> None:
        """One step of phi."""
        shared = self.shared
        validation = [torch.zeros_like(p) for p in shared]
        for part in self.meta.split(self.config.batch):
            grads = torch.autograd.grad(self.target_loss(self._view(part)), shared)
            torch._foreach_add_(validation, grads)
        part = self.trained[torch.randperm(len(self.trained), generator=self.generator)[: self.config.batch]]
        losses = list(auxiliary.Auxiliary.step(self, self._molecules(part)).values())
        factors = self.factors(losses)
        weights = self.phi * factors
        weights[0] += 1
        found, gram = hypergradient(shared, losses, weights, validation, self.config.terms, self.config.eta)
        self.conflicts.add_gram(max(0, int(self.epoch) - 1), gram)
        self.descend(found * factors)

    def factors(self, losses: Sequence[Tensor]) -> Tensor:
        """What the losses are multiplied by besides phi [T]."""
        return torch.ones_like(self.phi)

    def descend(self, gradient: Tensor) -> None:
        """SGD with momentum on phi, with the gradient [T] clipped to a norm of 25."""
        gradient = gradient * (CLIP / gradient.norm().clamp(min=CLIP))
        self.velocity.mul_(MOMENTUM).add_(gradient)
        self.phi.sub_(META_LR * self.velocity).clamp_(min=0)


class BilevelGNS(Bilevel):
    """``blo+gns``: losses are first multiplied by ``clamp(cos(g_i, g_0) |g_0| / |g_i|, 0, 1)``, the target's by 1."""

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """The gradient of L_train with the factors of this step."""
        captured = self.capture(losses)
        gram = ops.gram(captured.encoder)
        weights = self.phi * projections(gram)
        weights[0] += 1
        self.fill(captured, weights, weights)
        self.note(weights, gram, self.phi)

    def factors(self, losses: Sequence[Tensor]) -> Tensor:
        """Those of the batch."""
        grads = [torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True) for loss in losses]
        return projections(ops.gram([list(g) for g in grads]))


class BilevelRCGrad(Bilevel):
    """``blo+rcgrad``: the update of the encoder is RCGrad's (as_released) with phi in place of its learned scalar."""

    config_type: ClassVar[type[TrainConfig]] = RCGradConfig
    config: RCGradConfig

    def __init__(self, dataset: Molecules, config: RCGradConfig, generator: torch.Generator) -> None:
        super().__init__(dataset, config, generator)
        self.aggregator = gradients.RCGrad(len(self.names))
        self.aggregator.requires_grad_(False)

    @property
    def learns(self) -> bool:
        """Not in the released code, which never calls its meta step."""
        return self.config.variant == "as_described"

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """RCGrad's direction; heads of auxiliary tasks get phi_i times their gradient."""
        self.aggregator.omega.copy_(self.phi)
        captured = self.capture(losses)
        gram = ops.gram(captured.encoder)
        weights = self.aggregator.weights(gram)
        scale = self.phi.clone()
        scale[0] = 1
        self.fill(captured, weights, scale)
        self.note(weights, gram, self.phi)


def projections(gram: Tensor) -> Tensor:
    """``clamp(<g_i, g_0> / |g_i|^2, 0, 1)``, 1 for the target (row 0); 0 for a task without a gradient."""
    square = gram.diagonal()
    share = torch.where(square > 0, gram[0] / torch.where(square > 0, square, 1), 0).clamp(0, 1)
    share[0] = 1
    return share

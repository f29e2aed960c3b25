"""Weighting of losses: one number of T losses, whose gradient is that of an ordinary backward.

Each is called with the losses [T] and returns the number to call ``backward()`` on. Those that learn have parameters or
a step of their own; all states are buffers that a ``state_dict`` keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.gradients.base import check_gram, check_range


class LossWeighting(nn.Module):
    """``weighting(losses)`` with losses [T] gives a number."""

    def _check(self, losses: Any, tasks: int | None = None) -> Tensor:
        name = type(self).__name__
        if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.is_floating_point():
            got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"{name}: losses must be a floating point tensor [T], got {got}; use torch.stack")
        if tasks is not None and len(losses) != tasks:
            raise ValueError(f"{name}: it is for {tasks} losses, got {len(losses)}")
        return losses

    def reset(self) -> None:
        """Forget what was learned."""


class UW(LossWeighting):
    r"""Uncertainty weighting (Kendall et al. 2018): ``sum_i exp(-s_i) L_i / 2 + s_i / 2`` with learned s.

    ``log_var`` [T], s, belongs into the optimizer.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(num_tasks))

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum."""
        losses = self._check(losses, len(self.log_var))
        return (0.5 * (-self.log_var).exp() * losses + 0.5 * self.log_var).sum()

    def reset(self) -> None:
        """Equal variances again."""
        with torch.no_grad():
            self.log_var.zero_()


class DWA(LossWeighting):
    r"""Dynamic weight average (Liu et al. 2019): ``w = T softmax(r / tau)``.

    r is the mean loss of the last epoch over that of the one before.

    Call :meth:`step` at the end of every epoch; the first two have weights of 1.

    Args:
        num_tasks: T.
        temperature: tau.
    """

    total: Tensor
    means: Tensor
    counts: Tensor

    def __init__(self, num_tasks: int, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"DWA: temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.register_buffer("total", torch.zeros(num_tasks))
        self.register_buffer("means", torch.ones(2, num_tasks))  # of the epoch before the last, and of the last
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # batches of this epoch, epochs

    def weights(self) -> Tensor:
        """[T]"""
        found = (self.means[1] / self.means[0] / self.temperature).softmax(0) * len(self.total)
        return torch.where(self.counts[1] < 2, torch.ones_like(found), found)

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum."""
        losses = self._check(losses, len(self.total))
        with torch.no_grad():
            self.total += losses
            self.counts[0] += 1
        return (self.weights().to(losses) * losses).sum()

    def step(self) -> None:
        """The end of an epoch."""
        with torch.no_grad():
            some = self.counts[0] > 0
            mean = self.total / self.counts[0].clamp(min=1)
            self.means = torch.where(some, torch.stack([self.means[1], mean]), self.means)
            self.counts = torch.stack([torch.zeros_like(self.counts[0]), self.counts[1] + some])
            self.total.zero_()

    def reset(self) -> None:
        """As if no epoch had been."""
        self.total.zero_()
        self.means.fill_(1)
        self.counts.zero_()


class RLW(LossWeighting):
    """Random loss weighting (Lin et al. 2022): ``softmax(z)``, z normal.

    Args:
        generator: of the draws, on the device of the losses; None for PyTorch's own.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum."""
        losses = self._check(losses)
        draw = torch.randn(losses.shape, generator=self.generator, device=losses.device, dtype=losses.dtype)
        return (draw.softmax(0) * losses).sum()


class GradNorm(LossWeighting):
    r"""Weights under which all tasks have gradients of like norms (Chen et al. 2018, equation 2).

    .. math:: L_{grad}(w) = \sum_i \left| w_i n_i - \bar n \, r_i^\alpha \right|, \qquad
        \bar n = \mathrm{mean}_j (w_j n_j), \quad r_i = \frac{L_i / L_i(0)}{\mathrm{mean}_j (L_j / L_j(0))}

    Call it with the losses for the number to differentiate; then :meth:`balance` with the Gram matrix of the (not
    weighted) gradients at the last shared layer, whose diagonal is all that is read, and step ``weight``'s optimizer.

    Args:
        num_tasks: T.
        alpha: how strongly slow tasks are favoured.
    """

    first: Tensor

    def __init__(self, num_tasks: int, alpha: float = 1.5) -> None:
        super().__init__()
        self.alpha = check_range("GradNorm", "alpha", alpha, 0)
        self.weight = nn.Parameter(torch.ones(num_tasks))
        self.register_buffer("first", torch.zeros(num_tasks))

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum; its gradient does not reach the weights."""
        losses = self._check(losses, len(self.weight))
        return (self.weight.detach().to(losses) * losses).sum()

    def balance(self, losses: Tensor, gram: Tensor) -> Tensor:
        """``L_grad``; puts its gradient into ``weight.grad``."""
        losses = self._check(losses, len(self.weight)).detach().to(self.first)
        norm = check_gram("GradNorm", gram).diagonal().clamp(min=0).sqrt().to(self.first)
        with torch.no_grad():
            self.first = torch.where(self.first == 0, losses, self.first)
            rate = losses / self.first
            rate = (rate / rate.mean()) ** self.alpha
        with torch.enable_grad():
            weighted = self.weight * norm
            value = (weighted - weighted.mean().detach() * rate).abs().sum()
            (self.weight.grad,) = torch.autograd.grad(value, [self.weight])
        return value.detach()

    def renormalise(self) -> None:
        """Weights that are positive and add up to T; after the optimizer's step."""
        with torch.no_grad():
            self.weight.clamp_(min=0)
            self.weight.mul_(len(self.weight) / self.weight.sum())

    def reset(self) -> None:
        """Equal weights, and the first losses are still to come."""
        with torch.no_grad():
            self.weight.fill_(1)
        self.first.zero_()


class STCH(LossWeighting):
    r"""Smooth Chebyshev scalarisation (Lin et al. 2024): ``mu log sum_i exp(p_i (L_i - z_i) / mu)``.

    Args:
        mu: smoothness; towards 0 the largest of the terms.
        weights: p, [T]; None for 1 / T.
        reference: z, [T]; None for 0.
    """

    given: Tensor | None
    reference: Tensor | None

    def __init__(self, mu: float = 1.0, weights: Tensor | None = None, reference: Tensor | None = None) -> None:
        super().__init__()
        if not mu > 0:
            raise ValueError(f"STCH: mu must be above 0, got {mu}")
        self.mu = mu
        self.register_buffer("given", weights, persistent=False)
        self.register_buffer("reference", reference, persistent=False)

    def forward(self, losses: Tensor) -> Tensor:
        """The smooth maximum."""
        losses = self._check(losses, None if self.given is None else len(self.given))
        shifted = losses if self.reference is None else losses - self.reference
        terms = shifted / len(losses) if self.given is None else shifted * self.given
        top = terms.detach().max()
        return top + self.mu * ((terms - top) / self.mu).logsumexp(0)


class FAMO(LossWeighting):
    r"""Fast adaptive multitask optimization (Liu et al. 2023, algorithm 1): all log losses fall equally fast.

    Call it with the losses for the number to differentiate, ``sum_i c w_i log(L_i - b_i)`` with ``w = softmax(xi)`` and
    ``c = 1 / sum_i w_i / (L_i - b_i)``; after the optimizer's step call :meth:`update` with the losses of the same
    batch again.

    Args:
        num_tasks: T.
        min_losses: b, [T], below every loss; None for 0.
        lr, weight_decay: of the Adam steps of xi.

    State: ``xi`` and the moments of its Adam.
    """

    EPSILON = 1e-8
    xi: Tensor
    moments: Tensor
    steps: Tensor
    min_losses: Tensor
    before: Tensor

    def __init__(
        self, num_tasks: int, min_losses: Tensor | None = None, lr: float = 0.025, weight_decay: float = 1e-3
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay = (
            check_range("FAMO", "lr", lr, 0),
            check_range("FAMO", "weight_decay", weight_decay, 0),
        )
        zero = torch.zeros(num_tasks)
        self.register_buffer("xi", zero.clone())
        self.register_buffer("moments", torch.zeros(2, num_tasks))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("before", zero.clone())
        self.register_buffer("min_losses", zero if min_losses is None else min_losses.detach().clone())

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum of log losses."""
        losses = self._check(losses, len(self.xi))
        self.before = losses.detach().to(self.xi)
        shifted = losses - self.min_losses.to(losses) + self.EPSILON
        weights = self.xi.softmax(0).to(losses)
        scale = (weights / shifted.detach()).sum()
        return (weights / scale * shifted.log()).sum()

    def update(self, losses: Tensor) -> None:
        """A step of xi, from the losses after the parameters' step."""
        with torch.no_grad():
            after = self._check(losses, len(self.xi)).detach().to(self.xi)
            delta = (self.before - self.min_losses + self.EPSILON).log() - (
                after - self.min_losses + self.EPSILON
            ).log()
            w = self.xi.softmax(0)
            grad = w * (delta - w @ delta) + self.weight_decay * self.xi
            self.steps += 1
            self.moments = torch.stack(
                [torch.lerp(grad, self.moments[0], 0.9), torch.lerp(grad.square(), self.moments[1], 0.999)]
            )
            first, second = self.moments[0] / (1 - 0.9**self.steps), self.moments[1] / (1 - 0.999**self.steps)
            self.xi -= self.lr * first / (second.sqrt() + 1e-8)

    def reset(self) -> None:
        """Equal weights again."""
        for value in (self.xi, self.moments, self.steps, self.before):
            value.zero_()

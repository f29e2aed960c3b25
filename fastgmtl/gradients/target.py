"""Aggregators for a target task and auxiliary ones, which shall help the target and count for nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgmtl.gradients.base import GramAggregator, check_gram, check_range
from fastgmtl.ops.check import one_of
from fastgmtl.ops.rotate import rotation
from fastgmtl.ops.task_weights import task_weights


class _Target(GramAggregator):
    """``target`` is the row of the target task."""

    def __init__(self, target: int = 0) -> None:
        super().__init__()
        self.target = target

    def _check(self, gram: Tensor) -> None:
        """ValueError unless there is such a task."""
        tasks = gram.size(-1)
        if not -tasks <= self.target < tasks:
            raise ValueError(f"{type(self).__name__}: target must be one of {tasks} tasks, got {self.target}")

    def _parts(self, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Products with the target [T], norms [T], whether a row is the target [T]."""
        self._check(gram)
        is_target = torch.arange(gram.size(-1), device=gram.device) == self.target % gram.size(-1)
        return gram[..., self.target], gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt(), is_target

    def _share(self, norm: Tensor) -> Tensor:
        """``min(1, |g_t| / |g_i|)``; 1 for a task without a gradient."""
        # fmin takes the 1 where both norms are 0.
        return torch.fmin(norm[..., self.target].unsqueeze(-1) / norm, norm.new_ones(()))

    def _plane(self, gram: Tensor, share: Tensor) -> Tensor:
        """Weights of the auxiliary gradients times ``share``, each projected onto the normal plane of the target."""
        product = gram[..., self.target]
        square = product[..., self.target]
        # The target does not go against itself.
        against = (share * product.clamp(max=0)).sum(-1)
        found = share.clone()
        found[..., self.target] = 1 - torch.where(square > 0, against / torch.where(square > 0, square, 1), 0)
        return found

    def extra_repr(self) -> str:
        """The options."""
        return f"target={self.target}"


class GCS(_Target):
    r"""Gradient cosine similarity (Du et al. 2018): ``w_i = max(0, cos(g_i, g_t))``, and 1 for the target t.

    Args:
        target: its row.
        hard: 1 where the cosine is not negative, instead of the cosine.
    """

    def __init__(self, target: int = 0, hard: bool = False) -> None:
        super().__init__(target)
        self.hard = hard

    def _weights(self, gram: Tensor) -> Tensor:
        product, norm, is_target = self._parts(gram)
        scale = norm * norm[..., self.target].unsqueeze(-1)
        cosine = torch.where(scale > 0, product / torch.where(scale > 0, scale, 1), 0)
        return torch.where(is_target, 1, (cosine >= 0).to(gram) if self.hard else cosine.clamp(0, 1))


class GNS(_Target):
    """Gradient norm scaling: ``w_i = min(1, |g_t| / |g_i|)``, and 1 for the target t."""

    def _weights(self, gram: Tensor) -> Tensor:
        _, norm, is_target = self._parts(gram)
        return torch.where(is_target, 1, self._share(norm))


class TargetPCGrad(_Target):
    r"""Projects auxiliary gradients that go against the target onto its normal plane, and adds all.

    .. math:: d = g_t + \sum_{i \ne t} \left( g_i - \min(0, \langle g_i, g_t \rangle) / \|g_t\|^2 \; g_t \right)

    ``<d, g_t> >= |g_t|^2``: no auxiliary task slows the target down.
    """

    def _weights(self, gram: Tensor) -> Tensor:
        self._check(gram)
        return self._plane(gram, torch.ones_like(gram[..., 0]))


class RCGrad(_Target):
    r"""Rotation of conflicting gradients: auxiliary gradients, scaled and projected as in :class:`TargetPCGrad`.

    .. math::
        d = g_t + \sum_{i \ne t} a_i \, p_i, \qquad
        a_i = \tfrac12 \left( \min(1, \|g_t\| / \|g_i\|) + \omega_i \right)

    with the projections p. ``rotate=True`` takes the rotations of :func:`fastgmtl.ops.rotate` by the share omega
    instead, which keep the norm of a gradient.

    Args:
        num_tasks: T, with the target.
        target: its row.
        rotate: rotate by omega instead of scaling by it.

    ``omega`` is a parameter [T], 1 at first (the target's entry is not used) and held in [0, 1]. :meth:`weights` is
    differentiable in it, and so is ``-lr * (weights * products).sum()``, the first-order change of a validation loss
    whose gradient has the ``products`` [T] with the tasks' gradients: no graph of the model is needed to learn it.
    """

    def __init__(self, num_tasks: int, target: int = 0, rotate: bool = False) -> None:
        super().__init__(target)
        self.omega, self.rotate = nn.Parameter(torch.ones(num_tasks, dtype=torch.float64)), rotate

    def weights(self, gram: Tensor) -> Tensor:
        """Weights [T], as those of every aggregator; with a graph to ``omega`` where gradients are recorded."""
        return self._weights(check_gram("RCGrad", gram)).to(gram.dtype)

    def _weights(self, gram: Tensor) -> Tensor:
        if len(self.omega) != gram.size(-1):
            raise ValueError(f"RCGrad: omega is for {len(self.omega)} tasks, there are {gram.size(-1)}")
        omega, tasks = self.omega.to(gram).clamp(0, 1), gram.size(-1)
        if not omega.requires_grad and -tasks <= self.target < tasks:
            method = "rotated" if self.rotate else "rcgrad"
            return task_weights(gram, method, omega, parameter=self.target % tasks)
        if self.rotate:
            return rotation(gram, omega, self.target).sum(-2)
        return self._plane(gram, (self._share(self._parts(gram)[1]) + omega) / 2)

    def reset(self) -> None:
        """omega is 1 again."""
        with torch.no_grad():
            self.omega.fill_(1)

    def extra_repr(self) -> str:
        """The options."""
        return f"target={self.target}, rotate={self.rotate}"


class MetaBalance(GramAggregator):
    r"""Auxiliary gradients are brought to the norm of the target's, tensor by tensor (He et al. 2022, algorithm 1).

    .. math::
        w_{i,n} = 1 - r + r \, m_{t,n} / m_{i,n}, \qquad
        m_{i,n} \leftarrow \beta m_{i,n} + (1 - \beta) \|g_{i,n}\|

    Args:
        target: the row of the target task.
        relax: r in [0, 1], how far towards the target's norm.
        beta: of the moving averages m, which begin at the first norms.
        strategy: "both", or only norms that are larger than the target's ("reduce"), or only smaller ones ("enlarge").

    State: ``norm`` [N, T], float64.
    """

    STRATEGIES = ("both", "reduce", "enlarge")
    per_tensor = True
    norm: Tensor | None

    def __init__(self, target: int = 0, relax: float = 0.7, beta: float = 0.9, strategy: str = "both") -> None:
        super().__init__()
        self.target = target
        self.relax, self.beta = (
            check_range("MetaBalance", "relax", relax, 0, 1),
            check_range("MetaBalance", "beta", beta, 0, 1),
        )
        one_of("MetaBalance", "strategy", strategy, self.STRATEGIES)
        self.strategy = strategy
        self.register_buffer("norm", None)

    def _weights(self, gram: Tensor) -> Tensor:
        now = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        if self.norm is None:
            self.norm = now
        elif self.norm.shape != now.shape:
            raise ValueError(
                f"MetaBalance: its state is for norms {list(self.norm.shape)}, got {list(now.shape)}; call reset()"
            )
        else:
            # A step with infinite gradients, which an AMP scaler skips, leaves no trace.
            self.norm = torch.where(now.isfinite(), torch.lerp(now, self.norm.to(now), self.beta), self.norm.to(now))
        goal = self.norm[..., self.target].unsqueeze(-1)
        applies = self.norm > 0
        if self.strategy != "both":
            applies &= self.norm > goal if self.strategy == "reduce" else self.norm < goal
        ratio = torch.where(applies, goal / torch.where(applies, self.norm, 1), 1)
        found = 1 - self.relax + self.relax * ratio
        found[..., self.target] = 1
        return found

    def reset(self) -> None:
        """Forget the norms."""
        self.norm = None

    def extra_repr(self) -> str:
        """The options."""
        return f"target={self.target}, relax={self.relax}, beta={self.beta}, strategy={self.strategy}"

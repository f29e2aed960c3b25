"""Aggregators whose weights are the solution of a problem in the Gram matrix, exact for any scale of the gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.gradients.base import GramAggregator, check_preference, check_range, update_norm
from fastgmtl.ops.check import one_of
from fastgmtl.ops.task_weights import task_weights


class _Preferred(GramAggregator):
    """Has a preference over the tasks."""

    pref_vector: Tensor | None

    def __init__(self, pref_vector: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pref_vector", check_preference(type(self).__name__, pref_vector), persistent=False)

    def _preference(self, gram: Tensor) -> Tensor | None:
        p = self.pref_vector
        if p is not None and len(p) != gram.size(-1):
            raise ValueError(f"{type(self).__name__}: pref_vector has {len(p)} entries for {gram.size(-1)} tasks")
        return None if p is None else p.to(gram)

    def extra_repr(self) -> str:
        """The options."""
        return "" if self.pref_vector is None else f"pref_vector={self.pref_vector.tolist()}"


class MGDA(GramAggregator):
    r"""The shortest convex combination (Désidéri 2012; Sener and Koltun 2018): ``min |J^T w|`` over the simplex.

    Solved exactly (Wolfe 1976), where published codes take some steps of Frank and Wolfe.
    """

    def _weights(self, gram: Tensor) -> Tensor:
        return task_weights(gram, "mgda")


class CAGrad(GramAggregator):
    r"""The largest worst improvement near the mean gradient (Liu et al. 2021, equation 5).

    .. math:: d = \arg\max_{\|d - g_0\| \le c \|g_0\|} \min_i \langle g_i, d \rangle
       = g_0 + c \|g_0\| \frac{J^T w}{\|J^T w\|}

    with the w of the simplex that minimises ``g_0^T J^T w + c |g_0| |J^T w|``. Where ``J^T w`` is 0 it is ``g_0``.

    Args:
        c: the radius, 0 for the mean.
        rescale: divide by ``1 + c^2``, as the authors' code does.
    """

    def __init__(self, c: float = 0.5, rescale: bool = False) -> None:
        super().__init__()
        self.c, self.rescale = check_range("CAGrad", "c", c, 0), rescale

    def _weights(self, gram: Tensor) -> Tensor:
        found = task_weights(gram, "cagrad", parameter=self.c)
        return found / (1 + self.c**2) if self.rescale else found

    def extra_repr(self) -> str:
        """The options."""
        return f"c={self.c}, rescale={self.rescale}"


class UPGrad(_Preferred):
    r"""The mean of the projections of the gradients onto the dual cone (Quinton and Rey 2024, equation 7).

    .. math:: w = \sum_i \arg\min_{v \ge p_i e_i} v^T G v

    Args:
        pref_vector: p, [T]; None for 1 / T.
    """

    def _weights(self, gram: Tensor) -> Tensor:
        return task_weights(gram, "upgrad", self._preference(gram))


class DualProj(_Preferred):
    r"""The projection of the mean gradient onto the dual cone (Lopez-Paz and Ranzato 2017): ``min |J^T v|`` over
    ``v >= p``.

    Args:
        pref_vector: p, [T]; None for 1 / T.
    """

    def _weights(self, gram: Tensor) -> Tensor:
        return task_weights(gram, "dualproj", self._preference(gram))


class IMTLG(GramAggregator):
    r"""Equal progress along every gradient's direction (IMTL-G, Liu et al. 2021).

    .. math:: w = v / |1^T v|, \qquad v = D^{-1} C^+ 1, \quad C = D^{-1} G D^{-1}, \; D = \mathrm{diag}(\|g_i\|)

    ``J^T v`` has the same positive product with all unit gradients. Published codes divide by ``1^T v``, which may be
    negative: then every task gets worse.

    Args:
        guard: divide by the absolute value; False for the published formula.
    """

    def __init__(self, guard: bool = True) -> None:
        super().__init__()
        self.guard = guard

    def _weights(self, gram: Tensor) -> Tensor:
        return task_weights(gram, "imtlg", parameter=float(self.guard))

    def extra_repr(self) -> str:
        """The options."""
        return f"guard={self.guard}"


class NashMTL(GramAggregator):
    r"""The Nash bargaining solution (Navon et al. 2022): ``G w = 1 / w``.

    Solved by Newton's method on a strictly convex function, without a start from the last step. Its norm is
    ``sqrt(T)`` in every case, so that ``max_norm`` is a length of the steps.

    Args:
        n_tasks: T, if it shall be checked.
        max_norm: the most that the norm of the update may be; 0 for no bound.
        update_weights_every: the weights are kept for so many steps.

    State: ``last`` [T] and ``step``, where ``update_weights_every`` is not 1.
    """

    last: Tensor | None

    def __init__(self, n_tasks: int | None = None, max_norm: float = 1.0, update_weights_every: int = 1) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.max_norm = check_range("NashMTL", "max_norm", max_norm, 0)
        self.update_weights_every = int(check_range("NashMTL", "update_weights_every", update_weights_every, 1))
        self.step = 0
        self.register_buffer("last", None)

    def _weights(self, gram: Tensor) -> Tensor:
        if self.n_tasks is not None and gram.size(-1) != self.n_tasks:
            raise ValueError(f"NashMTL: there must be n_tasks = {self.n_tasks} tasks, got {gram.size(-1)}")
        if self.update_weights_every == 1:
            return task_weights(gram, "nashmtl", parameter=self.max_norm)
        if self.step % self.update_weights_every == 0 or self.last is None:
            self.last = task_weights(gram, "nashmtl")
        self.step += 1
        if not self.max_norm:
            return self.last
        norm = update_norm(self.last, gram)
        factor = torch.where(norm > self.max_norm, self.max_norm / norm, 1)
        return self.last * factor.unsqueeze(-1)

    def reset(self) -> None:
        """Solve again in the next step."""
        self.step, self.last = 0, None

    def get_extra_state(self) -> int:
        """The number of steps."""
        return self.step

    def set_extra_state(self, state: Any) -> None:
        """Take up the number of steps."""
        self.step = int(state)

    def extra_repr(self) -> str:
        """The options."""
        return f"max_norm={self.max_norm}, update_weights_every={self.update_weights_every}"


class FairGrad(GramAggregator):
    r"""Alpha-fair progress (Ban and Ji 2024, equation 7): ``G w = w^(-1 / alpha)``.

    Args:
        alpha: 0 for the mean, 1 for :class:`NashMTL` without a bound, towards infinity for :class:`MGDA`'s fairness.
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = check_range("FairGrad", "alpha", alpha, 0)

    def _weights(self, gram: Tensor) -> Tensor:
        if self.alpha == 0:
            return torch.full_like(gram[..., 0], 1 / gram.size(-1))
        return task_weights(gram, "fairgrad", parameter=self.alpha)

    def extra_repr(self) -> str:
        """The options."""
        return f"alpha={self.alpha}"


class AlignedMTL(_Preferred):
    r"""Gradients with equal principal components (Senushkin et al. 2023, algorithm 1).

    .. math:: w = \sqrt{s} \, V L^{-1/2} V^T p, \qquad G = V L V^T

    Args:
        pref_vector: p, [T]; None for 1 / T.
        scale_mode: s is the smallest eigenvalue that is not 0 ("min"), their "median" or their mean ("rmse").
    """

    MODES = ("min", "median", "rmse")

    def __init__(self, pref_vector: Tensor | None = None, scale_mode: str = "min") -> None:
        super().__init__(pref_vector)
        one_of("AlignedMTL", "scale_mode", scale_mode, self.MODES)
        self.scale_mode = scale_mode

    def _weights(self, gram: Tensor) -> Tensor:
        mode = float(self.MODES.index(self.scale_mode))
        return task_weights(gram, "alignedmtl", self._preference(gram), parameter=mode)


class ConFIG(_Preferred):
    r"""The conflict-free direction of equal cosines, with the length of all projections (Liu et al. 2024).

    .. math::
        w = \frac{1^T G v}{v^T G v} v, \qquad v = D^{-1} C^+ p, \quad C = D^{-1} G D^{-1}, \; D = \mathrm{diag}(\|g_i\|)

    Args:
        pref_vector: p, [T]; None for ones.
    """

    def _weights(self, gram: Tensor) -> Tensor:
        return task_weights(gram, "config", self._preference(gram))

"""Aggregators that change gradients which go against each other, task by task: PCGrad, GradVac."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.gradients.base import GramAggregator, check_range
from fastgmtl.ops.check import one_of
from fastgmtl.ops.task_weights import task_weights

ORDERS = ("per_task", "shared", "none")


class _Ordered(GramAggregator):
    """Draws the order in which the tasks meet each other."""

    given: Tensor | None

    def __init__(self, order: str | Tensor, generator: torch.Generator | None) -> None:
        super().__init__()
        name, given = type(self).__name__, None
        if isinstance(order, Tensor):
            given, order = self._given(name, order), "given"
        else:
            one_of(name, "order", order, ORDERS)
        self.order, self.generator = order, generator
        self.register_buffer("given", given, persistent=False)

    @staticmethod
    def _given(name: str, order: Tensor) -> Tensor:
        size = order.size(-1) if order.dim() in (1, 2) else 0
        rows = order.expand(size, size) if order.dim() == 1 else order
        if (
            order.is_floating_point()
            or rows.dim() != 2
            or not rows.sort().values.equal(torch.arange(size).expand(size, size).to(rows))
        ):
            raise ValueError(f"{name}: order must be a permutation of the tasks, [T] or for each task [T, T]")
        return rows.long().contiguous()

    def _order(self, gram: Tensor) -> Tensor | None:
        tasks = gram.size(-1)
        if self.given is not None:
            if len(self.given) != tasks:
                raise ValueError(f"{type(self).__name__}: the order is for {len(self.given)} tasks, there are {tasks}")
            return self.given
        if self.order == "none":
            return None
        rows = tasks if self.order == "per_task" else 1
        keys = torch.rand(rows, tasks, generator=self.generator, device=gram.device)
        return keys.argsort(1).expand(tasks, tasks)

    def extra_repr(self) -> str:
        """The options."""
        return f"order={self.order}"


class PCGrad(_Ordered):
    r"""Projects a gradient onto the normal plane of each one that it goes against (Yu et al. 2020, algorithm 1).

    .. math::
        g_i \leftarrow g_i - \min(0, \langle g_i, g_j \rangle) \, / \, \|g_j\|^2 \; g_j \quad (j \ne i), \qquad
        d = \sum_i g_i

    Args:
        order: in which task i meets the others: "per_task" draws an order for each i in each call (the paper, TorchJD),
            "shared" one for all, "none" goes from the first to the last; or a tensor, [T] or [T, T].
        reduction: "sum" (the paper) or "mean".
        generator: of the draws, on the device of the gradients; None for PyTorch's own.
    """

    def __init__(
        self, order: str | Tensor = "per_task", reduction: str = "sum", generator: torch.Generator | None = None
    ) -> None:
        super().__init__(order, generator)
        one_of("PCGrad", "reduction", reduction, ("sum", "mean"))
        self.reduction = reduction

    def _weights(self, gram: Tensor) -> Tensor:
        found = task_weights(gram, "pcgrad", order=self._order(gram))
        return found / gram.size(-1) if self.reduction == "mean" else found


class GradVac(_Ordered):
    r"""Turns gradients towards a cosine that is the average of earlier steps (Wang et al. 2021, algorithm 1).

    .. math::
        g_i \leftarrow g_i + \frac{\|g_i\| (\hat\phi \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi^2})}
        {\|g_j\| \sqrt{1 - \hat\phi^2}} \; g_j \quad \text{where } \phi = \cos(g_i, g_j) < \hat\phi_{ij}

    and then, in each step, ``phi_hat_ij = (1 - beta) phi_hat_ij + beta phi``, from 0.

    Args:
        beta: the rate, in [0, 1].
        order, generator: as in :class:`PCGrad`.

    State: ``cosine``, [T, T] ([K, T, T] with groups), float64.
    """

    cosine: Tensor | None

    def __init__(
        self, beta: float = 0.5, order: str | Tensor = "per_task", generator: torch.Generator | None = None
    ) -> None:
        super().__init__(order, generator)
        self.beta = check_range("GradVac", "beta", beta, 0, 1)
        self.register_buffer("cosine", None)

    def _weights(self, gram: Tensor) -> Tensor:
        if self.cosine is None:
            self.cosine = torch.zeros_like(gram, memory_format=torch.contiguous_format)
        if self.cosine.shape != gram.shape:
            raise ValueError(
                f"GradVac: its state is for gram {list(self.cosine.shape)}, got {list(gram.shape)}; call reset()"
            )
        return task_weights(gram, "gradvac", order=self._order(gram), parameter=self.beta, state=self.cosine)

    def reset(self) -> None:
        """Forget the cosines."""
        self.cosine = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.cosine is not None:
            self.cosine = self.cosine.double()  # also under .half()
        return self

    def extra_repr(self) -> str:
        """The options."""
        return f"beta={self.beta}, {super().extra_repr()}"

"""GINConv: the layer of graph isomorphism networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from fastgmtl.nn.conv import Conv, Edges, Size
from fastgmtl.nn.linear import reset


class GINConv(Conv):
    r"""A network of the neighbours' sum plus the node itself.

    .. math:: x'_{i,t} = h_t\Big((1 + \epsilon_t) x_{i,t} + \sum_{j \in N(i)} x_{j,t}\Big)

    Source: Xu, Hu, Leskovec and Jegelka, How powerful are graph neural networks?, ICLR 2019. The signature, the
    parameters (``eps`` [1], ``nn.*``) and, up to rounding, the values are those of ``torch_geometric.nn.GINConv``.

    Args:
        nn: h, a module that maps [N, F] to [N, C]. With tasks it maps [N, T, F], or [N, F] where the input is shared
            and eps is not trained, to [N, T, C]: build it of ``fastgmtl.nn.Linear(..., num_tasks=T)``.
        eps: the initial value of epsilon.
        train_eps: whether epsilon is a parameter (with tasks: one for each, [T, 1]) or a buffer [1].
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``aggr`` ("add", "sum", "mean", "max", "min"), ``flow``.

    Shapes: x [N, F], or (x_src [N, F], x_dst [M, F] or None); size None or (N, M); output [M, C]. With tasks features
    are [., F] or [., T, F], output [M, T, C].
    """

    eps: Tensor

    def __init__(
        self,
        nn: Callable[[Tensor], Tensor],
        eps: float = 0.0,
        train_eps: bool = False,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kwargs.pop("aggr", "add"), num_tasks=num_tasks, **kwargs)
        self.nn = nn
        self.initial_eps = eps
        if train_eps:
            self.eps = Parameter(torch.empty(1 if num_tasks is None else (num_tasks, 1)))
        else:
            self.register_buffer("eps", torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters of ``nn`` anew and set eps to its initial value."""
        reset(self.nn)
        with torch.no_grad():
            self.eps.fill_(self.initial_eps)

    def forward(self, x: Tensor | tuple[Tensor, Tensor | None], edge_index: Edges, size: Size = None) -> Tensor:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        graph, weight = self._adjacency(edge_index, x_src, x_dst, size, sparse_values=False)
        return self._updated(self._aggregate(graph, x_src, weight), x_dst)

    def _updated(self, out: Tensor, x_dst: Tensor | None) -> Tensor:
        """The network of the aggregate and the nodes themselves."""
        if x_dst is not None:
            # An own epsilon for each task, [T, 1], or a neighbour sum for each needs the root's task axis.
            if x_dst.dim() == 2 and (self.eps.dim() == 2 or out.dim() == 3):
                x_dst = x_dst.unsqueeze(1)
            if out.dim() < x_dst.dim():
                out = out.unsqueeze(1)
            out = out + (1 + self.eps) * x_dst
        out = self.nn(out)
        if self.num_tasks is not None and (out.dim() != 3 or out.size(1) != self.num_tasks):
            raise ValueError(
                f"{type(self).__name__}: nn must return [N, T, C] with T = {self.num_tasks}, got {list(out.shape)}; "
                "build it of fastgmtl.nn.Linear(..., num_tasks=T)"
            )
        return out

    def __repr__(self) -> str:
        return self._repr(f"nn={self.nn}")

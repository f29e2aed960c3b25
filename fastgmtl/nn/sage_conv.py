"""SAGEConv: the layer of GraphSAGE."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fastgmtl.nn.conv import Conv, Edges, Size
from fastgmtl.nn.linear import Linear


class SAGEConv(Conv):
    r"""A linear map of the neighbours' mean (maximum, ...) plus one of the node itself.

    .. math:: x'_{i,t} = W^l_t \, \mathrm{aggr}_{j \in N(i)} x_{j,t} + b_t + W^r_t x_{i,t}

    With ``project`` the neighbours' features are :math:`\sigma(W_t x_{j,t} + c_t)`, relu of a linear map. Source:
    Hamilton, Ying and Leskovec, Inductive representation learning on large graphs, NeurIPS 2017. The signature, the
    parameters (``lin.weight`` [F_src, F_src] and ``lin.bias`` with project, ``lin_l.weight`` [C, F_src],
    ``lin_l.bias`` [C], ``lin_r.weight`` [C, F_dst]) and, up to rounding, the values are those of
    ``torch_geometric.nn.SAGEConv``; of equal maxima the edge given first gets the gradient.

    Args:
        in_channels: F, or (F_src, F_dst); -1 to take it from the first input.
        out_channels: C.
        aggr: "mean", "sum" (or "add"), "max", "min".
        normalize: divide the rows of the output by their 2-norm.
        root_weight: whether the node itself takes part (W^r).
        project: relu of a linear map before the aggregation.
        bias: whether there is a b.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, F], or (x_src [N, F_src], x_dst [M, F_dst] or None); size None or (N, M); output [M, C]. With tasks
    features are [., F] or [., T, F], output [M, T, C].
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        aggr: str = "mean",
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aggr, num_tasks=num_tasks, **kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.normalize = normalize
        self.root_weight = root_weight
        self.project = project
        f_src, f_dst = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        if project:
            if f_src <= 0:
                raise ValueError(f"{type(self).__name__}: in_channels must be given for project=True, got {f_src}")
            self.lin = Linear(f_src, f_src, True, num_tasks=num_tasks)
        self.lin_l = Linear(f_src, out_channels, bias, num_tasks=num_tasks)
        if root_weight:
            self.lin_r = Linear(f_dst, out_channels, False, num_tasks=num_tasks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.project:
            self.lin.reset_parameters()
        self.lin_l.reset_parameters()
        if self.root_weight:
            self.lin_r.reset_parameters()

    def forward(self, x: Tensor | tuple[Tensor, Tensor | None], edge_index: Edges, size: Size = None) -> Tensor:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        graph, weight = self._adjacency(edge_index, x_src, x_dst, size, sparse_values=False)
        if self.project:
            x_src = self.lin(x_src).relu()
        out = self._aggregate_linear(self.lin_l, graph, x_src, weight)
        if self.root_weight and x_dst is not None:
            out = self._add_linear(out, self.lin_r, x_dst)
        return F.normalize(out, dim=-1) if self.normalize else out

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels), f"aggr={self.aggr}")

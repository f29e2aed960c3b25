"""GraphConv: weighted sum over neighbours plus the node itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgmtl.nn.conv import Conv, Edges, Size
from fastgmtl.nn.linear import Linear


class GraphConv(Conv):
    r"""A linear map of the neighbours' weighted sum (mean, maximum, ...) plus one of the node itself.

    .. math:: x'_{i,t} = W^{rel}_t \, \mathrm{aggr}_{e = (j \to i)} w_{e,t} x_{j,t} + b_t + W^{root}_t x_{i,t}

    Source: Morris et al., Weisfeiler and Leman go neural: higher-order graph neural networks, AAAI 2019. The
    signature, the parameters (``lin_rel.weight`` [C, F_src], ``lin_rel.bias`` [C], ``lin_root.weight`` [C, F_dst])
    and, up to rounding, the values are those of ``torch_geometric.nn.GraphConv``; of equal maxima the edge given
    first gets the gradient.

    Args:
        in_channels: F, or (F_src, F_dst); -1 to take it from the first input.
        out_channels: C.
        aggr: "add" (or "sum"), "mean", "max", "min".
        bias: whether there is a b.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, F], or (x_src [N, F_src], x_dst [M, F_dst] or None); edge_weight None or [E]; size None or (N, M);
    output [M, C]. With tasks features are [., F] or [., T, F], edge_weight None, [E] or [E, T], output [M, T, C].
    Values of a sparse ``edge_index`` are edge weights.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        aggr: str = "add",
        bias: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aggr, num_tasks=num_tasks, **kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        f_src, f_dst = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        self.lin_rel = Linear(f_src, out_channels, bias, num_tasks=num_tasks)
        self.lin_root = Linear(f_dst, out_channels, False, num_tasks=num_tasks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        self.lin_rel.reset_parameters()
        self.lin_root.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Edges,
        edge_weight: Tensor | None = None,
        size: Size = None,
    ) -> Tensor:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        graph, weight = self._adjacency(edge_index, x_src, x_dst, size, edge_weight)
        out = self._aggregate_linear(self.lin_rel, graph, x_src, weight)
        return out if x_dst is None else self._add_linear(out, self.lin_root, x_dst)

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels))

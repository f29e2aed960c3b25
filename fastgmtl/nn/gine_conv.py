"""GINEConv: the layer of graph isomorphism networks on edges with features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Edges, Size
from fastgmtl.nn.gin_conv import GINConv
from fastgmtl.nn.linear import Linear, reset
from fastgmtl.ops.relu_sum import relu_sum


class GINEConv(GINConv):
    r"""A network of the rectified sums of neighbours and edges, added up, plus the node itself.

    .. math:: x'_{i,t} = h_t\Big((1 + \epsilon_t) x_{i,t} + \sum_{j \in N(i)} \mathrm{relu}(x_{j,t} + e_{ji,t})\Big)

    Source: Hu et al., Strategies for pre-training graph neural networks, ICLR 2020. The signature, the parameters
    (``eps`` [1], ``lin.weight`` [F, D], ``lin.bias`` [F], ``nn.*``) and, up to rounding, the values are those of
    ``torch_geometric.nn.GINEConv``. No message is written: see :func:`fastgmtl.ops.relu_sum`.

    Args:
        nn: h, a module that maps [N, F] to [N, C]; with tasks [N, T, F] to [N, T, C].
        eps: the initial value of epsilon.
        train_eps: whether epsilon is a parameter (with tasks: one for each, [T, 1]) or a buffer [1].
        edge_dim: D, of edge features that a linear map brings to F; None: they have F columns.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``aggr`` ("add", "sum", "mean"), ``flow``.

    Shapes: x [N, F], or (x_src [N, F], x_dst [M, F] or None); edge_attr [E, D] or [E, F], in the order of the edges;
    size None or (N, M); output [M, C]. With tasks features of nodes and edges are [., F] or [., T, F], output
    [M, T, C]. Edges are an edge_index or a :class:`fastgmtl.Graph`: a sparse matrix has no place for edge_attr.
    """

    def __init__(
        self,
        nn: Callable[[Tensor], Tensor],
        eps: float = 0.0,
        train_eps: bool = False,
        edge_dim: int | None = None,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn, eps, train_eps, num_tasks=num_tasks, **kwargs)
        if self.aggr not in ("add", "sum", "mean"):
            raise ValueError(f"GINEConv: aggr must be one of add, sum, mean, got {self.aggr!r}")
        self.edge_dim = edge_dim
        self.lin: Any = None
        if edge_dim is not None:
            first = nn[0] if isinstance(nn, torch.nn.Sequential) else nn
            width = getattr(first, "in_features", getattr(first, "in_channels", None))
            if width is None:
                raise ValueError(
                    "GINEConv: nn must begin with a linear map where edge_dim is given, whose in_features or "
                    f"in_channels edges are brought to, got {type(first).__name__}"
                )
            self.lin = Linear(edge_dim, width, num_tasks=num_tasks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters of ``nn`` and ``lin`` anew and set eps to its initial value."""
        if hasattr(self, "lin"):  # else within the constructor of GINConv: once, when all of them are there
            super().reset_parameters()
            reset(self.lin)

    def forward(  # type: ignore[override]
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Edges,
        edge_attr: Tensor | None = None,
        size: Size = None,
    ) -> Tensor:
        """x' of the formula above."""
        x_src, x_dst = self._pair(x)
        name = type(self).__name__
        if not isinstance(edge_index, Graph) and getattr(edge_index, "layout", None) != torch.strided:
            raise ValueError(f"{name}: edges must be an edge_index or a fastgmtl.Graph beside edge_attr")
        if edge_attr is None:
            raise ValueError(f"{name}: edge_attr must be given, features of edges [E, D]")
        graph, _ = self._adjacency(edge_index, x_src, x_dst, size)
        edge_attr = self._features("edge_attr", edge_attr)
        if self.lin is not None:
            edge_attr = self.lin(edge_attr)
        if x_src.size(-1) != edge_attr.size(-1) or edge_attr.size(0) != graph.num_edges:
            wanted = f"[E, F] = [{graph.num_edges}, {x_src.size(-1)}]"
            raise ValueError(f"{name}: edge_attr must have shape {wanted}, got {list(edge_attr.shape)}; give edge_dim")
        return self._updated(self._rectified(graph, x_src, edge_attr), x_dst)

    def _rectified(self, graph: Graph, x: Tensor, edge_attr: Tensor) -> Tensor:
        if x.dim() != edge_attr.dim():
            tasks = self.num_tasks or 1
            x, edge_attr = (v if v.dim() == 3 else v.unsqueeze(1).expand(-1, tasks, -1) for v in (x, edge_attr))
        out = relu_sum(graph, x.flatten(1), edge_attr.flatten(1))
        if self.aggr == "mean":
            out = out * graph.inverse_degree(out.dtype).unsqueeze(1)
        return out.unflatten(1, x.shape[1:])

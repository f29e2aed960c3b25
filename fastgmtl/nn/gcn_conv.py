"""GCNConv: the layer of graph convolutional networks."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Conv, Edges
from fastgmtl.nn.linear import Linear
from fastgmtl.ops.gcn_norm import gcn_norm


class Normalised(Conv):
    """A layer over the adjacency matrix of a GCN, with loops, normalised by degrees on both sides.

    The arguments are those of :class:`GCNConv`.
    """

    _cache: tuple[Graph, Tensor] | None = None

    def __init__(
        self,
        improved: bool = False,
        cached: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kwargs.pop("aggr", "add"), num_tasks=num_tasks, **kwargs)
        if self.aggr not in ("add", "sum"):
            raise ValueError(f"{type(self).__name__}: aggr must be add or sum, got {self.aggr!r}")
        if add_self_loops is None:
            add_self_loops = normalize
        if add_self_loops and not normalize:
            raise ValueError(
                f"{type(self).__name__}: add_self_loops must be False where normalize is, got add_self_loops=True"
            )
        self.improved = improved
        self.cached = cached
        self.add_self_loops = add_self_loops
        self.normalize = normalize

    def _one(self, name: str, x: Any) -> Tensor:
        """x, or an error unless it is the features of one set of nodes."""
        if isinstance(x, (tuple, list)):
            raise ValueError(
                f"{type(self).__name__}: {name} must be one tensor, got a {type(x).__name__}; this layer does not "
                "support bipartite graphs, SAGEConv and GraphConv do"
            )
        return self._features(name, x)

    def _normalised(self, x: Tensor, edges: Edges, edge_weight: Tensor | None) -> tuple[Graph, Tensor | None]:
        if self._cache is not None:
            return self._cache
        graph, weight = self._adjacency(edges, x, x, None, edge_weight)
        if not self.normalize:
            return graph, weight
        norm = cast(Any, graph).gcn_norm if graph.parted else partial(gcn_norm, graph)
        result = norm(weight, self.add_self_loops, self.improved, x.dtype)
        if self.cached:
            self._cache = result
        return result

    def _forget(self) -> None:
        vars(self).pop("_cache", None)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._forget()  # its device and dtype may be others now
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args)


class GCNConv(Normalised):
    r"""Sum over neighbours and the node itself, normalised by degrees on both sides.

    .. math:: x'_{i,t} = W_t \sum_{j \in N(i) \cup \{i\}} \frac{a_{ji,t}}{\sqrt{d_{j,t} d_{i,t}}} x_{j,t} + b_t,
              \quad d_{i,t} = \sum_{j \in N(i) \cup \{i\}} a_{ji,t}

    with a loop of weight 1 for every node that has none. Source: Kipf and Welling, Semi-supervised classification
    with graph convolutional networks, ICLR 2017. The signature, the parameters (``lin.weight`` [C, F], ``bias`` [C])
    and, up to rounding, the values are those of ``torch_geometric.nn.GCNConv``.

    Args:
        in_channels: F, or -1 to take it from the first input.
        out_channels: C.
        improved: loops of weight 2, whatever form the edges have. (PyG 2.8 does so with weights and with sparse
            matrices; for an edge_index without weights it leaves them at 1.)
        cached: keep the normalised graph of the first call and use it ever after (a transductive setting). Without
            it a Graph, or an edge_index tensor, without weights is normalised once as well; ``cached`` is for weights.
        add_self_loops: None means the value of ``normalize``.
        normalize: False aggregates with the weights as they are.
        bias: whether there is a b.
        num_tasks: None, or T; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, F]; edge_weight None or [E]; output [N, C]. With tasks x [N, F] or [N, T, F], edge_weight None, [E]
    or [E, T], output [N, T, C]. Values of a sparse ``edge_index`` are edge weights.

    Raises:
        ValueError: x is a pair of features, a shape does not fit, aggr is not a sum.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        improved: bool = False,
        cached: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        bias: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(improved, cached, add_self_loops, normalize, num_tasks=num_tasks, **kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.lin = Linear(in_channels, out_channels, False, "glorot", num_tasks)
        shape = (out_channels,) if num_tasks is None else (num_tasks, out_channels)
        self.bias = Parameter(torch.empty(shape)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew and forget the cached graph."""
        self.lin.reset_parameters()
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)
        self._forget()

    def forward(self, x: Tensor, edge_index: Edges, edge_weight: Tensor | None = None) -> Tensor:
        """x' of the formula above."""
        x = self._one("x", x)
        graph, weight = self._normalised(x, edge_index, edge_weight)
        return self._aggregate_linear(self.lin, graph, x, weight, self.bias)

    def __repr__(self) -> str:
        return self._repr(str(self.in_channels), str(self.out_channels))

"""What the layers share: the keywords of PyTorch Geometric's MessagePassing, from edges to a Graph, aggregation."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fastgmtl.convert import sparse_weight
from fastgmtl.graph import Graph, as_graph
from fastgmtl.nn.linear import Linear, check_num_tasks, product
from fastgmtl.ops.spmm import spmm

Edges = Any  # an edge_index tensor [2, E], a Graph, a PyG EdgeIndex, a torch sparse or torch_sparse matrix (adj_t)
Size = tuple[int | None, int | None] | None

_REDUCE = {"sum": "sum", "add": "sum", "mean": "mean", "max": "max", "min": "min"}


class Conv(nn.Module):
    """A layer that aggregates over the edges of a graph.

    ``edge_index`` of every layer is an int tensor [2, E] (row 0 sources, row 1 destinations), a
    :class:`fastgmtl.Graph`, a PyG ``EdgeIndex``, or a transposed adjacency matrix (torch sparse, or
    ``torch_sparse.SparseTensor``). A tensor's graph is built once and kept as long as the tensor lives.

    Args:
        aggr: "sum" (or "add"), "mean", "max", "min".
        num_tasks: None, or T: T sets of parameters over one graph in one pass. Parameters keep their names and get a
            leading axis T; features are [N, F] (shared by the tasks) or [N, T, F]; the output is [N, T, C].
        flow: "source_to_target", or "target_to_source" to aggregate against the edges.
        node_dim, decomposed_layers, aggr_kwargs: MessagePassing's keywords, at their defaults only.
    """

    # Types of the linear maps whose weights may be taken instead of calling them.
    _linears: tuple[type[nn.Module], ...] = (Linear,)

    def __init__(
        self,
        aggr: str = "sum",
        *,
        num_tasks: int | None = None,
        aggr_kwargs: dict[str, Any] | None = None,
        flow: str = "source_to_target",
        node_dim: int = -2,
        decomposed_layers: int = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(aggr, str) or aggr not in _REDUCE:
            raise ValueError(f"{name}: aggr must be one of {', '.join(_REDUCE)}, got {aggr!r}")
        if flow not in ("source_to_target", "target_to_source"):
            raise ValueError(f"{name}: flow must be source_to_target or target_to_source, got {flow!r}")
        for keyword, value, only in (
            ("node_dim", node_dim, -2),
            ("decomposed_layers", decomposed_layers, 1),
            ("aggr_kwargs", aggr_kwargs or None, None),
        ):
            if value != only:
                raise ValueError(f"{name}: {keyword} must be {only}, got {value!r}")
        self.aggr = aggr
        self.flow = flow
        self.num_tasks = check_num_tasks(name, num_tasks)

    # ------------------------------------------------------------------------------------------- from arguments

    def _features(self, name: str, x: Any) -> Tensor:
        """x, or an error unless it is floating point, [N, F] or (with tasks) [N, T, F]."""
        layer, tasks = type(self).__name__, self.num_tasks
        if not isinstance(x, Tensor):
            raise TypeError(f"{layer}: {name} must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            dtype = str(x.dtype).removeprefix("torch.")
            raise TypeError(f"{layer}: {name} must be floating point, got {dtype}; convert it with .float()")
        if x.dim() == 2 or (x.dim() == 3 and tasks is not None and x.size(1) == tasks):
            return x
        if tasks is None:
            hint = "; give num_tasks=T for features [N, T, F]" if x.dim() == 3 else ""
            raise ValueError(f"{layer}: {name} must have shape [N, F], got {list(x.shape)}{hint}")
        raise ValueError(f"{layer}: {name} must have shape [N, F] or [N, T, F] with T = {tasks}, got {list(x.shape)}")

    def _pair(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """(x_src, x_dst) of features, of a pair of features or of (x_src, None)."""
        if not isinstance(x, (tuple, list)):
            x = self._features("x", x)
            return x, x
        if len(x) != 2:
            raise ValueError(f"{type(self).__name__}: x must be a tensor or a pair (x_src, x_dst), got {len(x)} items")
        if self.flow != "source_to_target":
            raise ValueError(
                f"{type(self).__name__}: flow must be source_to_target for a pair (x_src, x_dst), got {self.flow!r}; "
                "turn the edges round instead, with edge_index.flip(0)"
            )
        return self._features("x_src", x[0]), None if x[1] is None else self._features("x_dst", x[1])

    def _adjacency(
        self,
        edges: Edges,
        x_src: Tensor,
        x_dst: Tensor | None,
        size: Size = None,
        edge_weight: Tensor | None = None,
        sparse_values: bool = True,
    ) -> tuple[Graph, Tensor | None]:
        """The graph to aggregate over and its weights ([E], [E, T] or None).

        Values of a torch sparse matrix are weights, as in PyG; those of a SparseTensor if ``sparse_values``.
        """
        num_src = x_src.size(0)
        num_dst = None if x_dst is None else x_dst.size(0)
        for side, given, wanted in (("sources", num_src, 0), ("destinations", num_dst, 1)):
            if size is not None and None not in (size[wanted], given) and size[wanted] != given:
                raise ValueError(
                    f"{type(self).__name__}: size must be the numbers of sources and destinations, got {tuple(size)} "
                    f"with features of {given} {side}"
                )
        if num_dst is None and size is not None:
            num_dst = size[1]
        if isinstance(edges, Graph):
            graph = as_graph(edges, num_src, edges.num_dst if num_dst is None else num_dst)
        elif isinstance(edges, Tensor) and edges.layout == torch.strided:
            if type(edges) is not Tensor and hasattr(edges, "as_tensor"):  # PyG's EdgeIndex
                edges = edges.as_tensor()
            graph = as_graph(edges, num_src, num_src if num_dst is None else num_dst)
        else:
            return self._sparse(edges, num_src, num_dst, edge_weight, sparse_values)
        return graph if self.flow == "source_to_target" else graph.t(), self._weight(edge_weight)

    def _sparse(
        self, adj_t: Any, num_src: int, num_dst: int | None, edge_weight: Tensor | None, values: bool
    ) -> tuple[Graph, Tensor | None]:
        layer = type(self).__name__
        if self.flow != "source_to_target":
            raise ValueError(
                f"{layer}: flow must be source_to_target for a sparse matrix, got {self.flow!r}; "
                "give the transposed matrix instead"
            )
        if edge_weight is not None:
            raise ValueError(
                f"{layer}: edge_weight must be None for a sparse matrix, whose values are the weights; "
                "set them in the matrix, or give edge_index"
            )
        rows = num_dst if num_dst is not None or not hasattr(adj_t, "size") else adj_t.size(0)
        graph = as_graph(adj_t, num_src, num_src if rows is None else rows)
        return graph, sparse_weight(adj_t) if values or isinstance(adj_t, Tensor) else None

    def _weight(self, weight: Tensor | None) -> Tensor | None:
        """[E] or [E, T]; without tasks [E, 1] is [E], as in PyG."""
        if weight is None or weight.dim() == 1:
            return weight
        if self.num_tasks is None and weight.dim() == 2 and weight.size(1) == 1:
            return weight.squeeze(1)
        if weight.dim() != 2 or weight.size(1) != self.num_tasks:
            wanted = "[E]" if self.num_tasks is None else f"[E] or [E, T] with T = {self.num_tasks}"
            raise ValueError(f"{type(self).__name__}: edge_weight must have shape {wanted}, got {list(weight.shape)}")
        return weight

    # ------------------------------------------------------------------------------------------- arithmetic

    def _aggregate(self, graph: Graph, x: Tensor, weight: Tensor | None) -> Tensor:
        weight = None if weight is None else weight.to(x.dtype)
        if graph.parted:  # it fetches the neighbours from other ranks
            return cast(Any, graph).aggregate(x, weight, _REDUCE[self.aggr])
        return spmm(graph, x, weight, _REDUCE[self.aggr])

    def _aggregate_linear(
        self, lin: nn.Module, graph: Graph, x: Tensor, weight: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """``lin`` of the aggregate, plus ``bias``."""
        if self._is_plain(lin) and (bias is None or lin.bias is None):
            return self._in_order(lin, graph, x, weight, cast(Any, lin).bias if bias is None else bias)
        out: Tensor = lin(self._aggregate(graph, x, weight))
        return out if bias is None else out + bias

    def _add_linear(self, out: Tensor, lin: nn.Module, x: Tensor) -> Tensor:
        """``out + lin(x)``, in one product where ``lin`` is a plain map without bias."""
        return product(lin, x, out) if self._is_plain(lin) and lin.bias is None else out + lin(x)

    def _is_plain(self, lin: nn.Module) -> bool:
        """Whether ``lin`` is a linear map without hooks: who has set one counts on ``lin`` being called."""
        return type(lin) in self._linears and not (
            lin._forward_pre_hooks or lin._forward_hooks or lin._backward_hooks or lin._backward_pre_hooks
        )

    def _in_order(self, lin: Any, graph: Graph, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """W of the aggregate plus ``bias``; sums and means in the order that moves fewer numbers along the edges.

        (A x) W = A (x W). Features that are shared by the tasks are so aggregated once for all of them.
        """
        if _REDUCE[self.aggr] not in ("sum", "mean") or not self._narrows(lin, x, weight):
            return product(lin, self._aggregate(graph, x, weight), bias)
        out = self._aggregate(graph, product(lin, x), weight)
        return out if bias is None else out + bias.to(out.dtype)

    def _narrows(self, lin: Any, x: Tensor, weight: Tensor | None) -> bool:
        tasks = self.num_tasks or 1
        before = tasks if x.dim() == 3 or (weight is not None and weight.dim() == 2) else 1
        return tasks * lin.out_channels < before * x.size(-1)

    def _repr(self, *parts: str) -> str:
        tasks = () if self.num_tasks is None else (f"num_tasks={self.num_tasks}",)
        return f"{type(self).__name__}({', '.join((*parts, *tasks))})"

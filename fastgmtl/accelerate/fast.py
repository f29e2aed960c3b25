"""What fast layers share: which calls our operators serve, and which are the parent's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import Linear, aggr
from torch_geometric.nn.conv import MessagePassing

from fastgmtl import backend
from fastgmtl.accelerate import small
from fastgmtl.accelerate.small import is_worth_a_graph
from fastgmtl.graph import Graph

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
AGGREGATIONS = {
    "sum": aggr.SumAggregation,
    "add": aggr.SumAggregation,
    "mean": aggr.MeanAggregation,
    "max": aggr.MaxAggregation,
    "min": aggr.MinAggregation,
}
# Methods that PyTorch Geometric lets people replace on an instance.
_REPLACEABLE = ("message", "aggregate", "update", "message_and_aggregate", "edge_update", "explain_message")


class Fast(MessagePassing):  # type: ignore[misc]
    """A layer of PyTorch Geometric whose calls run the operators of fastgmtl where these serve them.

    A subclass inherits from this, from the layer of PyTorch Geometric (whose parameters, state and path it has) and
    from the layer of the same name of fastgmtl.nn (whose arithmetic it runs on them), in this order. Its instances are
    made by :func:`fastgmtl.accelerate_`, which sets the class of a layer that exists.
    """

    # What the layers of fastgmtl.nn read and those of PyTorch Geometric lack.
    num_tasks = None
    _linears: tuple[type[nn.Module], ...] = (Linear,)
    _small = small.SMALL
    _multiplies = False  # whether the parent's path on a sparse matrix is one product with it
    _calls: Counter[str]  # an instance's own, with accelerate_

    @classmethod
    def parent(cls) -> type[MessagePassing]:
        """The layer of PyTorch Geometric that this one replaces."""
        found: type[MessagePassing] = cls.__mro__[cls.__mro__.index(Fast) + 1]
        return found

    def kernel(self) -> str:
        """The operators that run a call."""
        return "spmm"

    # ---------------------------------------------------------------------------------------------- what is served

    def settings_without_kernel(self) -> str:
        """Why no call of a layer with these settings can run on the operators; "" if some can."""
        how = self.aggr
        if not isinstance(how, str) or how not in AGGREGATIONS or type(self.aggr_module) is not AGGREGATIONS[how]:
            return f"no kernel for aggr={how!r}"
        if self.node_dim not in (-2, 0):
            return f"no kernel for node_dim={self.node_dim}"
        return ""

    def _serves(self, x: Any, edges: Any, size: Any = None, also: str = "", key: Any = None) -> bool:
        """Whether our operators run this call; counts it, with the reason if they do not.

        ``also`` is a reason of the layer's own; ``key`` the tensor by which a graph is kept, if it is not ``edges``.
        """
        # First what leaves most calls to the parent: it must cost next to nothing.
        if not self._worth(x, edges, edges if key is None else key):
            reason = "small input"
        else:
            reason = self.settings_without_kernel() or self._watched() or self._edges_without_kernel(edges)
            if not reason and self._lazy():
                reason = "lazy parameters without a shape"
            reason = reason or self._features_without_kernel(x, size) or also
        if not torch.compiler.is_compiling():
            self._calls[reason] += 1
        return not reason

    def _watched(self) -> str:
        """Whether somebody looks into the parent's path, or has changed it."""
        if self._explain or self._edge_mask is not None:
            return "explanation"
        if (
            self._propagate_forward_pre_hooks
            or self._propagate_forward_hooks
            or self._message_forward_pre_hooks
            or self._message_forward_hooks
            or self._aggregate_forward_pre_hooks
            or self._aggregate_forward_hooks
            or self._message_and_aggregate_forward_pre_hooks
            or self._message_and_aggregate_forward_hooks
            or self._edge_update_forward_pre_hooks
            or self._edge_update_forward_hooks
        ):
            return "hooks of message passing"
        own = self.__dict__
        for name in _REPLACEABLE:
            if name in own:
                return "a method replaced on the instance"
        return "tracing" if torch.jit.is_tracing() else ""  # type: ignore[attr-defined]

    def _edges_without_kernel(self, edges: Any) -> str:
        if isinstance(edges, Graph):
            return ""
        if torch.compiler.is_compiling():
            return "compilation: give a fastgmtl.Graph"
        if isinstance(edges, Tensor):
            if edges.layout == torch.strided:
                served = type(edges) in (Tensor, EdgeIndex) and edges.dtype in (torch.int64, torch.int32)
                return "" if served and edges.dim() == 2 and edges.size(0) == 2 else "edges of another form"
        elif not (hasattr(edges, "coo") and hasattr(edges, "sizes")):  # torch_sparse.SparseTensor
            return "edges of another form"
        return "" if self.flow == "source_to_target" else "a sparse matrix against the flow"

    def _features_without_kernel(self, x: Any, size: Any) -> str:
        if isinstance(x, Tensor):
            return _tensor_without_kernel(x) or (_size_without_kernel(size, x, x) if size is not None else "")
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            return "features of another form"
        if self.flow != "source_to_target":
            return "a pair of features against the flow"
        src, dst = x
        if dst is None:
            return _tensor_without_kernel(src) or (_size_without_kernel(size, src, None) if size is not None else "")
        found = _tensor_without_kernel(src) or _tensor_without_kernel(dst)
        if not found and src.dtype != dst.dtype:
            found = "features of two dtypes"
        return found or (_size_without_kernel(size, src, dst) if size is not None else "")

    def _lazy(self) -> bool:
        """Whether a linear map of the layer takes its width from the first input that is still to come."""
        return any("_hook" in vars(module) for module in self._modules.values() if module is not None)

    def _worth(self, x: Any, edges: Any, key: Any) -> bool:
        if isinstance(x, (tuple, list)):
            x = x[0] if x else None
        if not isinstance(x, Tensor) or x.dim() == 0 or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return True  # what there is to say is found later
        number = count(edges) * x.size(-1)
        if self._multiplies and number < small.SMALL_MATRIX and self._is_the_parents(edges, number):
            return small.is_always()
        return is_worth_a_graph(key.as_tensor() if type(key) is EdgeIndex else key, number, self._small)

    def _is_the_parents(self, edges: Any, number: int) -> bool:
        """Whether PyTorch's product with a sparse matrix is as fast, however often it comes."""
        layout = getattr(edges, "layout", None)
        if self.aggr in ("max", "min"):
            return layout in (torch.sparse_csr, torch.sparse_coo)
        return layout == torch.sparse_csr and number < small.SMALL

    # --------------------------------------------------------------------------------------------------- the rest

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        # A copy or an unpickled layer has them written into its class, where they would hide the parent's.
        fast, self.__class__ = type(self), self.parent()
        try:
            self._set_jittable_templates(raise_on_error)
        finally:
            self.__class__ = fast

    def _as_parent(self, out: Tensor, *others: Tensor | None) -> Tensor:
        """``out`` in the dtype that promotion with ``others`` gives the parent's: autocast leaves ours at the half."""
        for other in others:
            if other is not None and other.dtype != out.dtype:
                out = out.to(torch.promote_types(out.dtype, other.dtype))
        return out


def count(edges: Any) -> int:
    """The number of edges of an edge_index or a sparse matrix; of what is neither, so many that they are looked at."""
    if isinstance(edges, Tensor):
        return edges.numel() >> 1 if edges.layout == torch.strided else edges._nnz()
    return int(edges.nnz()) if hasattr(edges, "nnz") else small.SMALL


def _tensor_without_kernel(x: Any) -> str:
    if not isinstance(x, Tensor) or x.dim() != 2 or x.layout != torch.strided:
        return "features that are not [N, F]"
    if x.dtype not in FLOATS:
        return f"no kernel for {x.dtype}"
    if x.device.type not in backend.active and backend.choice() == "auto":
        return f"no kernel on {x.device.type}"
    return ""


def _size_without_kernel(size: Any, src: Tensor, dst: Tensor | None) -> str:
    """PyTorch Geometric ignores a size that does not fit some layouts, and refuses it for others."""
    fits = size[0] in (None, src.size(0)) and (dst is None or size[1] in (None, dst.size(0)))
    return "" if fits else "size of other numbers of nodes"

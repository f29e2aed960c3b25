"""What others call a graph, as the arrays of a Graph: checks and conversions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl.streams import refuse_capture


def plain_edge_index(edge_index: Any) -> Tensor:
    """``edge_index``, integer [2, E] or PyG's ``EdgeIndex``, as a plain tensor; TypeError or ValueError otherwise."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(
            f"graph: edge_index must be a tensor [2, E] of int32 or int64, got {type(edge_index).__name__}; "
            "wrap it in torch.as_tensor"
        )
    if edge_index.layout != torch.strided:
        raise TypeError(
            f"graph: edge_index must be a dense tensor [2, E], got layout {edge_index.layout}; use Graph.from_sparse"
        )
    if edge_index.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"graph: edge_index must be int32 or int64, got {str(edge_index.dtype).removeprefix('torch.')}; "
            "convert it with .long()"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        hint = "; transpose it with .t()" if edge_index.dim() == 2 and edge_index.size(1) == 2 else ""
        raise ValueError(f"graph: edge_index must have shape [2, E], got {list(edge_index.shape)}{hint}")
    as_tensor = getattr(edge_index, "as_tensor", None)  # of EdgeIndex: without what it keeps beside the numbers
    return edge_index if as_tensor is None else as_tensor()


def check_count(name: str, value: Any) -> Any:
    """A number of nodes as int; TypeError or ValueError with its name otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"graph: {name} must be an integer, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"graph: {name} must not be negative, got {value}")
    return value


def check_csr(row_ptr: Tensor, col: Tensor, num_src: int | None) -> tuple[Tensor, Tensor, int]:
    """The arrays of a CSR pattern in the dtypes of a Graph, or an error that names what is wrong."""
    from fastgmtl.csr import index_dtype

    for name, value in (("row_ptr", row_ptr), ("col", col)):
        if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.int64) or value.dim() != 1:
            given = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"graph: {name} must be a 1-d tensor of int32 or int64, got {given}")
    refuse_capture("rows cannot be checked", row_ptr.device.type)
    if row_ptr.numel() == 0 or int(row_ptr[0]) != 0 or int(row_ptr[-1]) != col.numel():
        ends = [] if row_ptr.numel() == 0 else [int(row_ptr[0]), int(row_ptr[-1])]
        raise ValueError(
            f"graph: row_ptr must begin with 0 and end with the number of edges {col.numel()}, got ends {ends}"
        )
    if bool((row_ptr.diff() < 0).any()):
        raise ValueError("graph: row_ptr must not decrease")
    if num_src is None:
        num_src = int(col.max()) + 1 if col.numel() else 0
    num_src = check_count("num_src", num_src)
    bad = (col < 0) | (col >= num_src)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise IndexError(f"graph: every source must be in [0, {num_src}), edge {at} has {int(col[at])}")
    dtype = index_dtype(col.numel(), row_ptr.numel(), num_src)
    return row_ptr.long().contiguous(), col.to(dtype).contiguous(), num_src


def sparse_to_coo(adj_t: Any) -> tuple[Tensor, int, int]:
    """``(edge_index, num_dst, num_src)`` of a sparse matrix whose rows are destinations; order is row-major."""
    if isinstance(adj_t, Tensor):
        if adj_t.layout == torch.strided or adj_t.dim() != 2:
            raise TypeError(
                f"graph: a 2-d sparse tensor is required, got layout {adj_t.layout} with shape {list(adj_t.shape)}"
            )
        coo = adj_t.detach() if adj_t.layout == torch.sparse_coo else adj_t.detach().to_sparse_coo()
        row, col = coo._indices() if coo.layout == torch.sparse_coo and coo.is_coalesced() else coo.coalesce().indices()
        return torch.stack([col, row]), adj_t.size(0), adj_t.size(1)
    if hasattr(adj_t, "coo") and hasattr(adj_t, "sizes"):  # torch_sparse.SparseTensor, by its shape
        row, col, _ = adj_t.coo()
        return torch.stack([col, row]), adj_t.size(0), adj_t.size(1)
    raise TypeError(
        "graph: edges must be a Graph, an edge_index tensor [2, E], a torch sparse tensor or a torch_sparse "
        f"SparseTensor, got {type(adj_t).__name__}"
    )


def sparse_weight(adj_t: Any) -> Tensor | None:
    """Values of a sparse matrix in the edge order of :meth:`Graph.from_sparse`; None if it has none."""
    if isinstance(adj_t, Tensor):
        if adj_t.layout == torch.sparse_csr and not adj_t.requires_grad:  # sorted by rows already
            return adj_t.values()
        coo = adj_t if adj_t.layout == torch.sparse_coo else adj_t.to_sparse_coo()
        return coo.coalesce().values()
    value: Tensor | None = adj_t.coo()[2]
    return value


def from_data(cls: Any, data: Any) -> Any:
    """A Graph of a PyG Data object by its ``edge_index``, ``adj_t`` and ``num_nodes``."""
    edge_index, num_nodes = getattr(data, "edge_index", None), getattr(data, "num_nodes", None)
    if edge_index is not None:
        return cls.from_edge_index(edge_index, num_nodes, num_nodes)
    adj_t = getattr(data, "adj_t", None)
    if adj_t is not None:
        return cls.from_sparse(adj_t)
    raise ValueError(
        f"graph: from_data needs an object with edge_index or adj_t, got {type(data).__name__} with neither"
    )

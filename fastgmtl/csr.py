"""Sorting edges into rows: a parallel counting sort on the CPU, a stable sort elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.streams import refuse_capture

_INT32_MAX = 2**31 - 1


def index_dtype(*sizes: int) -> torch.dtype:
    """int32 where every size fits, else int64."""
    return torch.int32 if max(sizes) <= _INT32_MAX else torch.int64


def from_coo(row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(row_ptr, col, edge_id)`` of the edges (row[e], col[e]), sorted by row, stable; edge_id None if sorted already.

    Raises IndexError with the offending value where an index is outside of its range.
    """
    if is_symbolic(row):
        return torch.ops.fastgmtl.csr(row, col, None, num_rows, num_cols)
    row_ptr, new_col, edge_id, in_order = _sort(row, col, None, num_rows, num_cols)
    return row_ptr, new_col, None if in_order else edge_id


def transpose(
    row_ptr: Tensor, col: Tensor, edge_id: Tensor | None, num_cols: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(row_ptr, col, edge_id)`` of the transposed pattern; edge ids go on meaning the user's order (None: as is)."""
    num_rows, num_edges = row_ptr.size(0) - 1, col.size(0)
    rows = torch.arange(num_rows, dtype=col.dtype, device=col.device)
    rows = rows.repeat_interleave(row_ptr.diff(), output_size=num_edges)
    if is_symbolic(col):
        return torch.ops.fastgmtl.csr(col, rows, edge_id, num_cols, num_rows)
    row_ptr, new_col, new_id, in_order = _sort(col, rows, edge_id, num_cols, num_rows)
    return row_ptr, new_col, None if in_order and edge_id is None else new_id


def is_symbolic(index: Tensor) -> bool:
    """Whether there may be no numbers to sort: under compilation, and in a FakeTensor."""
    return torch.compiler.is_compiling() or type(index) is not Tensor


def _sort(
    row: Tensor, col: Tensor, edge_id: Tensor | None, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor, bool]:
    num_edges = row.size(0)
    dtype = index_dtype(num_edges, num_rows, num_cols)
    kernels = backend.kernels_for(row.device) if row.device.type == "cpu" else None
    if kernels is None:
        return _sort_by_torch(row, col, edge_id, num_rows, num_cols, dtype)
    row_ptr = torch.empty(num_rows + 1, dtype=torch.int64)
    new_col, new_id = torch.empty(num_edges, dtype=dtype), torch.empty(num_edges, dtype=dtype)
    if edge_id is not None:
        edge_id = edge_id.to(dtype).contiguous()
    in_order = kernels.csr(
        row.contiguous(),
        col.to(row.dtype).contiguous(),
        edge_id,
        num_cols,
        row_ptr,
        new_col,
        new_id,
        torch.get_num_threads(),
    )
    return row_ptr, new_col, new_id, in_order


def _sort_by_torch(
    row: Tensor, col: Tensor, edge_id: Tensor | None, num_rows: int, num_cols: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, bool]:
    refuse_capture("edges cannot be sorted", row.device.type)
    for name, index, size in (("destination", row, num_rows), ("source", col, num_cols)):
        bad = (index < 0) | (index >= size)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise IndexError(
                f"graph: every {name} must be in [0, {size}), edge {at} has {int(index[at])}; "
                "give the number of nodes or mend the edge list"
            )
    in_order = bool((row.diff() >= 0).all())
    order = torch.sort(row, stable=True).indices
    row_ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=num_rows), 0, out=row_ptr[1:])
    new_id = order if edge_id is None else edge_id[order]
    return row_ptr, col[order].to(dtype), new_id.to(dtype), in_order


torch.library.define(
    "fastgmtl::csr",
    "(Tensor row, Tensor col, Tensor? edge_id, SymInt num_rows, SymInt num_cols) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("fastgmtl::csr", "CompositeExplicitAutograd")
def _csr(
    row: Tensor, col: Tensor, edge_id: Tensor | None, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    row_ptr, new_col, new_id, in_order = _sort(row, col, edge_id, num_rows, num_cols)
    if in_order and edge_id is None:
        new_id.copy_(torch.arange(row.size(0), dtype=new_id.dtype, device=new_id.device))
    return row_ptr, new_col, new_id


@torch.library.register_fake("fastgmtl::csr")
def _csr_fake(
    row: Tensor, col: Tensor, edge_id: Tensor | None, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    # Which integer type fits is decided by sizes that are only known when the graph runs; more than 2^31 edges or
    # nodes under torch.compile are given as a Graph built outside.
    index = row.new_empty(row.size(0), dtype=torch.int32)
    return row.new_empty(num_rows + 1, dtype=torch.int64), index, torch.empty_like(index)

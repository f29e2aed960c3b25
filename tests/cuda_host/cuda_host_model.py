"""The contract of csrc/contract/{spmm,sddmm}.h in plain PyTorch, and the patterns the tests run on."""

from __future__ import annotations

import torch
from cuda_host_build import Pattern
from torch import Tensor

NONE, ROWS, COLS = 0, 1, 2
SUM, MAX, MIN = 0, 1, 2


def acc(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# Equality: float64 1e-10, float32 1e-5 relative to the sum of absolute terms; half precision rounds the result.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def close(actual: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Whether ``actual`` is ``expected`` up to rounding; ``size`` is the sum of the absolute values of the terms."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    # float16 has a smallest step.
    bound = TOLERANCE[actual.dtype] * size.double() + (6e-8 if actual.dtype == torch.float16 else 1e-12)
    return bool(((actual.double() - expected.double()).abs() <= bound).all())


def pattern_of(
    degrees: list[int], cols: int, index: torch.dtype = torch.int32, ids: bool = True, seed: int = 0
) -> Pattern:
    """Rows of the given degrees with random columns; with ``ids``, in a random order of the user's."""
    generator = torch.Generator().manual_seed(seed)
    edges = sum(degrees)
    row_ptr = torch.tensor([0, *degrees], dtype=torch.int64).cumsum(0)
    col = torch.randint(max(cols, 1), (edges,), generator=generator).to(index)
    edge_id = torch.randperm(edges, generator=generator).to(index) if ids else None
    return Pattern(row_ptr, col, edge_id, cols)


def degrees_of(rows: int, kind: str, seed: int = 0) -> list[int]:
    """``power``: many short rows, some empty, a few long; ``one``: all edges in one row in the middle; ``border``: rows
    that are as long as a piece (64 edges in small graphs), begin and end where pieces do, or miss that by one."""
    if kind == "border":
        return [64, 128, 65, 63, 0, 192] * (rows // 6)
    if kind == "one":
        degrees = [0] * rows
        degrees[rows // 2] = 700
        return degrees
    generator = torch.Generator().manual_seed(seed)
    short = (torch.rand(rows, generator=generator).clamp(min=1e-3) ** -0.8 - 1).long()
    return [int(d) for d in short]


def edge_rows(p: Pattern) -> Tensor:
    return torch.repeat_interleave(torch.arange(p.rows), p.row_ptr.diff())


def ids_of(p: Pattern) -> Tensor:
    return torch.arange(p.edges) if p.edge_id is None else p.edge_id.long()


def with_tasks(x: Tensor, tasks: int, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype)
    return x if x.dim() == 3 else x.unsqueeze(1).expand(-1, tasks, -1)


def messages(
    p: Pattern,
    x: Tensor,
    w: Tensor | None,
    tasks: int,
    dtype: torch.dtype,
    scale: Tensor | None,
    scale_of_cols: bool,
    arg: Tensor | None,
    arg_of: int,
) -> Tensor:
    """[E, T, d] in row order, 0 where ``arg`` names another edge; the scale of rows is not in it."""
    value = with_tasks(x, tasks, dtype)[p.col.long()]
    if w is not None:
        weight = w.to(dtype)[ids_of(p)]
        value = value * (weight if weight.dim() == 2 else weight.unsqueeze(1)).unsqueeze(2)
    if scale is not None and scale_of_cols:
        value = value * scale.to(dtype)[p.col.long()].reshape(-1, 1, 1)
    if arg is not None:
        owner = edge_rows(p) if arg_of == ROWS else p.col.long()
        chosen = arg.reshape(arg.shape[0], tasks, -1)[owner] == ids_of(p).reshape(-1, 1, 1)
        value = torch.where(chosen, value, 0)
    return value


def row_scale(p: Pattern, scale: Tensor | None, scale_of_cols: bool) -> Tensor:
    if scale is None or scale_of_cols:
        return torch.ones(p.rows, 1, 1, dtype=torch.float64)
    return scale.double().reshape(-1, 1, 1)


def sums(
    p: Pattern,
    x: Tensor,
    w: Tensor | None,
    tasks: int,
    task_axis: bool,
    scale: Tensor | None = None,
    scale_of_cols: bool = False,
    arg: Tensor | None = None,
    arg_of: int = NONE,
) -> tuple[Tensor, Tensor]:
    """y as spmm gives it for sums, and the sum of absolute values, both float64."""
    terms = messages(p, x, w, tasks, torch.float64, scale, scale_of_cols, arg, arg_of)
    out = []
    for value in (terms, terms.abs()):
        y = torch.zeros(p.rows, *value.shape[1:], dtype=torch.float64).index_add(0, edge_rows(p), value)
        y = y * row_scale(p, scale, scale_of_cols)
        out.append(y if task_axis else y.sum(1))
    return out[0], out[1].abs()


def extremes(p: Pattern, x: Tensor, w: Tensor | None, tasks: int, largest: bool) -> tuple[Tensor, Tensor]:
    """y and new_arg [rows, T, d]; messages have the rounding of the kernel, so that both are exact."""
    value = messages(p, x, w, tasks, acc(x.dtype), None, False, None, NONE)
    ids = ids_of(p)
    y = torch.zeros(p.rows, *value.shape[1:], dtype=value.dtype)
    winner = torch.full(y.shape, -1, dtype=torch.int64)
    for row in range(p.rows):
        begin, end = int(p.row_ptr[row]), int(p.row_ptr[row + 1])
        if begin < end:
            # numpy takes the first NaN, and of equals the first.
            mine = value[begin:end].numpy()
            at = torch.as_tensor(mine.argmax(0) if largest else mine.argmin(0))
            y[row] = value[begin:end].gather(0, at.unsqueeze(0))[0]
            winner[row] = ids[begin + at]
    return y.to(x.dtype), winner


def dots(
    p: Pattern,
    a: Tensor,
    b: Tensor,
    tasks: int,
    scale: Tensor | None = None,
    scale_of_cols: bool = False,
    arg: Tensor | None = None,
    arg_of: int = NONE,
) -> tuple[Tensor, Tensor]:
    """out [E, T] as sddmm gives it, and the sum of absolute values, both float64."""
    left = with_tasks(a, tasks, torch.float64)[edge_rows(p)]
    right = messages(p, b, None, tasks, torch.float64, scale, scale_of_cols, arg, arg_of)
    product = left * right * row_scale(p, scale, scale_of_cols)[edge_rows(p)]
    out = torch.empty(p.edges, tasks, dtype=torch.float64)
    size = torch.empty_like(out)
    out[ids_of(p)], size[ids_of(p)] = product.sum(-1), product.abs().sum(-1)
    return out, size

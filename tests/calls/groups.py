"""grouped_matmul and what runs within it."""

from __future__ import annotations

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.grouped_matmul import grouped_matmul_op, grouped_outer_op

CALLS: dict[str, Maker] = {}


def _fill_groups() -> None:
    """Three groups over the graph's destinations: the second without rows, or all equally large."""

    def bounds(draw: Draw, equal: bool) -> list[int]:
        n = draw.graph.num_dst
        return [0, n, 2 * n, 3 * n] if equal else [0, n // 3, n // 3, n]

    def rows(draw: Draw, equal: bool, width: int) -> Tensor:
        return draw.normal(bounds(draw, equal)[-1], width)

    for equal in (False, True):
        tag = "equal" if equal else "uneven"

        def public(draw: Draw, equal: bool = equal, tag: str = tag) -> Call:
            ptr = bounds(draw, equal)
            run, twin = (lambda *t, m=m: m.grouped_matmul(*t, ptr) for m in (ops, reference))
            tensors = rows(draw, equal, draw.width), draw.normal(3, draw.width, draw.tasks)
            return Call(f"grouped_matmul-{tag}", draw.graph, tensors, run, twin)

        def transposed(draw: Draw, equal: bool = equal, tag: str = tag) -> Call:
            tensors = rows(draw, equal, draw.tasks), draw.normal(3, draw.width, draw.tasks)
            name = f"grouped_matmul_op-t-{tag}"
            maker = internal(name, grouped_matmul_op, lambda _: tensors, bounds=bounds(draw, equal), transposed=True)
            return maker(draw)

        def outer(draw: Draw, equal: bool = equal, tag: str = tag) -> Call:
            tensors = rows(draw, equal, draw.width), rows(draw, equal, draw.tasks)
            return internal(f"grouped_outer_op-{tag}", grouped_outer_op, lambda _: tensors, bounds=bounds(draw, equal))(
                draw
            )

        CALLS[f"grouped_matmul-{tag}"] = public
        CALLS[f"grouped_matmul_op-t-{tag}"] = transposed
        CALLS[f"grouped_outer_op-{tag}"] = outer


_fill_groups()

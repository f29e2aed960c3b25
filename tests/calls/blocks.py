"""block_spmm and the operators within it. A block has as many lines as there are tasks, and one column more."""

from __future__ import annotations

from torch import Tensor

from calls.base import Call, Draw, Maker, internal
from fastgmtl import ops, reference
from fastgmtl.ops.block_spmm import block_sddmm_op, block_spmm_op

CALLS: dict[str, Maker] = {}


def _blocks(draw: Draw) -> Tensor:
    return draw.normal(draw.graph.num_edges, draw.tasks, draw.tasks + 1)


def _ends(draw: Draw) -> tuple[Tensor, Tensor]:
    """Of destinations and of sources."""
    return draw.heads("dst", draw.tasks, draw.width), draw.heads("src", draw.tasks + 1, draw.width)


def _public(draw: Draw) -> Call:
    run, twin = (lambda *t, m=m: m.block_spmm(draw.graph, *t) for m in (ops, reference))
    return Call("block_spmm", draw.graph, (_blocks(draw), _ends(draw)[1]), run, twin)


def _fill() -> None:
    CALLS["block_spmm"] = _public
    for back in (False, True):
        name = f"block_spmm_op-{'back' if back else 'on'}"
        CALLS[name] = internal(
            name, block_spmm_op, lambda d, back=back: (_blocks(d), _ends(d)[0 if back else 1]), back=back
        )
    CALLS["block_sddmm_op-outer"] = internal("block_sddmm_op-outer", block_sddmm_op, _ends)


_fill()

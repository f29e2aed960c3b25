"""Which layer of PyTorch Geometric has a fast one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch_geometric.nn import HeteroConv
from torch_geometric.nn.conv import MessagePassing

from fastgmtl.accelerate.attention import FastGATConv, FastGATv2Conv, FastTransformerConv
from fastgmtl.accelerate.fast import Fast
from fastgmtl.accelerate.hetero import FastHeteroConv, is_alike
from fastgmtl.accelerate.neighbours import FastGCNConv, FastGINConv, FastGINEConv, FastGraphConv, FastSAGEConv
from fastgmtl.accelerate.relations import FastHGTConv, FastRGCNConv

LAYERS = (
    FastGCNConv,
    FastSAGEConv,
    FastGINConv,
    FastGINEConv,
    FastGraphConv,
    FastGATConv,
    FastGATv2Conv,
    FastTransformerConv,
    FastRGCNConv,
    FastHGTConv,
)
FAST: dict[type[nn.Module], type[Any]] = {HeteroConv: FastHeteroConv, **{fast.parent(): fast for fast in LAYERS}}


def why_not(module: MessagePassing | HeteroConv) -> str:
    """Why ``module`` is left alone; "" if it has a fast class that can serve it."""
    kind = type(module)
    if kind is HeteroConv:
        return "" if is_alike(module) else "convolutions that are not alike"
    if isinstance(module, Fast):
        return "accelerated already"
    if kind in FAST:
        found: str = FAST[kind].settings_without_kernel(module)
        return found
    known = next((c for c in kind.__mro__[1:] if c in FAST), None)
    if known is not None:
        return f"a subclass of {known.__name__}, whose methods may be others"
    return "no kernel"

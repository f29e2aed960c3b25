"""Which layer of PyTorch Geometric has a fast one."""

from __future__ import annotations

from torch_geometric.nn import GINEConv
from torch_geometric.nn.conv import MessagePassing

from fastgmtl.accelerate.attention import FastGATConv, FastGATv2Conv, FastTransformerConv
from fastgmtl.accelerate.fast import Fast
from fastgmtl.accelerate.neighbours import FastGCNConv, FastGINConv, FastGraphConv, FastSAGEConv
from fastgmtl.accelerate.relations import FastHGTConv, FastRGCNConv

LAYERS = (
    FastGCNConv,
    FastSAGEConv,
    FastGINConv,
    FastGraphConv,
    FastGATConv,
    FastGATv2Conv,
    FastTransformerConv,
    FastRGCNConv,
    FastHGTConv,
)
FAST: dict[type[MessagePassing], type[Fast]] = {fast.parent(): fast for fast in LAYERS}
# Layers for which there is a reason to have none.
WITHOUT: dict[type[MessagePassing], str] = {
    GINEConv: "no kernel for the rectified sum of node and edge features",
}


def why_not(module: MessagePassing) -> str:
    """Why ``module`` is left alone; "" if it has a fast class that can serve it."""
    kind = type(module)
    if isinstance(module, Fast):
        return "accelerated already"
    if kind in FAST:
        return FAST[kind].settings_without_kernel(module)
    known = next((c for c in kind.__mro__[1:] if c in FAST or c in WITHOUT), None)
    if known is not None:
        return f"a subclass of {known.__name__}, whose methods may be others"
    return WITHOUT.get(kind, "no kernel")

"""accelerate_ and deaccelerate_: the class of a layer is set, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fastgmtl.accelerate.report import Report, Row
from fastgmtl.accelerate.verify import check, outputs


def accelerate_(
    model: nn.Module,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    verify: tuple[Any, ...] | Mapping[str, Any] | None = None,
) -> Report:
    """Let the PyTorch Geometric layers of a model run on the operators of fastgmtl. In place.

    Layers: GCNConv, SAGEConv, GINConv, GINEConv, GraphConv, GATConv, GATv2Conv, TransformerConv, RGCNConv, HGTConv,
    wherever they are in ``model``: in PyTorch Geometric's GraphSAGE, GIN or GAT, in a HeteroConv, in what to_hetero has
    made. A HeteroConv that adds up (or averages) SAGEConv or GraphConv of one size is a layer itself: one pass over all
    its relations. The class of each such layer is set to a subclass (``FastSAGEConv``, ...); its parameters, buffers,
    hooks, device and what an optimiser refers to are the same objects as before, and state_dict, pickle and deepcopy go
    both ways.

    A call gives what it gave before, up to rounding and to the numbers that dropout draws. Where an operator does not
    serve, the layer runs the path of its parent class: for an explainer, for hooks of message passing, under
    torch.jit.trace, under torch.compile unless the edges are a :class:`fastgmtl.Graph`, for forms of features and edges
    that no operator takes, before lazy parameters have their shape, on devices without kernels, and for small inputs
    where it is as fast (edges that are new in every call; products with a small CSR matrix). ``report[i].calls`` counts
    these calls by reason.

    A graph is built once for an edge_index (EdgeIndex, torch sparse matrix, SparseTensor) and kept as long as that
    object lives and is not changed in place. Layers also take a :class:`fastgmtl.Graph` for edges.

    Args:
        model: a module; itself a layer, or with layers in it.
        filter_fn: ``filter_fn(layer, name)`` says whether to swap a layer; by default all are.
        verify: arguments of ``model``, a tuple or a mapping of keywords: it is run on them before and after, in
            evaluation mode, without gradients. Modes, buffers, attributes and random number generators are put back.

    Returns:
        A :class:`Report` with a row for each layer of message passing: layer, was, now, kernel, and why it was left
        alone. That is so for a layer of another type, of a subclass of one of the above, or with a setting (such as
        aggr="median") that no kernel has.

    Raises:
        ImportError: PyTorch Geometric is not installed.
        TypeError: model is not a module, verify is neither a tuple nor a mapping.
        RuntimeError: with ``verify``, the output of a layer differs by more than rounding; the model is then as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate_: model must be a torch.nn.Module, got {type(model).__name__}")
    if verify is not None and not isinstance(verify, (tuple, Mapping)):
        raise TypeError(f"accelerate_: verify must be a tuple or a mapping of arguments, got {type(verify).__name__}")
    _need_pyg()
    from torch_geometric.nn import HeteroConv
    from torch_geometric.nn.conv import MessagePassing

    from fastgmtl.accelerate.table import FAST, why_not

    rows, chosen = [], []
    within: set[nn.Module] = set()
    for name, layer in model.named_modules():
        fuses = type(layer) is HeteroConv and not why_not(layer)
        if not (fuses or isinstance(layer, MessagePassing)):
            continue
        was = type(layer).__name__
        reason = why_not(layer)
        if not reason and filter_fn is not None and not filter_fn(layer, name):
            reason = "filter_fn"
        rows.append(Row(name, was, was, reason=reason))
        if not reason:
            chosen.append((layer, rows[-1]))
            within.update(layer.convs.values() if fuses else ())
    # A hook would keep a convolution from being one of several in a pass.
    named = {layer: row.name for layer, row in chosen if layer not in within}
    before = None if verify is None else outputs(model, named, verify)
    for layer, row in chosen:
        layer.__class__ = FAST[type(layer)]
        layer._calls = Counter()
        row.now, row.kernel, row.calls = type(layer).__name__, layer.kernel(), layer._calls
    if before is not None and verify is not None:
        try:
            differences = check(before, outputs(model, named, verify), named)
        except BaseException:
            for layer, _ in chosen:
                _restore(layer)
            raise
        for layer, row in chosen:
            row.max_diff = differences.get(layer)
            row.calls.clear()
    return Report(rows)


def deaccelerate_(model: nn.Module) -> int:
    """Undo :func:`accelerate_`: every fast layer in ``model`` is again of its PyTorch Geometric class. In place.

    Returns:
        How many layers were put back. Copies and unpickled models can be put back as well.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"deaccelerate_: model must be a torch.nn.Module, got {type(model).__name__}")
    _need_pyg()
    from fastgmtl.accelerate.fast import Fast
    from fastgmtl.accelerate.hetero import FastHeteroConv

    fast = [layer for layer in model.modules() if isinstance(layer, (Fast, FastHeteroConv))]
    for layer in fast:
        _restore(layer)
    return len(fast)


def _restore(layer: Any) -> None:
    layer.__class__ = layer.parent()
    del layer._calls


def _need_pyg() -> None:
    try:
        import torch_geometric  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "accelerate_ swaps layers of PyTorch Geometric, which cannot be imported: "
            f"{error}. Install it: pip install torch_geometric"
        ) from error

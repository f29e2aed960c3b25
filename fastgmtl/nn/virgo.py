"""virgo_: weights of a GCN drawn so that neither its states nor their gradients grow or fade with the depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgmtl.graph import Graph, as_graph
from fastgmtl.ops.check import one_of
from fastgmtl.ops.gcn_norm import gcn_norm
from fastgmtl.ops.spmm import spmm

MODES = ("forward", "backward", "harmonic")


def virgo_(
    model: nn.Module,
    x: Tensor,
    edge_index: Tensor | Graph,
    edge_weight: Tensor | None = None,
    *,
    mode: str = "harmonic",
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Fill the weights of a model's GCN layers in place, by the graph that it will run on; its biases with 0.

    The weight of layer l is drawn from :math:`U(-\sqrt{3 c_l}, \sqrt{3 c_l})`, whose variance c_l is that of
    :func:`virgo_variances`. Source: Li, Song, Song and Wipf, On the initialization of graph
    neural networks, ICML 2023.

    Args:
        model: the modules in it that are a GCNConv, of fastgmtl or PyTorch Geometric, in the order in which they are
            registered, which must be that in which they run, with a relu between each two of them. Each has the weight
            ``lin.weight`` [C, F] or [T, C, F].
        x: [N, F], the features of the first layer.
        edge_index: [2, E] or a Graph.
        edge_weight: None or [E].
        mode: "forward" (variance of states), "backward" (of gradients) or "harmonic" (the harmonic mean of both).
        generator: for the draw.

    Returns:
        The model.

    Raises:
        ValueError: the model has no GCN layer, widths do not follow one another, ``mode`` is unknown, the last layer
            has one column and mode is not forward, or states vanish: then there is nothing to keep.
    """
    layers: list[Any] = [m for m in model.modules() if any(kind.__name__ == "GCNConv" for kind in type(m).__mro__)]
    if not layers:
        raise ValueError(f"virgo_: the model must have GCNConv layers, got {type(model).__name__} without any")
    weights = [_weight(layer) for layer in layers]
    widths = [weights[0].size(-1), *(weight.size(-2) for weight in weights)]
    for before, weight in zip(widths, weights, strict=False):
        if weight.size(-1) != before:
            raise ValueError(f"virgo_: a layer takes {weight.size(-1)} features, the one before it gives {before}")
    graph, norm = _adjacency(layers[0], as_graph(edge_index, x.size(0), x.size(0)), edge_weight)
    with torch.no_grad():
        for layer, weight, c in zip(layers, weights, virgo_variances(graph, norm, x, widths, mode), strict=True):
            bound = math.sqrt(3 * c)
            weight.uniform_(-bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def virgo_variances(
    graph: Graph, weight: Tensor | None, x: Tensor, widths: Sequence[int], mode: str = "harmonic"
) -> list[float]:
    r"""The variances c_1 to c_L of the weights of L layers with relu between them.

    .. math::
        \text{forward:} \quad & c_1 = \frac{2}{m_0}, \quad
            c_l = \frac{2}{m_{l-1}} \frac{\|A^{l-1} \bar x\|^2}{\|A^l \bar x\|^2} \\
        \text{backward:} \quad & c_L = \frac{N}{(C - 1) \|A^\top 1\|^2}, \quad
            c_{L-i} = \frac{2}{m_{L-i}} \frac{\|(A^\top)^i 1\|^2}{\|(A^\top)^{i+1} 1\|^2} \\
        \text{harmonic:} \quad & c_l = \frac{2}{1 / c^f_l + 1 / c^b_l}

    Each mode takes L products of a sparse matrix and a vector. Source: Li et al., ICML 2023, and its released code,
    which has A in the place of its transpose (the same for undirected graphs).

    Args:
        graph, weight: A as a Graph of N nodes and its weights, None or [E].
        x: [N, m_0]; its mean over the features is the vector above.
        widths: m_0 to m_L, the last of them C.
        mode: "forward", "backward" or "harmonic".

    Raises:
        ValueError: ``mode`` is unknown, C is 1 and mode is not forward, or a product of A and the vector is 0.
    """
    one_of("virgo_", "mode", mode, MODES)
    layers, classes = len(widths) - 1, widths[-1]
    forward = backward = [0.0] * layers
    if mode != "backward":
        norm = _norms(graph, weight, x.mean(1, keepdim=True), layers)
        later = [2 / widths[i] * norm[i - 1] / norm[i] for i in range(1, layers)]
        forward = [2 / widths[0], *later]
    if mode != "forward":
        if classes < 2:
            raise ValueError(f"virgo_: the last layer must have at least 2 columns for mode {mode!r}, got {classes}")
        norm = _norms(graph.t(), weight, x.new_ones(x.size(0), 1), layers)
        earlier = [2 / widths[layers - i] * norm[i - 1] / norm[i] for i in range(1, layers)]
        backward = [x.size(0) / ((classes - 1) * norm[0]), *earlier][::-1]
    if mode == "harmonic":
        return [2 / (1 / f + 1 / b) for f, b in zip(forward, backward, strict=True)]
    return forward if mode == "forward" else backward


def _norms(graph: Graph, weight: Tensor | None, value: Tensor, count: int) -> list[float]:
    """The sums of squares of A v, A^2 v, ..., A^count v."""
    found = []
    value = value.double()
    weight = None if weight is None else weight.double()
    for power in range(1, count + 1):
        value = spmm(graph, value, weight)
        square = float(value.square().sum())
        if not 0 < square < math.inf:
            raise ValueError(f"virgo_: the states of layer {power} must not vanish or overflow, got a norm of {square}")
        found.append(square)
    return found


def _weight(layer: Any) -> Tensor:
    """[C, F] or [T, C, F] of a GCNConv."""
    weight: Tensor = layer.lin.weight
    if nn.parameter.is_lazy(weight):
        raise ValueError("virgo_: the layers must know their widths, got in_channels=-1; run the model once before")
    return weight


def _adjacency(layer: Any, graph: Graph, edge_weight: Tensor | None) -> tuple[Graph, Tensor | None]:
    """The matrix that a GCNConv multiplies by."""
    if edge_weight is not None and edge_weight.dim() != 1:
        raise ValueError(f"virgo_: edge_weight must have shape [E], got {list(edge_weight.shape)}")
    if layer.flow == "target_to_source":
        graph = graph.t()
    if not layer.normalize:
        return graph, edge_weight
    return gcn_norm(graph, edge_weight, layer.add_self_loops, layer.improved, torch.float64)

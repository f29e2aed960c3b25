"""DAGNN: a prediction for each node, propagated over many hops, and a gate for each hop of each node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.graph import Graph
from fastgmtl.nn.conv import Edges
from fastgmtl.nn.gcn_conv import Normalised
from fastgmtl.nn.linear import Linear
from fastgmtl.ops.operator import is_transformed
from fastgmtl.ops.sddmm import sddmm
from fastgmtl.ops.spmm import spmm


class DAGNNConv(Normalised):
    r"""All hops of the features up to the K-th, each weighed by a gate of the node's own.

    .. math:: x'_{i,t} = \sum_{k=0}^{K} \sigma(a_t^\top h^k_i + b_t) \, h^k_i,
              \quad h^0 = x, \quad h^k = \hat A h^{k-1}

    with the normalised adjacency matrix of :class:`GCNConv`. Source: Liu, Gao and Ji, Towards deeper graph neural
    networks, KDD 2020, section 4; the gate's bias is that of the released code, and so are the names of the parameters
    (``proj.weight`` [1, C], ``proj.bias`` [1]).

    Args:
        channels: C.
        K: the number of hops, at least 1.
        bias: whether there is a b.
        cached, add_self_loops, normalize: those of :class:`GCNConv`.
        num_tasks: None, or T gates over one propagation; see :class:`fastgmtl.nn.conv.Conv`.
        kwargs: ``flow``.

    Shapes: x [N, C]; edge_weight None or [E]; output [N, C]. With tasks x [N, C] (propagated once for all of them) or
    [N, T, C], edge_weight None, [E] or [E, T], output [N, T, C].

    Without gradients two hops are kept at a time; for a backward all of them are, and nothing else of that size. The
    backward is Horner's scheme, g <- A^T g + what the hop itself got; it is made of operators, hence differentiable to
    any order.

    Raises:
        ValueError: K or a shape does not fit, x is a pair of features, aggr is not a sum.
    """

    def __init__(
        self,
        channels: int,
        K: int = 10,
        bias: bool = True,
        cached: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(False, cached, add_self_loops, normalize, num_tasks=num_tasks, **kwargs)
        if isinstance(K, bool) or not isinstance(K, int) or K < 1:
            raise ValueError(f"{type(self).__name__}: K must be an integer of at least 1, got {K!r}")
        self.channels = channels
        self.K = K
        self.proj = Linear(channels, 1, bias, num_tasks=num_tasks)

    def reset_parameters(self) -> None:
        """Draw the parameters anew and forget the cached graph."""
        self.proj.reset_parameters()
        self._forget()

    def forward(self, x: Tensor, edge_index: Edges, edge_weight: Tensor | None = None) -> Tensor:
        """x' of the formula above."""
        x = self._one("x", x)
        if x.size(-1) != self.channels:
            raise ValueError(f"{type(self).__name__}: x must have {self.channels} features, got {list(x.shape)}")
        graph, weight = self._normalised(x, edge_index, edge_weight)
        gate = self.proj.weight.reshape(-1, self.channels)
        bias = None if self.proj.bias is None else self.proj.bias.reshape(-1)
        h = x if x.dim() == 3 else x.unsqueeze(1)
        if weight is not None:
            weight = weight.to(x.dtype)
            if weight.dim() == 2:
                h = h.expand(-1, weight.size(1), -1)
        out = gated_hops(graph, h, weight, gate.to(x.dtype), None if bias is None else bias.to(x.dtype), self.K)
        return out.squeeze(1) if self.num_tasks is None else out

    def __repr__(self) -> str:
        return self._repr(str(self.channels), f"K={self.K}")


def gated_hops(graph: Graph, x: Tensor, weight: Tensor | None, gate: Tensor, bias: Tensor | None, hops: int) -> Tensor:
    """The sum over k <= hops of sigmoid(<a_t, h^k> + b_t) h^k, [N, T, C].

    x is [N, S, C] with S = T, or S = 1 shared by the tasks; weight None, [E], or [E, T] where S = T; gate a [T, C];
    bias b None or [T].
    """
    if not is_transformed() and torch.is_grad_enabled():
        tensors = [v for v in (x, weight, gate, bias) if v is not None]
        if any(v.requires_grad for v in tensors):
            return _GatedHops.apply(graph, hops, x, weight, gate, bias)  # type: ignore[no-untyped-call]
    return _sum(graph, x, weight, gate, bias, hops)


def _sum(
    graph: Graph,
    x: Tensor,
    weight: Tensor | None,
    gate: Tensor,
    bias: Tensor | None,
    hops: int,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """The formula, hop by hop; the hops after x are added to ``keep``."""
    state = x
    wide = torch.promote_types(x.dtype, torch.float32)
    out = _gates(x, gate, bias).to(wide).unsqueeze(-1) * x
    for _ in range(hops):
        state = _hop(graph, state, weight)
        if keep is not None:
            keep.append(state)
        # In place where that can be: a transform may have given the hops an axis that x lacks.
        add = torch.addcmul if is_transformed() else Tensor.addcmul_
        out = add(out, _gates(state, gate, bias).to(wide).unsqueeze(-1), state.to(wide))
    return out.to(x.dtype)


class _GatedHops(torch.autograd.Function):
    """:func:`gated_hops` with a backward that keeps the hops alone."""

    @staticmethod
    def forward(
        ctx: Any, graph: Graph, hops: int, x: Tensor, weight: Tensor | None, gate: Tensor, bias: Tensor | None
    ) -> Tensor:
        states: list[Tensor] = []
        out = _sum(graph, x, weight, gate, bias, hops, states)
        ctx.graph, ctx.hops = graph, hops
        ctx.save_for_backward(x, weight, gate, bias, *states)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, gate, bias, *states = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            # What was kept knows nothing of x and weight: to be differentiated again, the hops are taken again.
            states = []
            _sum(ctx.graph, x, weight, gate, bias, ctx.hops, states)
        states = [x, *states]
        back, needs = ctx.graph.t(), ctx.needs_input_grad[2:]
        d_state: Tensor | None = None
        d_weight = d_gate = d_bias = None
        for k in range(ctx.hops, -1, -1):
            h = states.pop()
            share = _gates(h, gate, bias)
            d_score = (h * grad).sum(-1) * share * (1 - share)
            if needs[2]:
                part = d_score.t() @ h[:, 0] if h.size(1) == 1 else (d_score.unsqueeze(-1) * h).sum(0)
                d_gate = part if d_gate is None else d_gate + part
            if needs[3]:
                d_bias = d_score.sum(0) if d_bias is None else d_bias + d_score.sum(0)
            own = (share.unsqueeze(-1) * grad).addcmul_(d_score.unsqueeze(-1), gate)
            if h.size(1) < gate.size(0):
                own = own.sum(1, keepdim=True)
            d_state = own if d_state is None else own.add_(_hop(back, d_state, weight))
            if needs[1] and k:
                part = _edge_products(ctx.graph, d_state, states[-1], weight.dim() == 2)
                d_weight = part if d_weight is None else d_weight + part
        return None, None, d_state if needs[0] else None, d_weight, d_gate, d_bias


def _gates(h: Tensor, gate: Tensor, bias: Tensor | None) -> Tensor:
    """sigmoid(<a_t, h> + b_t) [N, T] of h [N, S, C]."""
    score = F.linear(h[:, 0], gate) if h.size(1) == 1 else torch.einsum("ntc,tc->nt", h, gate)
    return (score if bias is None else score + bias).sigmoid()


def _hop(graph: Graph, h: Tensor, weight: Tensor | None) -> Tensor:
    """A h for h [N, S, C]."""
    if weight is not None and weight.dim() == 2:
        return spmm(graph, h, weight)
    return spmm(graph, _wide(h), weight).reshape(h.shape)


def _edge_products(graph: Graph, grad: Tensor, h: Tensor, each: bool) -> Tensor:
    """The gradient of the weights of one hop, [E], or [E, T] for weights of each task."""
    return sddmm(graph, grad, h) if each else sddmm(graph, _wide(grad), _wide(h))


def _wide(h: Tensor) -> Tensor:
    """[N, S, C] as [N, S C]; PyTorch has no rule for flatten in a batch of gradients."""
    return h.reshape(h.size(0), h.size(1) * h.size(2))


class DAGNN(nn.Module):
    r"""Two linear maps with a relu between them, then :class:`DAGNNConv`.

    .. math:: y = \mathrm{DAGNNConv}(W_2 \, \mathrm{relu}(W_1 x + b_1) + b_2)

    with dropout before each map. Source: Liu, Gao and Ji, KDD 2020, section 4; the parameters have the names of the
    released code: ``lin1``, ``lin2``, ``prop``.

    Args:
        in_channels: F, or -1 to take it from the first input.
        hidden_channels: width between the maps.
        out_channels: C, for example of the classes.
        K: the number of hops.
        dropout: chance with which a feature is left out in training.
        num_tasks: None, or T sets of parameters: x [N, F] or [N, T, F] gives [N, T, C].
        kwargs: those of :class:`DAGNNConv`.

    Shapes: x [N, F]; edge_weight None or [E]; output [N, C].
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        K: int = 10,
        dropout: float = 0.5,
        *,
        num_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.lin1 = Linear(in_channels, hidden_channels, num_tasks=num_tasks)
        self.lin2 = Linear(hidden_channels, out_channels, num_tasks=num_tasks)
        self.prop = DAGNNConv(out_channels, K, num_tasks=num_tasks, **kwargs)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in (self.lin1, self.lin2, self.prop):
            part.reset_parameters()

    def forward(self, x: Tensor, edge_index: Edges, edge_weight: Tensor | None = None) -> Tensor:
        """y of the formula above."""
        h = self.lin1(F.dropout(x, self.dropout, self.training)).relu()
        h = self.lin2(F.dropout(h, self.dropout, self.training))
        out: Tensor = self.prop(h, edge_index, edge_weight)
        return out

r"""The GCN encoder with gradients derived by hand: forward, backward and Hessian-vector product over a block.

One layer, with :math:`P = \hat A H_{l-1}` (constant in the first layer), row by row:

.. math::
    U = P W^T + b, \quad R = \mathrm{relu}(U), \quad V = R + H_{l-1}, \quad H = V / r, \quad r = \|V\|

Backward, from :math:`\bar H`:

.. math::
    \bar V = (\bar H - (\bar H \cdot H) H) / r, \quad \bar U = \bar V [U > 0], \quad
    \bar W = \bar U^T P, \quad \bar b = \textstyle\sum \bar U, \quad \bar H_{l-1} = \hat A \bar U W + \bar V

The Hessian-vector product is the derivative of both in the direction :math:`\dot W, \dot b`, with

.. math::
    \dot H = (\dot V - (H \cdot \dot V) H) / r, \quad
    \dot{\bar V} = \big(\dot{\bar H} - (\dot{\bar H} \cdot H + \bar H \cdot \dot H) H - (\bar H \cdot H) \dot H
    - (H \cdot \dot V) \bar V \big) / r

Weights that differ from task to task are [T, C, F], those of rows ``bounds[t] .. bounds[t + 1]`` being [t]. The
adjacency matrix is symmetric: episodes have every edge both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgmtl.methods.same.episodes import Block
from fastgmtl.methods.same.model import SHORTEST, Encoder
from fastgmtl.ops import gcn_norm, spmm

Weights = list[Tensor]  # W, b of each layer in turn


@dataclass
class Layer:
    """What the forward pass of a layer leaves, then its backward pass (``bar`` names)."""

    p: Tensor
    r: Tensor
    h: Tensor
    inverse: Tensor | None  # 1 / norm [n, 1]; None without normalisation
    bar_h: Tensor | None = None
    bar_v: Tensor | None = None
    bar_u: Tensor | None = None
    along: Tensor | None = None  # bar_h . h [n, 1]


class Tape:
    """One pass of the encoder over a block with given weights: forward, backward, Hessian-vector product."""

    def __init__(self, encoder: Encoder, block: Block, weights: Weights) -> None:
        self.residual, self.normalize = encoder.residual, encoder.normalize
        self.graph, self.edge = gcn_norm(block.graph, dtype=block.x.dtype)
        self.bounds = block.bounds
        self.weights = weights
        self.layers: list[Layer] = []
        self._products: Tensor | None = None
        p = block.smooth
        for place in range(len(weights) // 2):
            w, b = weights[2 * place : 2 * place + 2]
            if place:
                p = self._spread(self.layers[-1].h)
            r = self._affine(p, w, b).relu_()
            v = r + self.layers[-1].h if self._adds(place) else r
            self.layers.append(Layer(p, r, *self._unit(v)))

    @property
    def h(self) -> Tensor:
        """The embeddings [n, d]."""
        return self.layers[-1].h

    def backward(self, bar_h: Tensor, shared: bool) -> Weights:
        """Gradients of the weights from that of h: of all rows together if ``shared``, else for each task."""
        found: Weights = []
        for place in reversed(range(len(self.layers))):
            layer, w = self.layers[place], self.weights[2 * place]
            layer.bar_h = bar_h
            if layer.inverse is None:
                layer.bar_v = bar_h
            else:
                layer.along = self._dot(bar_h, layer.h)
                layer.bar_v = torch.addcmul(bar_h, layer.along, layer.h, value=-1).mul_(layer.inverse)
            layer.bar_u = _passed(layer.bar_v, layer.r)
            found = [self._outer(layer.bar_u, layer.p, shared), self._total(layer.bar_u, shared), *found]
            if place:
                bar_h = self._spread(self._times(layer.bar_u, w))
                if self._adds(place):
                    bar_h = bar_h.add_(layer.bar_v)
        return found

    def tangent(self, direction: Weights) -> list[Any]:
        """(dot P, dot H, H . dot V) of each layer for a direction of the weights; None where it is 0 or not needed."""
        found: list[Any] = []
        for place, layer in enumerate(self.layers):
            dw, db = direction[2 * place : 2 * place + 2]
            du = self._affine(layer.p, dw, db)
            dp = None
            if place:
                dp = self._spread(found[-1][1])
                self._add_product(du, dp, self.weights[2 * place])
            dv = _passed(du, layer.r, du)
            if self._adds(place):
                dv = dv.add_(found[-1][1])
            if layer.inverse is None:
                found.append((dp, dv, None))
            else:
                slope = self._dot(layer.h, dv)
                found.append((dp, dv.addcmul_(slope, layer.h, value=-1).mul_(layer.inverse), slope))
        return found

    def hessian(self, tangent: Sequence[Any], dot_bar_h: Tensor, direction: Weights, shared: bool) -> Weights:
        """The derivative of what :meth:`backward` gave, in the direction of ``tangent``."""
        found: Weights = []
        for place in reversed(range(len(self.layers))):
            layer, (dp, dh, slope) = self.layers[place], tangent[place]
            assert layer.bar_v is not None and layer.bar_h is not None and layer.bar_u is not None
            if layer.inverse is None:
                dot_v = dot_bar_h
            else:
                assert layer.along is not None
                along = self._dot(dot_bar_h, layer.h).add_(self._dot(layer.bar_h, dh))
                dot_v = torch.addcmul(dot_bar_h, along, layer.h, value=-1)
                dot_v = dot_v.addcmul_(layer.along, dh, value=-1).addcmul_(slope, layer.bar_v, value=-1)
                dot_v = dot_v.mul_(layer.inverse)
            dot_u = _passed(dot_v, layer.r)
            into_w = self._outer(dot_u, layer.p, shared)
            if dp is not None:
                into_w = into_w.add_(self._outer(layer.bar_u, dp, shared))
            found = [into_w, self._total(dot_u, shared), *found]
            if place:
                back = self._times(dot_u, self.weights[2 * place])
                self._add_product(back, layer.bar_u, direction[2 * place], transposed=False)
                dot_bar_h = self._spread(back)
                if self._adds(place):
                    dot_bar_h = dot_bar_h.add_(dot_v)
        return found

    # ------------------------------------------------------------------------------------------- products

    def _adds(self, place: int) -> bool:
        return self.residual and place > 0

    def _spread(self, h: Tensor) -> Tensor:
        return spmm(self.graph, h, self.edge)

    def _unit(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.normalize:
            return v, None
        norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        inverse = torch.where(norm > SHORTEST, norm.reciprocal(), 0)
        return v * inverse, inverse

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Of the rows of two matrices as h: [n, 1]. The products have one memory for all calls."""
        if self._products is None:
            self._products = torch.empty_like(a)
        return torch.mul(a, b, out=self._products).sum(1, keepdim=True)

    def slices(self) -> list[slice]:
        """Rows of each task."""
        return [slice(a, b) for a, b in pairwise(self.bounds)]

    def _affine(self, p: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """p W^T + b."""
        if w.dim() == 2:
            return torch.addmm(b, p, w.t())
        out = p.new_empty(p.size(0), w.size(1))
        for task, rows in enumerate(self.slices()):
            torch.addmm(b[task], p[rows], w[task].t(), out=out[rows])
        return out

    def _times(self, u: Tensor, w: Tensor) -> Tensor:
        """u W."""
        if w.dim() == 2:
            return u @ w
        out = u.new_empty(u.size(0), w.size(2))
        for task, rows in enumerate(self.slices()):
            torch.mm(u[rows], w[task], out=out[rows])
        return out

    def _add_product(self, out: Tensor, x: Tensor, w: Tensor, transposed: bool = True) -> None:
        """out += x W^T (or x W)."""
        if w.dim() == 2:
            out.addmm_(x, w.t() if transposed else w)
            return
        for task, rows in enumerate(self.slices()):
            out[rows].addmm_(x[rows], w[task].t() if transposed else w[task])

    def _outer(self, u: Tensor, p: Tensor, shared: bool) -> Tensor:
        """u^T p, [C, F] or [T, C, F]."""
        if shared:
            return u.t() @ p
        out = u.new_empty(len(self.bounds) - 1, u.size(1), p.size(1))
        for task, rows in enumerate(self.slices()):
            torch.mm(u[rows].t(), p[rows], out=out[task])
        return out

    def _total(self, u: Tensor, shared: bool) -> Tensor:
        """Sums over rows, [C] or [T, C]."""
        return u.sum(0) if shared else torch.stack([u[rows].sum(0) for rows in self.slices()])


def _passed(v: Tensor, r: Tensor, out: Tensor | None = None) -> Tensor:
    """v where the relu's output r is positive, else 0."""
    if out is None:
        return torch.ops.aten.threshold_backward(v, r, 0)
    return torch.ops.aten.threshold_backward.grad_input(v, r, 0, grad_input=out)

"""A call of an operator on drawn operands: what the generated tests run, differentiate, compile and batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgmtl import Graph, reference
from fastgmtl.ops.lists import ListOperator
from fastgmtl.ops.operator import Operator, flatten


@dataclass
class Draw:
    """Operands for one graph; every draw takes the next numbers of its generator."""

    graph: Graph
    tasks: int
    width: int
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def nodes(self, side: str, rank: int) -> Tensor:
        """Features of the "src" or "dst" nodes, [n, d] (rank 2) or [n, T, d] (rank 3)."""
        n = self.graph.num_src if side == "src" else self.graph.num_dst
        return self.normal(n, self.width) if rank == 2 else self.normal(n, self.tasks, self.width)

    def weight(self, kind: str) -> Tensor | None:
        """None, [E] or [E, T]."""
        if kind == "none":
            return None
        return self.normal(self.graph.num_edges, *([self.tasks] if kind == "ET" else []))

    def heads(self, side: str, *axes: int) -> Tensor:
        """[n, *axes] for the "src" or "dst" nodes, the "edge"s or the three "type"s."""
        graph = self.graph
        rows = {"src": graph.num_src, "dst": graph.num_dst, "edge": graph.num_edges, "type": 3}[side]
        return self.normal(rows, *axes)

    def labels(self, *shape: int) -> Tensor:
        """0, 1 or -1 (missing), int32."""
        return torch.randint(-1, 2, shape, generator=self.generator, dtype=torch.int32)

    def edge_type(self) -> Tensor:
        """The type of each edge, in [0, 3)."""
        return (torch.arange(self.graph.num_edges) % 3).to(self.graph.col.dtype)

    def arg(self, rank: int) -> Tensor:
        """The edge that each output element of an extreme came from, some -1."""
        shape = (self.graph.num_dst, self.width) if rank == 2 else (self.graph.num_dst, self.tasks, self.width)
        message = torch.rand(self.graph.num_edges, *shape[1:], generator=self.generator)
        position = reference.trilinear.winners(self.graph, message, True)
        ids = torch.arange(self.graph.num_edges) if self.graph.edge_id is None else self.graph.edge_id.long()
        if self.graph.num_edges == 0:
            return torch.full(shape, -1, dtype=self.graph.col.dtype)
        return torch.where(position >= 0, ids[position.clamp(min=0)], -1).to(self.graph.col.dtype)


@dataclass(frozen=True)
class Call:
    """An operator on drawn operands: ``run(*tensors)`` is it, ``twin(*tensors)`` the same in plain PyTorch.

    ``operator`` is what runs within (None for the public functions), called as ``operator(graph, *tensors,
    *options)``. ``floats`` are the positions of the tensors that have a gradient.
    """

    name: str
    graph: Graph
    tensors: tuple[Tensor | None, ...]
    run: Callable[..., Tensor | tuple[Tensor, ...]]
    twin: Callable[..., Tensor | tuple[Tensor, ...]]
    operator: Operator | ListOperator | None = None
    options: tuple[object, ...] = ()
    lists: tuple[int, ...] = ()  # of an operator on lists: how many of the tensors belong to each

    def library_arguments(self, tensors: Sequence[Tensor | None]) -> tuple[object, ...]:
        """What the operator takes as an op of ``torch.library``."""
        if self.lists:
            return (*map(list, split(tensors, self.lists)), *self.options)
        takes_graph = isinstance(self.operator, Operator) and self.operator.takes_graph
        return (*flatten(self.graph if takes_graph else None), *tensors, *self.options)

    @property
    def floats(self) -> list[int]:
        return [i for i, t in enumerate(self.tensors) if t is not None and t.is_floating_point()]

    def of_floats(
        self, function: Callable[..., Tensor | tuple[Tensor, ...]]
    ) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """``function`` of the floating point tensors alone; of its outputs, those that are floating point."""

        def call(*floats: Tensor) -> Tensor | tuple[Tensor, ...]:
            tensors = list(self.tensors)
            for i, value in zip(self.floats, floats, strict=True):
                tensors[i] = value
            out = function(*tensors)
            if isinstance(out, tuple):
                out = tuple(o for o in out if o.is_floating_point())
                return out[0] if len(out) == 1 else out
            return out

        return call

    def inputs(self, requires_grad: bool = False) -> list[Tensor]:
        """Fresh copies of the floating point tensors."""
        return [self.tensors[i].detach().clone().requires_grad_(requires_grad) for i in self.floats]  # type: ignore[union-attr]


def split(values: Sequence[Tensor | None], lengths: Sequence[int]) -> list[tuple[Tensor | None, ...]]:
    """Consecutive parts of the given lengths."""
    ends = list(itertools.accumulate(lengths))
    return [tuple(values[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


Maker = Callable[[Draw], Call]


def internal(
    name: str, operator: Operator, tensors: Callable[[Draw], tuple[Tensor | None, ...]], **values: object
) -> Maker:
    options = tuple(values[option] for option, _ in operator.options)

    def make(draw: Draw) -> Call:
        graph = draw.graph if operator.takes_graph else None
        return Call(
            name,
            draw.graph,
            tensors(draw),
            lambda *t: operator(graph, *t, *options),
            lambda *t: operator.reference(graph, *t, *options),
            operator,
            options,
        )

    return make

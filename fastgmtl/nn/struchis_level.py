"""The arithmetic of one level of StrucHIS, and a backward that makes again what forward does not keep.

Forward keeps h, the masks of dropout and the parameters. The aggregates of a node type (N_type x R x T x d) and its
gates are several times as large as h, and cheap to make: nodes are mixed a block at a time, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl.hetero import HeteroGraph, Packed
from fastgmtl.nn.linear import task_product
from fastgmtl.ops.attention import attention
from fastgmtl.ops.operator import is_batched, is_transformed
from fastgmtl.ops.relation_gate import relation_gate

if TYPE_CHECKING:
    from fastgmtl.nn.struchis_layer import StrucHISLayer

Params = Mapping[str, Tensor]
Tables = Sequence[Tensor]

BLOCK = 1 << 21, 1 << 28  # bytes of the aggregates of the nodes that are mixed at once, on CPUs and on GPUs


@dataclass(frozen=True)
class Centre:
    """A node type of a group: its place in the group and among all types, its nodes in h, and what drops for it."""

    place: int
    number: int
    rows: slice
    packed: Packed
    mask: Tensor | None
    seed: Tensor | None


class Level:
    """h' of h and parameters p, for one graph and, in training, for the dropout of one call.

    Node types are in groups whose neighbours have the same mask: as described all of them, as released each by itself.
    """

    def __init__(self, layer: StrucHISLayer, graph: HeteroGraph, h: Tensor) -> None:
        self.layer, self.chance = layer, layer.dropout if layer.training else 0.0
        self.released = layer.variant == "as_released"
        shared = None if self.released else self._mask(h)
        self.groups: list[tuple[Tensor | None, list[Centre]]] = []
        for number, name in enumerate(layer.node_types):
            rows, packed = graph.rows(name), graph.packed(name)
            meets = packed.num_relations > 0
            own = self._mask(h[rows]) if self.released and meets else None
            if self.released or not self.groups:
                self.groups.append((self._mask(h) if self.released and meets else shared, []))
            centres = self.groups[-1][1]
            seed = torch.randint(2**62, (1,), device=h.device) if self.chance and meets else None
            centres.append(Centre(len(centres), number, rows, packed, own, seed))

    def _mask(self, h: Tensor) -> Tensor | None:
        if not self.chance:
            return None
        return torch.empty(h.shape, dtype=torch.bool, device=h.device).bernoulli_(1 - self.chance)

    def _kept(self, h: Tensor, mask: Tensor | None) -> Tensor:
        return h if mask is None else (h * mask).mul_(1 / (1 - self.chance))

    # ------------------------------------------------------------------------------------------- the three steps

    def tables(self, mask: Tensor | None, centres: Sequence[Centre], h: Tensor, p: Params) -> tuple[Tensor, ...]:
        """What a group shares: h after dropout; scores of neighbours and of centres [T, N, group]; those of relations.

        As released also the table of the centre, after the dropout of its own.
        """
        x = self._kept(h, mask).contiguous()
        own = self._kept(h[centres[0].rows], centres[0].mask) if self.released else x
        # a . W x = (W' a) . x, and W commutes with the sum over neighbours: x is gathered, W is applied to rows.
        weight = p["weight"][centres[0].number : centres[-1].number + 1]
        to_src, to_dst = (torch.einsum("ctod,to->tdc", weight, p[name]) for name in ("att_src", "att_dst"))
        of_relation = torch.einsum("tro,tod,td->rt", p["relation"], p["weight_relation"], p["att_relation"])
        if self.released:
            src, dst = (torch.bmm(v.transpose(0, 1), to) for v, to in ((x, to_src), (own, to_dst)))
            return x, src, dst, of_relation, own
        src, dst = torch.bmm(x.transpose(0, 1), torch.cat([to_src, to_dst], 2)).chunk(2, 2)
        return x, src, dst, of_relation

    def sums(self, centre: Centre, tables: Tables) -> Tensor | None:
        """[N_type, R, T, d]: what the aggregates are before W; None where there is no relation."""
        packed, (x, src, dst, of_relation) = centre.packed, tables[:4]
        if not packed.num_relations:
            return None
        score_dst = dst[:, slice(None) if self.released else centre.rows, centre.place].t()
        y = attention(
            packed.graph,
            x.unsqueeze(2),
            score_dst=(score_dst.unsqueeze(1) + of_relation[list(packed.relation_ids)]).flatten(0, 1).unsqueeze(2),
            score_src=src[:, :, centre.place].t().unsqueeze(2),
            negative_slope=self.layer.negative_slope,
            dropout=self.chance,
            dropout_on="logits",
            seed=centre.seed,
        )
        assert isinstance(y, Tensor)
        return y.squeeze(2).unflatten(0, (packed.num_nodes, packed.num_relations))

    def aggregates(self, centre: Centre, y: Tensor, p: Params) -> Tensor:
        """z [n, R, T, d] of as many rows of :meth:`sums`."""
        return task_product(y.flatten(0, 1), p["weight"][centre.number]).unflatten(0, y.shape[:2])

    def mixed(self, centre: Centre, h: Tensor, y: Tensor | None, own: Tensor | None, p: Params) -> Tensor:
        """Rows of h' from the same rows of h, of the sums and, as released, of the table of the centre."""
        kept = task_product(h, p["res.weight"], p["res.bias"]) if "res.weight" in p else None
        if y is None:
            return torch.zeros_like(h) if kept is None else F.elu(kept)
        z, layer, logits = self.aggregates(centre, y, p), self.layer, None
        if layer.sharing != "none":
            logits = gate_logits(layer.node_types[centre.number], h if own is None else torch.cat([own, own], -1), p)
        if layer.sharing == "relation":
            assert logits is not None
            return relation_gate(z, logits, p["att_out"], kept, activation="elu")
        share = torch.einsum("nrtd,td->nrt", z, p["att_out"]).softmax(1)
        total = torch.einsum("nrt,nrtd->ntd", share, z)
        if logits is not None:
            return relation_gate(total.unsqueeze(1), logits, None, kept, activation="elu")
        return F.elu(total if kept is None else total + kept)

    # ------------------------------------------------------------------------------------------- all nodes

    def blocks(self, centre: Centre, h: Tensor) -> Iterator[tuple[slice, slice]]:
        """Nodes of a type that are mixed at once: their places in h and among the nodes of the type."""
        each = max(1, centre.packed.num_relations) * h.size(1) * h.size(2) * h.element_size()
        size, first, number = max(1, BLOCK[h.is_cuda] // max(1, each)), centre.rows.start, centre.packed.num_nodes
        for begin in range(0, number, size):
            end = min(begin + size, number)
            yield slice(first + begin, first + end), slice(begin, end)

    def parts(self, h: Tensor, p: Params) -> Iterator[Tensor]:
        """h', a block of nodes after the other."""
        for mask, centres in self.groups:
            tables = self.tables(mask, centres, h, p)
            own = tables[4] if self.released else None
            for centre in centres:
                y = self.sums(centre, tables)
                for rows, here in self.blocks(centre, h):
                    yield self.mixed(centre, h[rows], _at(y, here), _at(own, here), p)

    def gradients(self, g: Tensor, h: Tensor, p: Params) -> tuple[Tensor | None, ...]:
        """Gradients of h and of each of p for the gradient g of h'; they have no graph of their own."""
        h_leaf, leaves = _leaf(h), {name: _leaf(value) for name, value in p.items()}
        d_h = torch.zeros(h.shape, dtype=h.dtype, device=h.device)
        d_p: list[Tensor | None] = [None] * len(leaves)
        for mask, centres in self.groups:
            with torch.enable_grad():
                made = self.tables(mask, centres, h_leaf, leaves)
            tables = [_leaf(table) for table in made]
            d_tables: list[Tensor | None] = [None] * len(tables)
            own = tables[4] if self.released else None
            d_own = None if own is None else torch.zeros_like(own)
            for centre in centres:
                with torch.enable_grad():
                    y = self.sums(centre, tables)
                d_y = None if y is None else torch.empty_like(y)
                for rows, here in self.blocks(centre, h):
                    x, y_here, own_here = _leaf(h[rows]), _at(y, here, _leaf), _at(own, here, _leaf)
                    with torch.enable_grad():
                        out = self.mixed(centre, x, y_here, own_here, leaves)
                    if not out.requires_grad:  # 0
                        continue
                    some = [v for v in (x, y_here, own_here) if v is not None]
                    found = torch.autograd.grad(out, (*some, *leaves.values()), g[rows], allow_unused=True)
                    _add(d_h[rows], found[0])
                    if d_y is not None:
                        d_y[here] = found[1]
                        if d_own is not None:
                            _add(d_own[here], found[2])
                    d_p = _sums(d_p, found[len(some) :])
                if y is not None:
                    d_tables = _sums(d_tables, torch.autograd.grad(y, tables, d_y, allow_unused=True))
                del y, d_y
            d_tables[4:] = [] if d_own is None else [d_own]
            reached = [(table, d) for table, d in zip(made, d_tables, strict=True) if d is not None]
            if reached:
                found = torch.autograd.grad(
                    [table for table, _ in reached],
                    (h_leaf, *leaves.values()),
                    [d for _, d in reached],
                    allow_unused=True,
                )
                _add(d_h, found[0])
                d_p = _sums(d_p, found[1:])
        return d_h, *d_p


class _Again(torch.autograd.Function):
    """h' of h and parameters, of which nothing but these (and masks) is kept for backward."""

    @staticmethod
    def forward(ctx: Any, level: Level, names: tuple[str, ...], h: Tensor, *values: Tensor) -> Tensor:
        ctx.level, ctx.names = level, names
        ctx.save_for_backward(h, *values)
        out, begin = torch.empty(h.shape, dtype=h.dtype, device=h.device), 0
        for part in level.parts(h, dict(zip(names, values, strict=True))):
            out[begin : begin + len(part)] = part
            begin += len(part)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (h, *values), needs = grads, ctx.saved_tensors, ctx.needs_input_grad[2:]
        p = dict(zip(ctx.names, values, strict=True))
        if not torch.is_grad_enabled() and not is_transformed() and not is_batched(g):
            found = ctx.level.gradients(g, h, p)
            return None, None, *(d if need else None for d, need in zip(found, needs, strict=True))
        # A gradient that has one itself: that of the steps one after the other, all nodes at once.
        wanted = [value for value, need in zip((h, *values), needs, strict=True) if need]
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            out = torch.cat(list(ctx.level.parts(h, p)))
        some = iter(torch.autograd.grad(out, wanted, g, create_graph=create, allow_unused=True))
        return None, None, *(next(some) if need else None for need in needs)


def run(level: Level, h: Tensor, p: Params) -> Tensor:
    """h' [N, T, d] of h and parameters by name."""
    if is_transformed() or is_batched(h):
        return torch.cat(list(level.parts(h, p)))
    out: Tensor = _Again.apply(level, tuple(p), h, *p.values())
    return out


def gate_logits(name: str, given: Tensor, p: Params) -> Tensor:
    """Logits [n, R (1 if sharing is by layer), T, T] of the gates of a node type, from what they see [n, T, *]."""
    first, bias, last = (p[f"gates.{name}.{part}"] for part in ("0.weight", "0.bias", "2.weight"))
    out = task_product(task_product(given, first, bias).relu(), last)
    return out.unflatten(-1, (-1, first.size(0))).permute(0, 2, 3, 1)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _at(value: Tensor | None, rows: slice, then: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor | None:
    return None if value is None else then(value[rows])


def _add(total: Tensor, value: Tensor | None) -> None:
    if value is not None:
        total += value


def _sums(sums: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> list[Tensor | None]:
    both = zip(sums, found, strict=True)
    return [b if a is None else a if b is None else a + b for a, b in both]

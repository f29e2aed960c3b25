"""Part: the nodes of a graph that one rank has, the edges into them, and what it takes from and gives to the others."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from fastgmtl.distributed.exchange import exchange, start, wait
from fastgmtl.distributed.world import World
from fastgmtl.graph import Graph
from fastgmtl.ops.spmm import spmm

_STORED = ("row_ptr", "col", "edge_id", "pattern")


class Part(Graph):
    r"""What one rank has of a graph whose nodes are divided among W ranks.

    Layers that sum, average or take extremes over neighbours (SAGEConv, GCNConv, GINConv, GraphConv) take a Part where
    they take a Graph: features are [n, ...], those of the n nodes of this rank. The rows of neighbours on other ranks,
    the halo, travel for each aggregation; rows that need none (*interior*) are summed meanwhile. All ranks must make
    the same calls in the same order, a rank without nodes too. Other operators refuse a Part.

    nodes: int64 [n], the numbers that this rank's nodes have in the whole graph: first the interior ones, then those
        with neighbours elsewhere (*boundary*).
    halo: int64 [h], those of the neighbours elsewhere, by rank and then by number; ``recv`` [W]: how many of each rank.
    send: int64 [s], rows of this rank that others need, rank by rank; ``send_to`` [W]: how many go to each.
    interior: Graph from the n own nodes to the interior ones. boundary: from own nodes and halo to the others.
    edges: int64 [E'], where the edges into own nodes stand in the whole graph's order: interior ones first. Weights of
        edges are in that order.
    """

    nodes: Tensor
    halo: Tensor
    send: Tensor
    recv: list[int]
    send_to: list[int]
    interior: Graph
    boundary: Graph
    edges: Tensor
    world: World
    num_nodes: int  # of the whole graph
    parted = True

    def __init__(self, world: World, num_nodes: int, **values: Any) -> None:
        """Wrap what is known to be valid; :meth:`of` makes one."""
        nodes, inner, outer = values["nodes"], values["interior"], values["boundary"]
        values |= {
            "world": world,
            "num_nodes": num_nodes,
            "num_src": nodes.numel(),
            "num_dst": nodes.numel(),
            "num_edges": inner.num_edges + outer.num_edges,
            "device_type": nodes.device.type,
            "_lazy": {},
            "_made": {},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, graph: Graph, owner: Tensor, world: World) -> Part:
        """The part of rank ``world.rank`` of a square graph, whose node i is on rank ``owner[i]`` (int64 [N]).

        Needs no messages: every rank finds from the whole graph what the others will ask for.
        """
        n, rank = graph.num_dst, world.rank
        if not graph.is_square or list(owner.shape) != [n]:
            raise ValueError(
                f"Part.of: a square graph and owner [N] are required, got {graph.num_src} to {n} nodes and "
                f"{list(owner.shape)}"
            )
        if owner.numel() and not 0 <= int(owner.min()) <= int(owner.max()) < world.size:
            raise IndexError(
                f"Part.of: owner must be in [0, {world.size}), got {int(owner.min())} to {int(owner.max())}"
            )
        owner = owner.to(graph.device)
        src, dst = graph.edge_index()
        mine = owner == rank
        edges = mine[dst].nonzero()[:, 0]
        out = mine[src] & ~mine[dst]
        keys = (owner[dst[out]] * n + src[out]).unique()
        src, dst = src[edges], dst[edges]
        foreign = ~mine[src]
        rim = torch.zeros_like(mine)
        rim[dst[foreign]] = True
        nodes = torch.cat([(mine & ~rim).nonzero()[:, 0], (mine & rim).nonzero()[:, 0]])
        halo = src[foreign].unique()
        halo = halo[owner[halo].argsort(stable=True)]
        place = torch.empty_like(owner)
        place[torch.cat([nodes, halo])] = torch.arange(nodes.numel() + halo.numel(), device=owner.device)
        return cls._assembled(
            world,
            n,
            place[src],
            place[dst],
            int((mine & ~rim).sum()),
            nodes=nodes,
            halo=halo,
            edges=edges,
            recv=owner[halo].bincount(minlength=world.size).tolist(),
            send=place[keys % max(1, n)],
            send_to=torch.div(keys, max(1, n), rounding_mode="floor").bincount(minlength=world.size).tolist(),
        )

    @classmethod
    def _assembled(cls, world: World, num_nodes: int, src: Tensor, dst: Tensor, inner: int, **values: Any) -> Part:
        """From edges between rows of own nodes and halo, ``inner`` of the own nodes interior."""
        n, h = values["nodes"].numel(), values["halo"].numel()
        outer = dst >= inner
        pairs = torch.stack([src, dst])
        values["edges"] = torch.cat([values["edges"][~outer], values["edges"][outer]])
        values["interior"] = Graph.from_edge_index(pairs[:, ~outer], n, inner)
        last = pairs[:, outer] - torch.tensor([[0], [inner]], device=pairs.device)
        values["boundary"] = Graph.from_edge_index(last, n + h, n - inner)
        return cls(world, num_nodes, **values)

    def __getattr__(self, name: str) -> NoReturn:
        if name in _STORED:
            raise TypeError(
                "a Part of a graph is for layers that sum, average or take extremes over neighbours (SAGEConv, "
                "GCNConv, GINConv, GraphConv); other layers and operators need the whole Graph"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def device(self) -> torch.device:
        """Of the index tensors."""
        return self.nodes.device

    def in_degree(self) -> Tensor:
        """Number of edges into each own node, int64 [n]."""
        return torch.cat([self.interior.in_degree(), self.boundary.in_degree()])

    def local_edges(self) -> Tensor:
        """int64 [2, E'], in the order of ``edges``: sources among own nodes and halo, own destinations."""
        shift = torch.tensor([[0], [self.interior.num_dst]], device=self.device)
        return torch.cat([self.interior.edge_index(), self.boundary.edge_index() + shift], 1)

    def with_halo(self, x: Tensor) -> Tensor:
        """x [n, ...] of own nodes with the rows of the halo after them, [n + h, ...]. Differentiable to any order."""
        if self.world.size == 1:
            return x
        return torch.cat([x, exchange(x.index_select(0, self.send), self.send_to, self.recv, self.world.group)])

    def aggregate(self, x: Tensor, weight: Tensor | None = None, reduce: str = "sum") -> Tensor:
        """:func:`fastgmtl.ops.spmm` over the whole graph: from x [n, d] or [n, T, d] of own nodes to their results.

        weight: None, [E'] or [E', T], in the order of ``edges``. Differentiable to any order.
        """
        if self.world.size == 1:
            return spmm(self.interior, x, weight, reduce)
        token, flight = start(x.index_select(0, self.send), self.send_to, self.recv, self.world.group)
        ours = theirs = None
        if weight is not None:
            ours, theirs = weight.split([self.interior.num_edges, self.boundary.num_edges])
        inner = spmm(self.interior, x, ours, reduce)
        rows = torch.cat([x, wait(token, flight)])
        return torch.cat([inner, spmm(self.boundary, rows, theirs, reduce)])

    def gcn_norm(
        self, weight: Tensor | None, add_self_loops: bool, improved: bool, dtype: torch.dtype
    ) -> tuple[Part, Tensor]:
        """:func:`fastgmtl.ops.gcn_norm` over the whole graph: this rank's part of the result, and its weights."""
        if weight is not None:
            return self._normalised(weight, add_self_loops, improved)
        key = ("gcn_norm", add_self_loops, improved, dtype)
        ones = torch.ones(self.num_edges, dtype=dtype, device=self.device)
        return self._once(key, lambda: self._normalised(ones, add_self_loops, improved))

    def _normalised(self, weight: Tensor, loops: bool, improved: bool) -> tuple[Part, Tensor]:
        part, wide = self, weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
        if loops:
            part, wide = self._looped(wide, 2.0 if improved else 1.0)
        src, dst = part.local_edges()
        ones = wide.new_ones(self.num_dst + self.halo.numel(), 1)
        ours, theirs = wide.split([part.interior.num_edges, part.boundary.num_edges])
        degree = [spmm(part.interior, ones[: self.num_dst], ours), spmm(part.boundary, ones, theirs)]
        found = torch.cat(degree).squeeze(-1)
        positive = found > 0
        scale = part.with_halo(torch.where(positive, torch.where(positive, found, 1).rsqrt(), 0))
        return part, (scale[src] * wide * scale[dst]).to(weight.dtype)

    def _looped(self, weight: Tensor, fill: float) -> tuple[Part, Tensor]:
        """With a loop for every node, which has the weight of the last loop that was there, or ``fill``."""
        src, dst = self.local_edges()
        own, loop = torch.arange(self.num_dst, device=self.device), src == dst
        last = own.new_full((self.num_dst,), -1)
        place = torch.arange(self.num_edges, device=self.device)
        last = last.scatter_reduce(0, dst, torch.where(loop, place, -1), "amax")
        added = weight.new_full((self.num_dst, *weight.shape[1:]), fill)
        if weight.dim() == 2:
            loop, last_there = loop.unsqueeze(1), (last >= 0).unsqueeze(1)
        else:
            last_there = last >= 0
        if self.num_edges:
            added = torch.where(last_there, weight[last.clamp(min=0)], added)
        inner = self.interior.num_dst
        dst = torch.cat([dst, own])
        outer = dst >= inner
        order = outer.long().argsort(stable=True)
        values = {k: getattr(self, k) for k in ("nodes", "halo", "recv", "send", "send_to")}
        # Where the edges of this graph stand among all is asked of the part that was given.
        part = Part._assembled(
            self.world, self.num_nodes, torch.cat([src, own]), dst, inner, edges=order.new_zeros(len(dst)), **values
        )
        return part, torch.cat([torch.where(loop, 0, weight), added])[order]

    def collect(self, rows: Tensor, *values: Tensor) -> list[Tensor] | None:
        """``values`` [k, ...] of own nodes ``rows`` [k], of all ranks, in the order of nodes; None but on rank 0."""
        group, size = self.world.group, self.world.size
        nodes = self.nodes[rows]
        if size > 1:
            counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(size)]
            dist.all_gather(counts, torch.tensor([rows.numel()], device=self.device), group=group)
            send = [rows.numel()] + [0] * (size - 1)
            recv = [int(c) if self.world.rank == 0 else 0 for c in counts]
            nodes, values = exchange(nodes, send, recv, group), tuple(exchange(v, send, recv, group) for v in values)
        if self.world.rank:
            return None
        order = nodes.argsort()
        return [value[order] for value in values]

    def to(self, device: torch.device | str) -> Part:
        """On another device."""
        if torch.device(device) == self.device:
            return self
        names = ("nodes", "halo", "send", "interior", "boundary", "edges")
        moved = {name: getattr(self, name).to(device) for name in names}
        return Part(self.world, self.num_nodes, **moved, recv=self.recv, send_to=self.send_to)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Part belongs to the processes of one run and cannot be pickled; save Graph and owners")

    def __repr__(self) -> str:
        return (
            f"Part({self.world}: {self.num_dst} of {self.num_nodes} nodes, {self.interior.num_dst} of them interior, "
            f"{self.num_edges} edges, halo {self.halo.numel()}, device='{self.device}')"
        )

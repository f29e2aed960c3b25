"""The gradients of T tasks on several ranks: what is added, what is compared, what is drawn by one for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from fastgmtl import ops
from fastgmtl.gradients.base import Aggregator, GramAggregator
from fastgmtl.ops.check import one_of

Weigh: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
Solved: TypeAlias = tuple[list[Any], Tensor, Tensor]
SYNCS = ("auto", "all_reduce", "reduce_scatter", "local_gram")


def several(group: Any) -> bool:
    """Whether there is more than this process."""
    return dist.is_initialized() and dist.get_world_size(group) > 1


def _flat(tensors: Sequence[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    """One tensor [n] for all of a dtype and device, and which they are."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return [(torch.cat([t.reshape(-1) for t in some]), some) for some in kinds.values()]


def add_up(tensors: Sequence[Tensor], group: Any) -> list[Tensor]:
    """The sums over the ranks of tensors of any shapes, the same on each rank: one message for each dtype."""
    found: dict[int, Tensor] = {}
    for flat, some in _flat(tensors):
        if several(group):
            dist.all_reduce(flat, group=group)
        for tensor, part in zip(some, flat.split([t.numel() for t in some]), strict=True):
            found[id(tensor)] = part.view(tensor.shape)
    return [found[id(t)] for t in tensors]


def add_up_grads(parameters: Sequence[Tensor], group: Any, numbers: Tensor) -> Tensor:
    """Make every ``.grad`` the sum over the ranks; the sum of ``numbers`` too, which travel with them.

    A gradient that is None on some ranks counts as 0 there; where it is on all it stays None. One message a dtype.
    """
    given = [p for p in parameters if p.requires_grad]
    with torch.no_grad():
        there = numbers.new_tensor([float(p.grad is not None) for p in given])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in given]
        numbers, there, *sums = add_up([numbers, there, *grads], group)
        for p, some, value in zip(given, (there > 0).tolist(), sums, strict=True):
            p.grad = value if some else None
    return numbers


class Ranks:
    """The ways of :func:`fastgmtl.gradients.backward` on the ranks of a process group."""

    def __init__(self, group: Any, sync: str, device: torch.device, method: Aggregator, features: bool) -> None:
        one_of("backward", "sync", sync, SYNCS)
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "backward: sync is for several processes, which torch.distributed.init_process_group brings together"
            )
        reads_gram = isinstance(method, GramAggregator)
        if not reads_gram and (features or sync not in ("auto", "all_reduce")):
            raise ValueError(
                f"backward: {type(method).__name__} reads no Gram matrix: on several ranks it takes sync='all_reduce' "
                "and no features"
            )
        if features and sync != "auto":
            raise ValueError(f"backward: with features there is one way, sync='auto', got {sync!r}")
        self.group, self.size, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        if sync == "auto":
            sync = "reduce_scatter" if reads_gram and _backend(group, device) == "nccl" else "all_reduce"
        self.way = sync

    def fill(self, rows: Sequence[Sequence[Tensor | None]], like: Sequence[Tensor]) -> list[list[Tensor | None]]:
        """Zeros where another rank has a gradient, so that all ranks have the same ones."""
        device = like[0].device
        there = torch.tensor([[g is not None for g in row] for row in rows], dtype=torch.uint8, device=device)
        dist.all_reduce(there, dist.ReduceOp.MAX, group=self.group)
        return [
            [
                (torch.zeros_like(p) if g is None else g) if some else None
                for g, p, some in zip(row, like, which, strict=True)
            ]
            for row, which in zip(rows, there.tolist(), strict=True)
        ]

    def summed(self, rows: list[list[Tensor | None]]) -> list[list[Tensor | None]]:
        """T x P: every gradient the sum over the ranks."""
        sums = iter(add_up([g for row in rows for g in row if g is not None], self.group))
        return [[None if g is None else next(sums) for g in row] for row in rows]

    @contextmanager
    def drawing(self, method: Any, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, what ``method`` draws is what rank 0 draws; the other ranks' generators are as before afterwards.

        A generator of the method's own is the same on all ranks afterwards.
        """
        if not hasattr(method, "generator"):
            yield
            return
        device, generator = parameters[0].device, method.generator
        own = generator is not None
        if not own:
            cpu = device.type == "cpu"
            generator = torch.default_generator if cpu else torch.cuda.default_generators[_index(device)]
        before = generator.get_state()
        state = before.to(device, copy=True)  # travels as the gradients do
        dist.broadcast(state, dist.get_global_rank(self.group, 0) if self.group is not None else 0, group=self.group)
        generator.set_state(state.cpu())
        try:
            yield
        finally:
            if not own and self.rank:
                generator.set_state(before)

    def check(self, parameters: Sequence[Tensor], scale: Tensor | None, weights: Tensor | None) -> None:
        """RuntimeError that names the ranks whose parameters, scale or task weights are not those of rank 0."""
        sums = torch.stack([p.detach().sum(dtype=torch.float64) for p in parameters])
        check_same("backward", {"parameters": sums, "scale of the losses": scale, "task weights": weights}, self.group)

    def solve(self, rows: Any, groups: list[int] | None, weigh: Weigh, disjoint: bool) -> Solved:
        """The update [N], the weights and the Gram matrix, from which ``weigh`` makes both.

        ``disjoint``: the coordinates of the ranks are different ones, and the update is of this rank's.
        """
        if not disjoint and self.way == "reduce_scatter":
            shard = Shard(rows, groups, self.group)
            weights, gram = weigh(shard.gram())
            return shard.combine(weights), weights, gram
        gram = ops.gram(rows, groups)
        if disjoint or self.way == "local_gram":
            dist.all_reduce(gram, group=self.group)
        weights, gram = weigh(gram if disjoint or self.way == "all_reduce" else gram * self.size)
        update = ops.combine(rows, weights, groups=groups)
        return add_up(update, self.group) if self.way == "local_gram" else update, weights, gram


def check_same(name: str, values: Mapping[str, Tensor | None], group: Any) -> None:
    """RuntimeError that names the ranks on which one of the values is not what it is on rank 0, bit for bit."""
    if not several(group):
        return
    there = {what: v.detach().reshape(-1).double() for what, v in values.items() if v is not None}
    device = next(iter(there.values())).device
    mine = torch.cat([v.to(device) for v in there.values()])
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, mine, group=group)
    table = torch.stack(found)
    same = (table == table[0]) | (table.isnan() & table[0].isnan())
    for what, columns in zip(there, same.split([v.numel() for v in there.values()], 1), strict=True):
        wrong = (~columns.all(1)).nonzero()[:, 0].tolist()
        if wrong:
            who = f"rank{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong))}"
            raise RuntimeError(
                f"{name}: {what} of {who} differ from those of rank 0; all ranks must begin with the same weights, "
                "make the same steps and use the same method"
            )


class Shard:
    """Columns ``rank * c .. (rank + 1) * c`` of the sum over the ranks of J [T, P], c = P / W rounded up.

    rows: T lists of N tensors or None. groups: the group of each of the N tensors, or None.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor | None]], groups: list[int] | None, group: Any) -> None:
        self.group, self.groups = group, groups
        self.like = [next(g for g in column if g is not None) for column in zip(*rows, strict=True)]
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        self.sizes = [g.numel() for g in self.like]
        total, tasks = sum(self.sizes), len(rows)
        self.width = -(-total // world)
        wide = torch.float64 if any(g.dtype == torch.float64 for g in self.like) else torch.float32
        sent = torch.zeros(world, tasks, self.width, dtype=wide, device=self.like[0].device)
        for t, row in enumerate(rows):
            pairs = zip(row, self.like, strict=True)
            flat = torch.cat([(torch.zeros_like(like) if g is None else g).reshape(-1) for g, like in pairs])
            for r, piece in enumerate(flat.split(self.width)):
                sent[r, t, : piece.numel()] = piece
        self.mine = sent.new_empty(tasks, self.width)
        _collective("reduce_scatter_single", "reduce_scatter_tensor", "_reduce_scatter_base")(
            self.mine, sent.view(world * tasks, self.width), group=group
        )
        self.bounds = self._bounds(rank * self.width)

    def _bounds(self, start: int) -> list[tuple[int, int, int]]:
        """(group, begin, end) of the runs of columns of one group."""
        if self.groups is None:
            return [(0, 0, self.width)] if self.width else []
        found, at = [], -start
        for n, k in zip(self.sizes, self.groups, strict=True):
            low, high = max(0, at), min(self.width, at + n)
            if low < high:
                found.append((k, low, high))
            at += n
        return found

    def gram(self) -> Tensor:
        """[T, T] or [K, T, T], of all columns."""
        tasks = self.mine.size(0)
        count = 1 if self.groups is None else 1 + max(self.groups)
        gram = self.mine.new_zeros(count, tasks, tasks, dtype=torch.float64)
        if self.bounds:
            some = ops.gram(self._rows(), [k for k, _, _ in self.bounds])
            gram[: some.size(0)] = some
        dist.all_reduce(gram, group=self.group)
        return gram[0] if self.groups is None else gram

    def combine(self, weights: Tensor) -> list[Tensor]:
        """N tensors: the weighted sums of the tasks, of all columns."""
        of_groups = weights.unsqueeze(0) if self.groups is None else weights
        update = torch.zeros_like(self.mine[0])
        if self.bounds:
            into = [update[a:b] for _, a, b in self.bounds]
            ops.combine(self._rows(), of_groups, into, groups=[k for k, _, _ in self.bounds])
        whole = update.new_empty(dist.get_world_size(self.group) * self.width)
        _collective("all_gather_single", "all_gather_into_tensor", "_all_gather_base")(whole, update, group=self.group)
        parts = whole[: sum(self.sizes)].split(self.sizes)
        return [p.view(g.shape).to(g.dtype) for p, g in zip(parts, self.like, strict=True)]

    def _rows(self) -> list[list[Tensor]]:
        return [[row[a:b] for _, a, b in self.bounds] for row in self.mine.unbind()]


def _collective(*names: str) -> Callable[..., Any]:
    """The first of the names that this PyTorch has: they have changed."""
    return next(found for name in names if (found := getattr(dist, name, None)) is not None)


def _backend(group: Any, device: torch.device) -> str:
    """The name of what carries tensors of the device."""
    config = getattr(dist, "get_backend_config", dist.get_backend)(group)  # "nccl", or "cpu:gloo,cuda:nccl"
    return "nccl" if device.type == "cuda" and "nccl" in str(config) else "gloo"


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index

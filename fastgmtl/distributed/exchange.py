r"""Sums over ranks, and rows that change ranks, as differentiable functions.

The loss that is differentiated is the sum of the losses of all ranks. Then the gradient of a sum over ranks is a sum
over ranks, and the gradient of rows that were sent travels back: each function is its own backward, up to who sends
what to whom, so any order of derivative is right. Collectives inside a backward need what all collectives need: every
rank differentiates the same things in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None


def _alone(group: Group) -> bool:
    return not dist.is_initialized() or dist.get_world_size(group) == 1


class AllReduce(torch.autograd.Function):
    r""":math:`y = \sum_r x_r`, on every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        """y."""
        ctx.group = group
        y = x.clone(memory_format=torch.contiguous_format)
        if not _alone(group):
            dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The sum of the gradients."""
        return AllReduce.apply(grad, ctx.group), None


def all_reduce(x: Tensor, group: Group = None) -> Tensor:
    """The sum of x [...] over the ranks, on every rank. Differentiable to any order."""
    return AllReduce.apply(x, group)


class Flight:
    """Rows on their way: ``send`` [W] of them to each rank, ``recv`` [W] from each."""

    __slots__ = ("back", "buffer", "group", "recv", "send", "sent", "work")

    def __init__(self, send: Sequence[int], recv: Sequence[int], group: Group) -> None:
        self.send, self.recv, self.group = list(send), list(recv), group
        self.work: Any = None
        self.sent: Tensor | None = None  # has to live until it has left
        self.buffer: Tensor | None = None
        self.back: Flight | None = None


class _Start(torch.autograd.Function):
    """Sends rows; gives a number without a meaning, by which autograd knows who waits for them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, flight: Flight) -> Tensor:
        ctx.flight = flight
        if _alone(flight.group):
            flight.buffer = rows.clone()
            return rows.new_zeros(())
        flight.sent = rows.contiguous()
        flight.buffer = rows.new_empty(sum(flight.recv), *rows.shape[1:])
        flight.work = dist.all_to_all_single(
            flight.buffer, flight.sent, flight.recv, flight.send, group=flight.group, async_op=True
        )
        return rows.new_zeros(())

    @staticmethod
    def backward(ctx: Any, token: Tensor) -> Any:
        return _Wait.apply(token, ctx.flight.back), None


class _Wait(torch.autograd.Function):
    """The rows that have arrived."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, flight: Flight) -> Tensor:
        ctx.flight = flight
        if flight.work is not None:
            flight.work.wait()
        rows, flight.buffer, flight.sent, flight.work = flight.buffer, None, None, None
        assert rows is not None
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # The gradients leave now, and are waited for where the rows had left: what lies between hides the way.
        flight = ctx.flight
        flight.back = Flight(flight.recv, flight.send, flight.group)
        return _Start.apply(grad, flight.back), None


def start(rows: Tensor, send: Sequence[int], recv: Sequence[int], group: Group = None) -> tuple[Tensor, Flight]:
    """Send rows [sum(send), ...], the first ``send[0]`` to rank 0 and so on; what is returned is for :func:`wait`."""
    flight = Flight(send, recv, group)
    return _Start.apply(rows, flight), flight


def wait(token: Tensor, flight: Flight) -> Tensor:
    """The rows [sum(recv), ...] of :func:`start`, those of rank 0 first."""
    return _Wait.apply(token, flight)


def exchange(rows: Tensor, send: Sequence[int], recv: Sequence[int], group: Group = None) -> Tensor:
    r"""Rows [sum(send), ...] to the ranks, and theirs [sum(recv), ...] from them.

    ``all_to_all_single``, whose backward is itself with ``send`` and ``recv`` changed over. Differentiable to any
    order. Between :func:`start` and :func:`wait`, which it is made of, there may be work.
    """
    return wait(*start(rows, send, recv, group))

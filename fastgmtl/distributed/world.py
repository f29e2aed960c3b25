"""The processes of a run: who they are, how they meet, and what one of them decides for all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# How long a collective waits for a rank that is silent. One that was killed is noticed at once: its connections close.
SECONDS = 300.0


class Lost(RuntimeError):
    """Another rank has ended, or did not answer in time."""


class Led(RuntimeError):
    """Rank 0 has failed; the message is what it said."""


@dataclass(frozen=True)
class World:
    """The ranks 0 .. size - 1, of which this process is ``rank``; group None is PyTorch's default group."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    def lead(self, action: Callable[[], T]) -> T:
        """What ``action`` returns on rank 0, on every rank; nobody else calls it.

        What it raises there is raised there; the others raise Led with the same message, instead of waiting for ever.
        """
        if self.size == 1:
            return action()
        failure: Exception | None = None
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                box = [(True, action())]
            except Exception as error:
                failure, box = error, [(False, str(error))]
        dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0) if self.group else 0, group=self.group)
        if failure is not None:
            raise failure
        good, value = box[0]
        if not good:
            raise Led(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor([int(flag)])
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return bool(found.item())

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        found: list[Any] = [None] * self.size
        if self.size == 1:
            return [value]
        dist.all_gather_object(found, value, group=self.group)
        return found


def of_group(group: dist.ProcessGroup | None) -> World:
    """The ranks of a process group; one process where there is none."""
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(group), dist.get_world_size(group), group)


def is_launched() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def follows() -> bool:
    """Whether this is one of several processes that torchrun has started, and not rank 0."""
    return is_launched() and os.environ["RANK"] != "0"


def join(device: torch.device, seconds: float = SECONDS) -> World:
    """Meet the other processes that torchrun has started; without it this process is alone.

    Tensors of a CPU travel by gloo, those of a GPU by nccl; the GPU "cuda" is that of LOCAL_RANK. ``seconds``: how
    long a collective waits for a silent rank. Raises Lost when not all come.
    """
    if not is_launched():
        return World()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    except (RuntimeError, ValueError) as error:
        raise Lost(f"the {os.environ['WORLD_SIZE']} processes did not meet: {_first_line(error)}") from None
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Part from the others. Waits for nobody."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(world: World, error: BaseException) -> Lost | None:
    """What to say of an exception that a collective has raised; None for any other."""
    text = _first_line(error)
    signs = ("gloo", "Gloo", "NCCL", "Connection", "Timed out", "ProcessGroup", "Socket", "peer")
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(s in str(error) for s in signs)):
        return Lost(f"{world}: another rank has ended or does not answer ({text})")
    return None


def _first_line(error: BaseException) -> str:
    """Of a message, its first sentence, without the place in the sources of what raised it."""
    return re.sub(r"\[\S+\.\w+:\d+\] ", "", str(error).strip().split("\n")[0]).split(". ")[0]

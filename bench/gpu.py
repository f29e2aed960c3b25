"""Timing on a GPU: CUDA events around interleaved calls, operands that rotate, memory as the allocator counts it.

A CPU may stand in for the GPU (a clock for the events, no memory): that tests the benches, its times mean nothing.
"""

from __future__ import annotations

import gc
import itertools
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from bench.harness import OURS, Case, Floors, Provider, Seen, Settings

ROUNDS = (20, 60)  # of ours, at least and at most; of a slow peer 5 at least
COPY_BYTES = 2 << 30


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


class Timer:
    """``with timer:`` marks a stretch of the stream's work; ``seconds()`` waits for it."""

    def __enter__(self) -> Timer:
        self._marks = [self._mark()]
        return self

    def __exit__(self, *_: object) -> None:
        self._marks.append(self._mark())

    def seconds(self) -> float:
        start, end = self._marks
        if isinstance(start, float):
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    @staticmethod
    def _mark() -> Any:
        if device().type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def timed(run: Callable[[], Any]) -> float:
    with Timer() as timer:
        run()
    return timer.seconds()


@lru_cache
def copy_bandwidth() -> float:
    """Bytes read plus bytes written in a second by a copy far larger than the caches: the median of 20."""
    size = COPY_BYTES if device().type == "cuda" else COPY_BYTES >> 6
    source = torch.ones(size // 4, device=device())
    target = torch.zeros_like(source)
    timed(lambda: target.copy_(source))
    return 2 * size / float(np.median([timed(lambda: target.copy_(source)) for _ in range(20)]))


def card() -> dict[str, Any]:
    """What the GPU is, as PyTorch and nvidia-smi see it."""
    if device().type != "cuda":
        return {"name": "none: a CPU stands in, times mean nothing"}
    found = torch.cuda.get_device_properties(0)
    asked = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        answer = "nvidia-smi does not answer"
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "l2_mib": getattr(found, "L2_cache_size", 0) >> 20,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        **dict(zip(asked.split(","), (v.strip() for v in answer.split(",")), strict=False)),
    }


def rotating(runs: Iterable[Callable[[], Any]]) -> Callable[[], Any]:
    """One call after the other, over and over: each on operands that the last one has not left in the caches."""
    turn = itertools.cycle(list(runs))
    return lambda: next(turn)()


def _first(provider: Provider) -> Seen:
    """Two calls before the rounds: one is checked and its memory counted, the other is timed."""
    cuda = device().type == "cuda"
    synchronise()
    before = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    result = provider.run()
    synchronise()
    peak = torch.cuda.max_memory_allocated() - before if cuda else None
    error = None if provider.error is None else provider.error(result)
    del result
    return Seen(timed(provider.run), peak, error)


def _if_it_can(provider: Provider) -> Seen | str:
    try:
        return _first(provider)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
    return reason


def measure(settings: Settings, case: Case, providers: Mapping[str, Provider | str], floors: Floors) -> None:
    """Run a case in interleaved rounds and keep its rows. A provider that fails is absent for its error."""
    seen: dict[str, Seen] = {}
    absent = {name: provider for name, provider in providers.items() if isinstance(provider, str)}
    runs = {name: provider for name, provider in providers.items() if not isinstance(provider, str)}
    for name, provider in list(runs.items()):
        found = _first(provider) if name == OURS else _if_it_can(provider)
        if isinstance(found, Seen):
            seen[name] = found
        else:
            absent[name] = found
            del runs[name]
    assert (seen[OURS].error or 0) < (3e-2 if case.dtype == "bfloat16" else 1e-4), f"{case}: {seen[OURS].error}"

    least, most = (2, 3) if settings.quick else ROUNDS
    share = settings.budget / len(runs)
    total = int(np.clip(share / seen[OURS].seconds, least, most))
    turns = {n: int(np.clip(share / s.seconds, min(5, total), total)) for n, s in seen.items() if n != OURS}
    turns[OURS] = total
    marks: dict[str, list[tuple[int, Timer]]] = {name: [] for name in runs}
    for number in range(total):
        for name, provider in runs.items():
            if (number + 1) * turns[name] // total != number * turns[name] // total:
                with Timer() as timer:
                    provider.run()
                marks[name].append((number, timer))
        synchronise()
    times = {name: [(number, timer.seconds()) for number, timer in found] for name, found in marks.items()}
    settings.record(case, seen, times, absent, floors, copy_bandwidth())
    gc.collect()

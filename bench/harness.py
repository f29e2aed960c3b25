"""Interleaved rounds: ours, peer A, peer B, ours, peer A, ... so that a shared machine's drift hits all alike.

Ours is the benchmark of pytest-benchmark; the peers run in the (untimed) setup of each of its rounds and are timed
there. Each timed call follows an untimed call of the same provider where that is cheap, so that nobody starts with the
caches that another one left. Ratios are medians over the rounds of time / our time in the same round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.floor import copy_bandwidth
from bench.memory import peak_bytes

OURS = "fastgmtl"
SLOW = 2.0  # seconds: a provider slower than this is called as seldom as may be
WARM = 1.0  # seconds: a provider slower than this is not warmed up again before each round
ROUNDS = (5, 100)  # of ours, at least and at most


@dataclass(frozen=True)
class Case:
    """What is run; the key of a row, with the provider."""

    bench: str
    name: str
    mode: str  # "fwd", "fwdbwd", or what else a bench measures
    threads: int  # 0: on a GPU
    n: int
    e: int
    d: int
    t: int = 1
    dtype: str = "float32"


@dataclass(frozen=True)
class Provider:
    """``run()`` is timed; ``error(result)`` is its largest difference to the reference, over the largest entry."""

    run: Callable[[], Any]
    error: Callable[[Any], float] | None = None
    compiles: bool = False  # in its first call


@dataclass(frozen=True)
class Floors:
    """Bytes that must move, seconds of the gather, bytes of the output: None where it means nothing."""

    moved: int | None = None
    gather: float | None = None
    output: int | None = None


@dataclass
class Settings:
    """Of one run."""

    quick: bool
    budget: float  # seconds for the rounds of a case
    rows: list[dict[str, Any]] = field(default_factory=list)

    def measure(
        self,
        benchmark: Any,
        case: Case,
        providers: Mapping[str, Provider | str],
        floors: Floors = Floors(),
        calls: int = 1,
        memory: bool = True,
    ) -> None:
        """Run a case and keep its rows. A provider that is a string is absent for that reason."""
        torch.set_num_threads(case.threads)
        ours, peers = providers[OURS], {n: p for n, p in providers.items() if n != OURS and not isinstance(p, str)}
        seen = {name: _first(provider, memory) for name, provider in {OURS: ours, **peers}.items()}
        if seen[OURS].error is not None:
            assert seen[OURS].error < 1e-4, f"{case}: fastgmtl differs from the reference by {seen[OURS].error}"
        times = self._rounds(benchmark, case, ours, peers, {n: s.seconds for n, s in seen.items()}, calls)
        absent = {n: p for n, p in providers.items() if isinstance(p, str)}
        self.record(case, seen, times, absent, floors, copy_bandwidth(case.threads))
        gc.collect()

    def record(
        self,
        case: Case,
        seen: Mapping[str, Seen],
        times: Mapping[str, list[tuple[int, float]]],
        absent: Mapping[str, str],
        floors: Floors,
        copied: float,
    ) -> None:
        """Keep the rows of a case. ``times`` are (round, seconds), ``copied`` is bytes a second of a copy."""
        for name in seen:
            row: dict[str, Any] = {**asdict(case), "provider": name}
            mine, pairs = np.array([s for _, s in times[name]]), [s / times[OURS][r][1] for r, s in times[name]]
            median, (low, high) = float(np.median(mine)), np.percentile(mine, [20, 80])
            moved = floors.moved and floors.moved / copied
            row |= {
                "rounds": len(mine),
                "median_ms": 1e3 * median,
                "p20_ms": 1e3 * float(low),
                "p80_ms": 1e3 * float(high),
                "min_ms": 1e3 * float(mine.min()),
                "ratio": float(np.median(pairs)),
                "x_moved": moved and median / moved,
                "x_gather": floors.gather and median / floors.gather,
                "peak_mib": _mib(seen[name].peak),
                "extra_mib": None if floors.output is None else _mib(seen[name].peak, floors.output),
                "output_mib": _mib(floors.output),
                "max_diff": seen[name].error,
            }
            self.rows.append({key: _short(value) for key, value in row.items()})
        self.rows += [{**asdict(case), "provider": name, "absent": reason} for name, reason in absent.items()]

    def _rounds(
        self,
        benchmark: Any,
        case: Case,
        ours: Provider,
        peers: Mapping[str, Provider],
        seconds: Mapping[str, float],
        calls: int,
    ) -> dict[str, list[tuple[int, float]]]:
        """(round, seconds a call) of each provider. Slow peers sit out some rounds, evenly spread."""
        share = self.budget / len(seconds)
        least, most = (2, 5) if self.quick else ROUNDS
        cost = sum(min(share, s * calls * (2 if s * calls < WARM else 1)) for s in seconds.values())
        total = int(np.clip(self.budget / cost, least, most))
        turns = {n: int(np.clip(share / (seconds[n] * calls), 1 if seconds[n] > SLOW else 2, total)) for n in peers}
        times: dict[str, list[tuple[int, float]]] = {n: [] for n in (OURS, *peers)}
        number = iter(range(total))

        def loop(run: Callable[[], Any]) -> None:
            for _ in range(calls):
                run()

        def others() -> None:
            this = next(number)
            for name, peer in peers.items():
                if (this + 1) * turns[name] // total != this * turns[name] // total:
                    times[name].append((this, _timed(lambda r=peer.run: loop(r), seconds[name] * calls) / calls))
            _warm(lambda: loop(ours.run), seconds[OURS] * calls)

        benchmark.group = f"{case.bench}: {case.name} {case.mode}"
        benchmark.pedantic(loop, (ours.run,), setup=others, rounds=total, iterations=1)
        times[OURS] = list(enumerate(s / calls for s in benchmark.stats.stats.data))
        return times


@dataclass
class Seen:
    """Of a first call: its time, its peak of memory, its error."""

    seconds: float
    peak: int | None
    error: float | None


def _first(provider: Provider, memory: bool) -> Seen:
    """The calls before the rounds: one to check and to set up what is set up once, one for memory.

    For what is slow the first call must do for both.
    """
    start = time.perf_counter()
    result, peak = peak_bytes(provider.run)
    seconds = time.perf_counter() - start
    error = None if provider.error is None else provider.error(result)
    del result
    if seconds < SLOW or provider.compiles:
        start = time.perf_counter()
        peak = peak_bytes(provider.run)[1]
        seconds = min(seconds, time.perf_counter() - start)
    return Seen(seconds, peak if memory else None, error)


def _warm(run: Callable[[], Any], seconds: float) -> None:
    if seconds < WARM:
        run()


def _timed(run: Callable[[], Any], seconds: float) -> float:
    _warm(run, seconds)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _short(value: Any) -> Any:
    """Five digits are more than a time has."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _mib(size: int | None, less: int = 0) -> float | None:
    return None if size is None else max(0, size - less) / 2**20


def difference(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Largest |a - b| over the largest |b|, the worst of several pairs of tensors."""
    pairs = zip(found, wanted, strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)) for a, b in pairs)


def cases(*axes: Iterable[Any], quick: Callable[..., bool]) -> Any:
    """``parametrize`` over the product of the axes; those for which ``quick`` is true make the smoke run."""
    return [
        pytest.param(*values, marks=[pytest.mark.quick] if quick(*values) else [], id="-".join(map(str, values)))
        for values in product(*axes)
    ]

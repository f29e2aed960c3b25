"""Levels of the processor and the interpreter's lock: how kernels run beside what they compute."""

from __future__ import annotations

import threading
import time
from types import ModuleType

import cases
import pytest
import torch

import fastgmtl


def test_levels(kernels: ModuleType) -> None:
    levels, before = kernels.simd_levels(), kernels.simd()
    assert levels[0] == "baseline" and before in levels
    try:
        for level in levels:
            kernels.set_simd(level)
            assert kernels.simd() == level
        with pytest.raises(ValueError, match=r"^FASTGMTL_SIMD must be baseline, avx2 or avx512, got 'sse9'$"):
            kernels.set_simd("sse9")
        kernels.set_simd("")
        assert kernels.simd() == levels[-1]
    finally:
        kernels.set_simd(before)


def test_other_python_threads_run_meanwhile(kernels: ModuleType) -> None:
    """The interpreter's lock is released while a kernel works."""
    graph = cases.large("uniform", 20_000, 400_000).graph()
    x = torch.randn(20_000, 128)
    fastgmtl.ops.spmm(graph, x)
    ticks, stop = [], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)

    worker = threading.Thread(target=tick)
    worker.start()
    spans = []
    for _ in range(5):
        start = time.perf_counter()
        kernels.spmm(graph.pattern, x, None, None, False, None, 0, 0, torch.empty_like(x), None, 1)
        spans.append((start, time.perf_counter()))
    stop.set()
    worker.join()
    # With the lock held none could fall strictly within a call.
    assert any(a + (b - a) * 0.1 < t < b - (b - a) * 0.1 for a, b in spans for t in ticks)

"""What the first run on a GPU is to be compared with: ``python -m bench.predict [--write]``.

For each case of bench_gpu.py the two floors and a predicted time on an H200, from bytes, registers and occupancy alone;
``--write`` keeps the table in results/gpu_predicted.md. The figures of the chip are those of its data sheet and of what
is published on Hopper; where a run differs, one of the columns says what was assumed.

A kernel takes the longest of: bytes from memory (what the L2 cache does not hold of the gathered rows, and the rest
once) over the bandwidth of a copy; bytes through L2 over its bandwidth; bytes over what can be in flight (Little: an
index and then a row must arrive, for every batch of edges of every resident warp); instructions over the issue slots.
Short blocks of the second step (split.cu) come on top.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
NODES, EDGES = 1_000_000, 20_000_000
EXPONENT = 0.6  # of graphs.py: the node of rank r has a share in proportion to r ** -EXPONENT

MULTIPROCESSORS, CLOCK = 132, 1.755e9
MEMORY = 0.9 * 4.8e12  # bytes a second: a copy reaches some 0.9 of the data sheet's
L2_BANDWIDTH, L2_BYTES = 5.5e12, 30 << 20  # of 60 MiB: each half of the chip may hold a copy of its own
LATENCY_INDEX, LATENCY_ROW = 0.3e-6, 0.75e-6  # seconds: an index is in a sector that neighbours use, a row is in memory
# Of a warp and an edge: the loop in the machine code for sm_90, over the edges that one turn of it takes.
INSTRUCTIONS = {
    "spmm_kernel<float, 4, 1, 0>": 300 / 4,
    "spmm_kernel<float, 4, 2, 0>": 442 / 4,
    "spmm_kernel<float, 4, 4, 0>": 388 / 2,
    "spmm_kernel<bf16, 8, 1, 0>": 413 / 4,
    "spmm_kernel<bf16, 8, 2, 0>": 642 / 4,
    "spmm_kernel<bf16, 8, 4, 0>": 605 / 2,
    "sddmm_kernel<float, 4, 2, false>": 687 / 4,
    "sddmm_kernel<float, 4, 4, false>": 1315 / 4,
    "sddmm_kernel<bf16, 8, 2, false>": 967 / 4,
    "sddmm_kernel<bf16, 8, 4, false>": 1794 / 4,
}
SHORT_BLOCK, LAUNCH = 1e-6, 4e-6  # seconds: of a block that finds nothing to do; of a launch


@dataclass(frozen=True)
class Kernel:
    """A launch: its instance in ptxas.md, the bytes it gathers, those it streams, and how."""

    name: str
    gathered: float  # rows of features, one an edge
    row: int  # bytes of such a row
    streamed: float  # everything else, once
    in_flight: int  # bytes of rows that a lane waits for at once
    turns: float  # of a warp through its loop, edges times tiles over the rows that a warp has
    short_blocks: float


@dataclass(frozen=True)
class Case:
    kind: str
    d: int
    tasks: int
    dtype: str
    mode: str

    @property
    def size(self) -> int:
        return 4 if self.dtype == "float32" else 2


def ceil_log2(value: int) -> int:
    return max(0, (value - 1).bit_length())


def hits(kind: str, row: int) -> float:
    """The share of gathered rows that L2 holds: the hottest ones that fit."""
    fits = min(1.0, L2_BYTES / (NODES * row))
    return fits if kind == "uniform" else fits ** (1 - EXPONENT)


def second_step(columns: int) -> float:
    """Blocks of combine_kernel; all but those of the few long rows find nothing to do."""
    length = 64
    while length < 512 and EDGES / length > 16384:
        length *= 2
    return EDGES / length * -(-columns // 32)


def spmm(case: Case, weights: int) -> Kernel:
    """As ``run`` in csrc/cuda/spmm.cu chooses it."""
    lane, columns = 16 // case.size, case.tasks * case.d
    vectors = columns // lane
    slots = 1 if vectors <= 32 else 2 if vectors <= 64 else 4
    lanes = 1 << min(5, ceil_log2(vectors))
    tiles = -(-vectors // (slots * lanes))
    batch = 2 if slots == 4 else 4
    scalar = "float" if case.size == 4 else "bf16"
    return Kernel(
        f"spmm_kernel<{scalar}, {lane}, {slots}, 0>",
        EDGES * columns * case.size,
        columns * case.size,
        EDGES * (4 + weights * case.size) * tiles + NODES * (8 + columns * case.size),
        batch * slots * 16,
        EDGES * tiles / (32 // lanes),
        second_step(columns),
    )


def spmm_backward(case: Case) -> Kernel:
    """As ``sddmm`` in csrc/cuda/sddmm.cu: rows of x in turn, rows of the gradient for every edge, both results."""
    lane, columns = 16 // case.size, case.tasks * case.d
    lanes = 1 << min(5, max(2, ceil_log2(case.d // lane)))
    slots = -(-case.d // (lane * lanes))
    kept = 2 if slots * case.tasks <= 2 else 4
    tiles = -(-case.tasks // (kept // slots))
    scalar = "float" if case.size == 4 else "bf16"
    return Kernel(
        f"sddmm_kernel<{scalar}, {lane}, {kept}, false>",
        EDGES * columns * case.size,
        columns * case.size,
        EDGES * ((4 + 4) * tiles + 2 * case.tasks * case.size) + NODES * (8 * tiles + 2 * columns * case.size),
        4 * 16,
        EDGES * tiles / (32 // lanes),
        second_step(columns),
    )


def kernels(case: Case) -> list[Kernel]:
    """Weights [E] of one task want no gradient, those [E, T] of four do."""
    found = [spmm(case, case.tasks)]
    if case.mode == "fwdbwd":
        found.append(spmm(case, case.tasks) if case.tasks == 1 else spmm_backward(case))
    return found


def warps() -> dict[str, int]:
    """Resident warps of each kernel on sm_90, from results/ptxas.md."""
    lines = (RESULTS / "ptxas.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| kernel"))
    column = [cell.strip() for cell in head.split("|")].index("warps sm_90")
    rows = (re.match(r"\| `([^`]+)` \|", line) for line in lines)
    return {row[1]: int(row.string.split("|")[column]) for row in rows if row}


def predicted(kernel: Kernel, kind: str, resident: int) -> dict[str, float]:
    """Seconds: each bound, and the sum of the largest with what comes on top."""
    from_memory = kernel.gathered * (1 - hits(kind, kernel.row)) + kernel.streamed
    waiting = resident * 32 * kernel.in_flight * MULTIPROCESSORS
    bounds = {
        "memory": from_memory / MEMORY,
        "L2": (kernel.gathered + kernel.streamed) / L2_BANDWIDTH,
        "in flight": kernel.gathered / (waiting / (LATENCY_INDEX + LATENCY_ROW)),
        "issue": kernel.turns * INSTRUCTIONS[kernel.name] / (MULTIPROCESSORS * 4 * CLOCK),
    }
    extra = kernel.short_blocks / (MULTIPROCESSORS * 16) * SHORT_BLOCK + 3 * LAUNCH
    return {**bounds, "second step": extra, "time": max(bounds.values()) + extra}


def rows() -> Iterator[str]:
    resident = warps()
    yield (
        "| case | kernel (warps of a multiprocessor) | moved floor | gather floor | memory | L2 | in flight | issue "
        "| second step | predicted | of the gather floor |"
    )
    yield "| --- | --- |" + " ---: |" * 9
    axes = (("power-law", "uniform"), (64, 256), (1, 4), ("float32", "bfloat16"), ("fwd", "fwdbwd"))
    for case in itertools.starmap(Case, itertools.product(*axes)):
        found = kernels(case)
        parts = [predicted(kernel, case.kind, resident[kernel.name]) for kernel in found]
        total = {key: 1e3 * sum(part[key] for part in parts) for key in parts[0]}
        moved = 1e3 * sum(k.streamed + NODES * k.row for k in found) / MEMORY
        gather = 1e3 * sum(k.gathered + k.streamed for k in found) / MEMORY
        names = ", ".join(f"`{k.name}` ({resident[k.name]})" for k in dict.fromkeys(found))
        cells = [moved, gather, *(total[key] for key in ("memory", "L2", "in flight", "issue", "second step", "time"))]
        title = f"{case.kind}, d = {case.d}, T = {case.tasks}, {case.dtype}, {case.mode}"
        yield f"| {title} | {names} | {' | '.join(f'{c:.3g}' for c in cells)} | {gather / total['time']:.0%} |"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--write", action="store_true", help="keep the table in results/gpu_predicted.md")
    lines = list(rows())
    print("\n".join(lines))
    if options.parse_args().write:
        head = [
            "# spmm on an H200: floors and predictions, in milliseconds",
            "",
            f"Nothing here is measured: `python -m bench.predict --write`. N = {NODES}, E = {EDGES}; the cases are",
            "those of bench/bench_gpu.py, which writes gpu.md. Moved floor: each input and output once; gather floor:",
            f"a row of x for every edge; both at {MEMORY / 1e12:.2f} TB/s. What the four bounds in the middle assume:",
            "bench/predict.py; neither uneven work at the end of a launch nor other work of the GPU is among it.",
            "Above 100 % of the gather floor the caches are expected to hold a part of the rows.",
            "",
        ]
        (RESULTS / "gpu_predicted.md").write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()

"""Large graphs on one machine: measures building, opening and training, and writes the table of docs/scale.md.

``python -m scripts.measure_scale --edges 1e5 1e6 1e7 1e8``. For each E a power-law graph of N = E / 10 nodes is drawn,
with 32 features and 4 tasks (two of 8 classes, two numbers). Every figure is of a process of its own, so that its peak
of resident memory (VmHWM) is its own. Rows are kept in results/scale.jsonl; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgmtl.cli.machine import processor
from fastgmtl.data import load
from fastgmtl.data.build import build
from fastgmtl.data.store import open_stored
from fastgmtl.methods import Shared
from fastgmtl.methods.shared import Config

BOOK = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- one machine -->", "<!-- /one machine -->"
HEAD = """# Large graphs

What was measured, by the command that each table names.
"""
# PyTorch asks for huge pages: small ones cost up to a third of the time once a tensor is larger than 32 MB.
HUGE = {"THP_MEM_ALLOC_ENABLE": "1"}
FEATURES, CLASSES, PIECE = 32, 8, 1 << 22
MODEL = {"conv": "sage", "hidden": 32, "layers": 2, "dropout": 0.0, "recompute": True}


def draw(folder: Path, num_edges: int) -> dict[str, Any]:
    """Edges as npy and text, features and labels: power-law in- and out-degrees with exponent 2.5, ids shuffled."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, nodes = np.random.default_rng(0), num_edges // 10
    edges = np.lib.format.open_memmap(folder / "edges.npy", "w+", np.int32, (2, num_edges))
    for at in range(0, num_edges, PIECE):
        for side in range(2):
            rank = (nodes * rng.random(min(PIECE, num_edges - at)) ** 3).astype(np.int64)
            edges[side, at : at + PIECE] = (rank * 2_654_435_761 + side * 12_345) % nodes
    write_text(edges, folder / "edges.txt")
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (nodes, FEATURES))
    for at in range(0, nodes, PIECE):
        x[at : at + PIECE] = rng.standard_normal((min(PIECE, nodes - at), FEATURES), np.float32)
    for task in range(4):
        value = x[:, task] + x[:, task + 4]
        label = np.digitize(value, np.linspace(-2, 2, CLASSES - 1)) if task < 2 else value
        np.save(folder / f"label{task}.npy", label)
    return {"nodes": nodes}


def write_text(edges: np.ndarray, path: Path) -> None:
    """Two columns, one line an edge."""
    import pyarrow
    from pyarrow import csv

    with path.open("wb") as file:
        for at in range(0, edges.shape[1], PIECE):
            table = pyarrow.table({"src": edges[0, at : at + PIECE], "dst": edges[1, at : at + PIECE]})
            csv.write_csv(table, file, csv.WriteOptions(include_header=False, delimiter=" "))


def build_npy(folder: Path, _: int) -> dict[str, Any]:
    """The graph, its features and labels."""
    labels = {f"task{k}": folder / f"label{k}.npy" for k in range(4)}
    shutil.rmtree(folder / "graph", ignore_errors=True)
    return timed(lambda: build(folder / "edges.npy", folder / "graph", features=folder / "x.npy", labels=labels))


def build_text(folder: Path, num_edges: int) -> dict[str, Any]:
    """The graph alone."""
    shutil.rmtree(folder / "text", ignore_errors=True)
    row = timed(lambda: build(folder / "edges.txt", folder / "text", num_nodes=num_edges // 10))
    shutil.rmtree(folder / "text")
    return row


def opened(folder: Path, _: int) -> dict[str, Any]:
    """Opening."""
    return timed(lambda: open_stored(folder / "graph"))


def full(folder: Path, num_edges: int) -> dict[str, Any]:
    """Forward and backward of the shared method on the whole graph: the first step, and the median of three more."""
    torch.manual_seed(0)
    data = load(folder / "graph")
    method = Shared.build(data, Config(**MODEL), torch.Generator())
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        method.backward(method.step(data))
        seconds.append(time.perf_counter() - start)
    later = sorted(seconds[1:])[1]
    return {"first": seconds[0], "seconds": later, "ns_per_edge": 1e9 * later / num_edges}


def inference(folder: Path, _: int) -> dict[str, Any]:
    """All embeddings, layer by layer in blocks of rows."""
    data = load(folder / "graph")
    method = Shared.build(data, Config(**MODEL), torch.Generator()).eval()
    return timed(lambda: method.encoder.inference(data.x, data.graph))


def sampled(folder: Path, _: int, longest: float = 30.0) -> dict[str, Any]:
    """Steps on sampled batches until an epoch or ``longest`` seconds are over: the share of all cores' time in use."""
    data = load(folder / "graph")
    config = Config(**{**MODEL, "recompute": False}, batch_size=1024, neighbors="10,10")
    method = Shared.build(data, config, torch.Generator())
    optimizer, steps = torch.optim.AdamW(method.parameters(), lr=0.01), 0
    batches = iter(method.batches(data, torch.Generator().manual_seed(0)))
    method.step(next(batches))
    start, busy = time.perf_counter(), time.process_time()
    for batch in batches:
        optimizer.zero_grad()
        method.backward(method.step(batch))
        optimizer.step()
        steps += 1
        if time.perf_counter() - start > longest:
            break
    wall, used = time.perf_counter() - start, time.process_time() - busy
    cores = len(os.sched_getaffinity(0))
    return {"steps": steps, "seconds": wall / max(1, steps), "busy": used / wall / cores, "cores": cores}


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "draw": draw,
    "build": build_npy,
    "build_text": build_text,
    "open": opened,
    "full": full,
    "inference": inference,
    "sampled": sampled,
}


def timed(run: Callable[[], object]) -> dict[str, Any]:
    """How long it takes."""
    start = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start}


def peak() -> int:
    """Bytes: the high-water mark of resident memory of this program (getrusage knows that of its parent too)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("the system does not say how much memory was used (VmHWM)")
    return int(found[1]) << 10


def child(stage: str, folder: Path, num_edges: int, threads: int) -> None:
    """One stage; its row is printed."""
    torch.set_num_threads(threads)
    before = peak()
    row = STAGES[stage](folder, num_edges)
    print(json.dumps({**row, "peak": peak(), "before": before}))


def measure(kept: Path, folder: Path, num_edges: int, threads: int) -> dict[str, dict[str, Any]]:
    """All stages that were not measured before, each in a process of its own; data is drawn where one needs it."""
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    rows = {row["stage"]: row for row in known if row["edges"] == num_edges and row["threads"] == threads}
    for stage in STAGES:
        needs = stage == "draw" and any(name not in rows for name in STAGES) and not (folder / "label3.npy").exists()
        if stage in rows and not needs:
            continue
        words = ["--child", stage, "--folder", str(folder), "--edges", str(num_edges), "--threads", str(threads)]
        command = [sys.executable, "-m", "scripts.measure_scale", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **HUGE})
        if done.returncode:
            raise SystemExit(
                f"{stage} of {num_edges:,} edges ended with {done.returncode}; what was measured is in {kept}"
            )
        rows[stage] = {"stage": stage, "edges": num_edges, "threads": threads, **json.loads(done.stdout)}
        with kept.open("a") as file:
            file.write(json.dumps(rows[stage]) + "\n")
        print(f"{num_edges:>12,}  {stage:10}  {rows[stage]}", flush=True)
    return rows


def table(measured: dict[int, dict[str, dict[str, Any]]], threads: int) -> str:
    """The section of docs/scale.md."""
    names = ("E", "N", "build, npy", "peak", "build, text", "peak", "open", "step, full", "per edge", "peak")
    names += ("model", "inference", "peak", "step, sampled", "cores busy")
    lines = [
        "## One machine",
        "",
        f"`python -m scripts.measure_scale --edges {' '.join(map(power, measured))}` on "
        f"{processor()}, {threads} threads, PyTorch {torch.__version__}. Power-law graphs (exponent 2.5 in and out, "
        "N = E / 10), d = 32, T = 4 (two tasks of 8 classes, two numbers). The model is `shared`: an input map, 2 SAGE "
        "layers of width 32 with batch norm, a head a task; `recompute=true`: of N x 32 there are the features, "
        "the input of each layer, and what is inside of one layer at a time. Building from npy includes features, "
        "labels and checksums, from text the graph alone. A step is forward and backward (the median "
        "of three; the first builds the transposed graph besides); sampled: 1024 nodes, 10 and 10 neighbours. Peaks "
        "are of resident memory with Python, PyTorch and mapped files, each of a process of its own. PyTorch "
        "asks for huge pages (`THP_MEM_ALLOC_ENABLE=1`). The model of the peak of a step: a bare process, 12 E + 16 N "
        "bytes for the graph and its transpose, and nine float32 tensors N x 32.",
        "",
        f"| {' | '.join(names)} |",
        f"|{' ---: |' * len(names)}",
    ]
    for edges, rows in measured.items():
        of = rows.__getitem__
        cells = [
            power(edges),
            power(edges // 10),
            *(cell for s in ("build", "build_text") for cell in (seconds(of(s)["seconds"]), size(of(s)["peak"]))),
            seconds(of("open")["seconds"]),
            seconds(of("full")["seconds"]),
            f"{of('full')['ns_per_edge']:.0f} ns",
            size(of("full")["peak"]),
            size(model(edges, of("full")["before"])),
            seconds(of("inference")["seconds"]),
            size(of("inference")["peak"]),
            seconds(of("sampled")["seconds"]),
            f"{100 * of('sampled')['busy']:.0f} % of {of('sampled')['cores']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def model(num_edges: int, before: int) -> int:
    """The peak of a step on the whole graph by arithmetic, in bytes, ``before`` being what a bare process has.

    Columns, and columns and edge ids of the transpose, 4 bytes each; two times row pointers, 8 bytes; and nine tensors
    [N, d] in float32: the features, the inputs of both layers, the gradient of the output, and while a layer is gone
    back through its aggregate, the batch norm's input and output, and the gradients of two of them.
    """
    nodes = num_edges // 10
    return before + 12 * num_edges + 16 * nodes + 9 * 4 * nodes * FEATURES


def power(value: int) -> str:
    """For people: 1e6."""
    return f"{value:.0e}".replace("e+0", "e")


def seconds(value: float) -> str:
    """For people."""
    return f"{value:.0f} s" if value >= 20 else f"{value:.1f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def size(value: int) -> str:
    """For people."""
    return f"{value / (1 << 30):.2f} GiB"


def write(section: str) -> None:
    """Put the section between its markers; the rest of the page stays."""
    text = BOOK.read_text() if BOOK.exists() else HEAD
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    BOOK.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}")


def main() -> None:
    """Measure, and write docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=Path("results/scale"), help="for graphs; 70 bytes an edge")
    parser.add_argument("--keep", action="store_true", help="leave the graphs there")
    parser.add_argument("--child", choices=STAGES, help="one stage, in this process")
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.folder, int(asked.edges[0]), asked.threads)
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    measured = {}
    for edges in sorted(int(e) for e in asked.edges):
        place = asked.folder / f"{edges}"
        measured[edges] = measure(asked.folder.with_suffix(".jsonl"), place, edges, asked.threads)
        if not asked.keep:
            shutil.rmtree(place, ignore_errors=True)
    write(table(measured, asked.threads))


if __name__ == "__main__":
    main()

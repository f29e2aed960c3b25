"""Rows into files: JSON lines that grow with every run, a table in Markdown of the newest, changes against another."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import gpu
from bench.floor import copy_bandwidth, random_row_bandwidth
from fastgmtl import __version__, backend
from fastgmtl.cli.machine import commit, processor

Row = dict[str, Any]
KEY = ("bench", "name", "mode", "threads", "n", "e", "d", "t", "dtype")
PACKAGES = ("torch", "numpy", "torch_geometric", "torch_sparse", "torch_scatter")
COLUMNS = ("provider", "median", "p20 to p80", "rounds", "x ours", "x moved", "x gather", "peak MiB", "extra MiB")
WRONG = 1e-3  # a larger difference to the reference is not rounding
TABLES = ((20_000, 64), (100_000, 64), (100_000, 256))  # rows and floats of the random reads on the machine card


def provenance(rows: list[Row], seconds: float, quick: bool) -> Row:
    """Where, when and with what the rows were measured."""
    cache = Path("/sys/devices/system/cpu/cpu0/cache")
    levels = [[_read(index / field) for field in ("level", "type", "size")] for index in sorted(cache.glob("index*"))]
    threads = sorted({row["threads"] for row in rows} - {0})
    on_gpu = any(row["threads"] == 0 for row in rows)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "fastgmtl": __version__,
        "processor": processor(),
        "cores": os.cpu_count(),
        "caches": ", ".join(f"L{level}{kind[:1].lower()} {size}" for level, kind, size in levels),
        "simd": backend.kernels.simd() if backend.kernels is not None else f"reference ({backend.state})",
        "huge_pages": _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": {**gpu.card(), "copy_gb_s": round(gpu.copy_bandwidth() / 1e9, 1)}} if on_gpu else {}),
        "copy_gb_s": {n: round(copy_bandwidth(n) / 1e9, 1) for n in threads},
        "random_rows_gb_s": {
            f"{count} x {width} floats, {n} threads": _round(random_row_bandwidth(count, width, n))
            for count, width in (() if quick else TABLES)
            for n in threads
        },
        "seconds": round(seconds),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value / 1e9, 1)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else "?"


def append(path: Path, head: Row, rows: Iterable[Row]) -> None:
    """A line of provenance, then a line for each row, joined by ``run``."""
    with path.open("a") as file:
        for line in (head, *rows):
            file.write(json.dumps({"run": head["date"], **line}) + "\n")


def newest(path: Path) -> list[Row]:
    """The newest row of each case and provider in a file, in the order of the file."""
    found: dict[tuple[Any, ...], Row] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "provider" in row:
            found[(*(row[k] for k in KEY), row["provider"])] = row
    return list(found.values())


def by_case(rows: Iterable[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """(a row with the case's fields, the case's rows: measured ones by time, then the absent)."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in KEY), []).append(row)
    for group in groups.values():
        yield group[0], sorted(group, key=lambda row: ("absent" in row, row.get("median_ms", 0)))


def title(row: Row) -> str:
    shape = f"N = {row['n']}, E = {row['e']}, d = {row['d']}" + (f", T = {row['t']}" if row["t"] > 1 else "")
    where = f"{row['threads']} thread{'s' * (row['threads'] > 1)}" if row["threads"] else f"{row['dtype']} on the GPU"
    return f"{row['name']}, {row['mode']}; {shape}; {where}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def duration(ms: float) -> str:
    return f"{number(ms)} ms" if ms >= 0.1 else f"{number(1e3 * ms)} us"


def card(head: Row) -> str:
    """The machine and its software, of the provenance of a run."""
    random_rows = "; ".join(f"{name}: {value}" for name, value in head["random_rows_gb_s"].items())
    versions = ", ".join(f"{name} {value or 'absent'}" for name, value in head["versions"].items())
    return (
        f"{head['date']}, commit {head['commit']}, {head['processor']}, {head['cores']} cores ({head['caches']}), "
        f"SIMD {head['simd']}, load {head['load'][0]} at the end. Python {head['python']}, {versions}. "
        + (
            f"GPU: {', '.join(f'{key} {value}' for key, value in head['gpu'].items())}."
            if "gpu" in head
            else f"Copy: {'; '.join(f'{value} GB/s on {n} threads' for n, value in head['copy_gb_s'].items())}. "
            f"Random rows (GB/s): {random_rows}."
        )
    )


def write_markdown(path: Path, head: Row, rows: list[Row]) -> None:
    """All of the newest run."""
    lines = [
        f"# {path.stem}",
        "",
        card(head),
        "",
        "x ours: over our time in the same round, median. x moved, x gather: over the two floors of "
        f"bench/{'bench_gpu' if 'gpu' in head else 'floor'}.py. "
        f"peak: {'allocated' if 'gpu' in head else 'resident'} memory of a call above its inputs; "
        "extra: the same without the output.",
    ]
    for case, group in by_case(rows):
        lines += ["", f"## {title(case)}", ""]
        lines += [f"| {' | '.join(COLUMNS)} | max diff |", "| --- |" + " ---: |" * len(COLUMNS)]
        for row in group:
            if "absent" in row:
                lines.append(f"| {row['provider']} | absent: {row['absent']} |" + " |" * (len(COLUMNS) - 1))
                continue
            name = f"**{row['provider']}**" if row["provider"].startswith("fastgmtl") else row["provider"]
            diff = "" if row["max_diff"] is None else f"{row['max_diff']:.0e}{' WRONG' * is_wrong(row)}"
            values = [f"{duration(row['p20_ms'])} to {duration(row['p80_ms'])}", str(row["rounds"])]
            values += [number(row[k]) for k in ("ratio", "x_moved", "x_gather", "peak_mib", "extra_mib")]
            lines.append(f"| {' | '.join([name, duration(row['median_ms']), *values, diff])} |")
    path.write_text("\n".join(lines) + "\n")


def summary(rows: list[Row]) -> Iterator[str]:
    """Two lines a case for the terminal: ours and the floors, then the peers' ratios to ours."""
    for case, group in by_case(rows):
        ours = next(row for row in group if row["provider"] == "fastgmtl")
        names = {"x_moved": "bytes moved", "x_gather": "gather"}
        floors = [f"{number(ours[key])}x {text}" for key, text in names.items() if ours[key]]
        if ours["extra_mib"] is not None and ours["output_mib"]:
            floors.append(f"extra memory {number(ours['extra_mib'] / ours['output_mib'])}x output")
        floors += [f"{1 / row['ratio']:.2f}x of {row['provider']}" for row in group if row["provider"] == "x * 2"]
        yield f"{title(case)}: {duration(ours['median_ms'])}  {', '.join(floors)}"
        parts = [f"{row['provider']} {_outcome(row)}" for row in group if row is not ours]
        if parts:
            yield "    " + "; ".join(parts)


def _outcome(row: Row) -> str:
    if "absent" in row:
        return f"absent ({row['absent']})"
    return f"{number(row['ratio'])}x" + " (its result is WRONG)" * is_wrong(row)


def is_wrong(row: Row) -> bool:
    return row["max_diff"] is not None and row["max_diff"] > (30 * WRONG if row["dtype"] == "bfloat16" else WRONG)


def changes(before: list[Row], after: list[Row]) -> Iterator[str]:
    """For each case and peer that both have: its ratio to ours then and now (a fall means that we lost ground)."""
    old = {(*(row[k] for k in KEY), row["provider"]): row for row in before}
    common = 0
    for row in after:
        then = old.get((*(row[k] for k in KEY), row["provider"]))
        if then is None or "absent" in row or "absent" in then:
            continue
        common += 1
        if row["provider"] == "fastgmtl":
            yield f"{title(row)}: {duration(then['median_ms'])} -> {duration(row['median_ms'])}"
        else:
            change = 100 * (row["ratio"] / then["ratio"] - 1)
            yield f"    {row['provider']}: {number(then['ratio'])}x -> {number(row['ratio'])}x ({change:+.0f} %)"
    if not common:
        yield "the two runs have no case in common"

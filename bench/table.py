"""The README's table, from the newest rows of results/*.jsonl: ``python -m bench.table [FOLDER]``.

One line a case of CASES on the most threads it was run with: our time, the gather floor, the best peer that gives right
results, and what the peers that people use today take, over our time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, by_case, duration, is_wrong, newest, number

# What a reader wants to know first; everything else is in results/. Matched against "bench: name, T = t, mode, n, d".
CASES = re.compile(
    r"graph: .*, 100000, 0|overhead: 16 floats, gradient given.*|spmm: spmm sum, T = 1, (fwd, 100000|fwdbwd, .*), 64"
    r"|spmm: spmm sum, weights \[E, T\].*, 64|attention: .*, fwdbwd, .*|relation_gate: .*, fwdbwd, .*"
    r"|(flip_energy|edge_delta): .*, fwdbwd, 400, .*|gibbs: .*, normalised, .*"
    r"|grouped_matmul: dblp types, .*, fwdbwd, .*|layers: .*, 20000, .*|layers: HGTConv.*"
    r"|gradients: gradients to .grad.*, T = (2|8), all, 1000000, .*"
    r"|gradients: GCN step.*|meta: .*|rcgrad: .*as_released.*|struchis: .*"
    r"|accelerate: ((GraphSAGE|GAT), amazon_cs|RGCN, debian_bookworm|HGT), .*train step.*"
    r"|rspmm: mul, sum, T = 8, fwdbwd, .*|gather_relu: 382 tasks, .*fwdbwd, .*|concrete: 617 tasks, .*graph, fwdbwd.*"
    r"|sampler: .*, 10, 10, 1024 seeds.*distinct.*"
)
PARTS = ("fastgmtl", "part: ", "the summed loss")  # ours, and what a step consists of: no peers
NAMED = ("graph", "layers", "gradients", "overhead")  # benches whose cases say what they are
SHOWN = {"torch CSR": "torch CSR", "torch_sparse": "torch_sparse", "edge_index": "PyG edge_index"}


def lines(folder: Path) -> Iterator[str]:
    """The table in Markdown; nothing where there are no results."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in newest(path)]
    if not rows:
        return
    yield "| case | N, E, d | ours | x gather floor | best peer | " + " | ".join(SHOWN.values()) + " |"
    yield "| --- | --- | ---: | ---: | --- |" + " ---: |" * len(SHOWN)
    most = max(row["threads"] for row in rows)
    for case, group in by_case(rows):
        one = {row["provider"]: row for row in group if "absent" not in row}
        key = f"{case['bench']}: {case['name']}, T = {case['t']}, {case['mode']}, {case['n']}, {case['d']}"
        if CASES.fullmatch(key) is None:
            continue
        if "fastgmtl" not in one or case["threads"] not in (most, *([1] if case["bench"] == "overhead" else [])):
            continue
        ours = one.pop("fastgmtl")
        peers = {name: row for name, row in one.items() if not name.startswith(PARTS)}
        right = {name: row["ratio"] for name, row in peers.items() if not is_wrong(row)}
        best = min(right, key=right.__getitem__, default=None)
        cells = [_title(case), f"{_count(case['n'])}, {_count(case['e'])}, {case['d'] or ''}".rstrip(", ")]
        cells += [duration(ours["median_ms"]), number(ours["x_gather"])]
        cells += [_own(one) if best is None else f"{best}: {number(right[best])}x"]
        cells += [_ratio(peers, word) for word in SHOWN]
        yield f"| {' | '.join(cells)} |"


def _title(case: Row) -> str:
    bench, name = case["bench"], case["name"]
    what = name if bench in NAMED or bench in name else f"{bench}, {name}"
    tasks = f", T = {case['t']}" if case["t"] > 1 and "T = " not in name else ""
    return f"{what}{tasks}, {case['mode']}"


def _own(rows: dict[str, Row]) -> str:
    """Where there are only forms of ours to compare: the first of them."""
    return next((f"{name}: {number(row['ratio'])}x" for name, row in rows.items()), "")


def _ratio(peers: dict[str, Row], word: str) -> str:
    found = [row["ratio"] for name, row in peers.items() if word in name]
    return f"{number(min(found))}x" if found else ""


def _count(value: int) -> str:
    return f"{value // 10**6} M" if value >= 10**6 else f"{value // 10**3} k" if value >= 10**3 else str(value)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results")
    print("\n".join(lines(folder)))


if __name__ == "__main__":
    main()

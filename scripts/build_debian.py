"""Makes fastgmtl/data/debian.npz from the debian_bookworm arrays.

    python scripts/build_debian.py [--data FOLDER] [--out FILE]

FOLDER holds edges.npz, features.npz and tasks.npz (default: $FASTGMTL_DATA/debian_bookworm). The same arrays give
the same bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastgmtl.data.debian import OUTWARD, RELATIONS

# Applications with enough tags, and the libraries that hold them together; not the few that everything depends on.
SECTIONS = (
    "editors",
    "games",
    "gnome",
    "graphics",
    "mail",
    "science",
    "sound",
    "video",
    "web",
    "x11",
)
KINDS = ("source", "virtual")
LIBRARY_USERS = (3, 300)
MIN_TAGGED = 100
MIN_WORD = 20
SOURCE = (
    "made by scripts/build_debian.py from the package index of Debian 12.15 (bookworm) main amd64, "
    "2026-07-11; facts about packages without names or addresses of people, no licence claimed"
)


def choose(edges: dict[str, Any], section: Any, classes: list[str]) -> Any:
    """Mask of the packages kept: the sections, the libraries with few enough users, without isolated ones."""
    keep = np.isin(section, [classes.index(name) for name in SECTIONS])
    both = np.concatenate([edges[name] for name in RELATIONS], axis=1)
    both = both[:, both[0] != both[1]]
    users = np.bincount(both[1][keep[both[0]]], minlength=section.size)
    low, high = LIBRARY_USERS
    keep |= (section == classes.index("libs")) & (users >= low) & (users <= high)
    while True:
        inside = both[:, keep[both[0]] & keep[both[1]]]
        joined = np.zeros_like(keep)
        joined[inside.ravel()] = True
        if (keep == joined).all():
            return keep
        keep = joined


def renumbered(edges: dict[str, Any], keep: Any, number: Any) -> dict[str, Any]:
    """Relations of the packages kept to source and virtual packages: of these only those that are met, in order."""
    inside = {name: table[:, keep[table[0]]] for name, table in edges.items()}
    met = {
        kind: np.unique(np.concatenate([t[1] for n, t in inside.items() if OUTWARD[n][1] == kind])) for kind in KINDS
    }
    return {
        name: np.stack([number[table[0]], np.searchsorted(met[OUTWARD[name][1]], table[1])]).astype(np.uint16)
        for name, table in inside.items()
    }


def columns(indptr: Any, indices: Any, rows: Any, width: int, least: int) -> tuple[Any, Any, Any]:
    """CSR of the rows given and of the columns with at least ``least`` entries in them; and these columns."""
    row = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    inside = rows[row]
    row, column = (np.cumsum(rows) - 1)[row[inside]], indices[inside]
    frequent = np.flatnonzero(np.bincount(column, minlength=width) >= least)
    inside = np.isin(column, frequent)
    row, column = row[inside], np.searchsorted(frequent, column[inside])
    order = np.lexsort((column, row))
    pointer = np.concatenate(([0], np.bincount(row, minlength=int(rows.sum())).cumsum()))
    return pointer.astype(np.int32), column[order].astype(np.uint16), frequent


def build(folder: Path) -> dict[str, Any]:
    """The arrays of the shipped file."""
    edges, features, tasks = (
        np.load(folder / f"{part}.npz", allow_pickle=False) for part in ("edges", "features", "tasks")
    )
    outward = {name: edges[name] for name in OUTWARD}
    edges = {name: edges[name] for name in RELATIONS}
    classes = list(tasks["section_classes"])
    keep = choose(edges, tasks["section"], classes)
    number = np.cumsum(keep) - 1
    out: dict[str, Any] = {}
    for name, table in edges.items():
        inside = table[:, keep[table[0]] & keep[table[1]] & (table[0] != table[1])]
        out[name] = number[inside].astype(np.uint16)
    out |= renumbered(outward, keep, number)
    width = int(features["x_shape"][1])
    out["x_indptr"], out["x_indices"], words = columns(
        features["x_indptr"], features["x_indices"], keep, width, MIN_WORD
    )
    out["x_shape"] = np.array([keep.sum(), words.size])
    out["words"] = features["vocab"][words]
    section = tasks["section"][keep]
    kept = np.unique(section)
    out["section"] = np.searchsorted(kept, section).astype(np.int8)
    out["section_classes"] = tasks["section_classes"][kept]
    width = int(tasks["tag_shape"][1])
    out["tag_indptr"], out["tag_indices"], tags = columns(
        tasks["tag_indptr"], tasks["tag_indices"], keep, width, MIN_TAGGED
    )
    out["tag_shape"] = np.array([keep.sum(), tags.size])
    out["tag_names"] = tasks["tag_names"][tags]
    for name in ("tagged", "log_installed_kib", "split"):
        out[name] = tasks[name][keep]
    out["source"] = np.array(SOURCE)
    return out


def write(path: Path, arrays: dict[str, Any]) -> None:
    """An npz whose bytes depend on the arrays only: numpy's own writer stamps the time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)


def main() -> None:
    """Reads the arguments, writes the file and says what is in it."""
    root = Path(os.environ.get("FASTGMTL_DATA", "../shared/data"))
    out = Path(__file__).resolve().parents[1] / "fastgmtl" / "data" / "debian.npz"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=root / "debian_bookworm")
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    arrays = build(args.data)
    write(args.out, arrays)
    relations = sum(arrays[name].shape[1] for name in (*RELATIONS, *OUTWARD))
    print(
        f"{args.out}: {args.out.stat().st_size:,} bytes, {arrays['section'].size:,} packages, "
        f"{relations:,} relations, {arrays['words'].size} words, {arrays['tag_names'].size} tags, "
        f"{int(arrays['tagged'].sum()):,} tagged; sections {', '.join(arrays['section_classes'])}"
    )


if __name__ == "__main__":
    main()

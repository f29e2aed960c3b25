"""Small files in the published forms."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

# Two graphs: a square with a diagonal (nodes 1-4) and a triangle (5-7); node 8 of graph 2 is alone.
TU = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n3, 4\n4, 3\n4, 1\n1, 4\n1, 3\n3, 1\n5, 6\n6, 5\n6, 7\n7, 6\n5, 7\n7, 5\n",
    "graph_indicator": "1\n1\n1\n1\n2\n2\n2\n2\n",
    "graph_labels": "-1\n1\n",
    "node_labels": "3\n3\n5\n9\n3\n5\n5\n3\n",
    "node_attributes": "1.0, 3.0\n0.25, 0.25\n2, 2\n0, 0\n-1, 0.5\n4, 4\n1, 0\n5, 5\n",
}


@pytest.fixture
def tu_folder(tmp_path: Path) -> Path:
    """A folder with the TU data set TINY."""
    folder = tmp_path / "TINY"
    folder.mkdir()
    for part, text in TU.items():
        (folder / f"TINY_{part}.txt").write_text(text)
    return folder


@pytest.fixture
def planetoid_arrays() -> dict[str, np.ndarray]:
    """The arrays of a Planetoid npz: six nodes in a ring, three features."""
    ring = np.arange(6)
    return {
        "edge_index": np.stack([np.r_[ring, (ring + 1) % 6], np.r_[(ring + 1) % 6, ring]]).astype(np.int32),
        "x_indptr": np.array([0, 1, 2, 3, 3, 4, 5], np.int32),
        "x_indices": np.array([0, 1, 2, 0, 1], np.int32),
        "x_data": np.array([1, 2, 3, 4, 5], np.float32),
        "x_shape": np.array([6, 3]),
        "y": np.array([0, 1, 0, 1, -1, 1]),
        "train": np.array([0, 1]),
        "val": np.array([2]),
        "test": np.array([3, 4, 5]),
    }


def debian_arrays() -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a debian_bookworm folder of four packages, by file."""
    from fastgmtl.data.debian import OUTWARD, RELATIONS

    edges = {name: np.zeros((2, 0), np.int32) for name in (*RELATIONS, *OUTWARD)}
    edges["depends"] = np.array([[0, 1, 2, 2], [1, 0, 2, 3]], np.int32)
    edges["suggests"] = np.array([[0], [1]], np.int32)
    edges["provides__virtual"] = np.array([[3, 1], [0, 1]], np.int32)
    edges["from_source"] = np.array([[0, 1, 2, 3], [0, 0, 2, 1]], np.int32)
    return {
        "edges": edges,
        "features": {
            "x_indptr": np.array([0, 1, 1, 2, 3], np.int32),
            "x_indices": np.array([0, 1, 0], np.int32),
            "x_shape": np.array([4, 2]),
        },
        "tasks": {
            "section": np.array([0, 1, -1, 1], np.int16),
            "section_classes": np.array(["games", "mail"]),
            "tag_indptr": np.array([0, 1, 1, 1, 2], np.int32),
            "tag_indices": np.array([2, 0], np.int32),
            "tag_shape": np.array([4, 3]),
            "tagged": np.array([True, False, True, True]),
            "log_installed_kib": np.array([1.0, 3.0, np.nan, 5.0], np.float32),
            "split": np.array([0, 0, 1, 2], np.int8),
        },
    }


@pytest.fixture
def debian_parts() -> dict[str, dict[str, np.ndarray]]:
    """See debian_arrays."""
    return debian_arrays()


# Two authors, three papers, one term; in HGB's global numbers authors are 0-1, papers 2-4, the term 5, venues 6-7.
HGB = {
    "info.dat": json.dumps(
        {
            "node.dat": {"node type": {"0": "author", "1": "paper", "2": "term", "3": "venue"}},
            "link.dat": {
                "link type": {
                    "0": {"start": "0", "end": "1", "meaning": "author-paper"},
                    "1": {"start": "1", "end": "0", "meaning": "paper-author"},
                    "2": {"start": "1", "end": "2", "meaning": "paper-has-term"},
                    "3": {"start": "1", "end": "3", "meaning": "paper-venue"},
                    "4": {"start": "1", "end": "1", "meaning": "cites"},
                }
            },
        }
    ),
    "meta.dat": json.dumps({f"Node Type_{k}": str(n) for k, n in enumerate((2, 3, 1, 2))}),
    "link.dat": "0\t2\t0\t1.0\n1\t4\t0\t0.5\n4\t1\t1\t1.0\n2\t0\t1\t1.0\n3\t5\t2\t1.0\n"
    "2\t6\t3\t1.0\n3\t7\t3\t1.0\n4\t6\t3\t1.0\n",
    "label.dat": "0\tA. One\t0\t1\n",
    "label.dat.test": "1\tB. Two\t0\t0\n",
}


@pytest.fixture
def hgb_folder(tmp_path: Path) -> Path:
    """A folder with a small HGB data set without node.dat."""
    folder = tmp_path / "SMALL"
    folder.mkdir()
    for name, text in HGB.items():
        (folder / name).write_text(text)
    return folder


class Touch:
    """A pickle that makes a file when it is read: what a hostile file would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle and the file that would be there had it been obeyed."""
    mark = tmp_path / "obeyed"
    return pickle.dumps(Touch(mark), protocol=2), mark

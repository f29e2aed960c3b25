"""What rspmm and neighbor_sample refuse at the border, with the exact words; test_border.py has the rest of them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from test_border import FUNCTIONS, SRC, D, E


@pytest.mark.parametrize(
    ("function", "changes", "error", "text"),
    [
        ("rspmm", {"to": 4}, ValueError, "rspmm: to must be 0 to 3"),
        ("rspmm", {"c": None}, ValueError, "rspmm: c is for edges alone"),
        ("rspmm", {"b": torch.ones(2, D + 1)}, ValueError, f"rspmm: b must have shape [2, {D}], got [2, {D + 1}]"),
        ("rspmm", {"y": torch.empty(E + 1)}, ValueError, "rspmm: y must have shape [9], got [10]"),
        ("rspmm", {"a": torch.ones(SRC, 1, D)}, ValueError, "rspmm: features must have two axes, and weights one"),
        (
            "rspmm",
            {"message": 2, "half": D},
            ValueError,
            "rspmm: half must divide the columns of a rotation into pairs of blocks, and be 0 else",
        ),
        (
            "intersect",
            {"pairs": torch.zeros(3, 2).long()},
            ValueError,
            "intersect: pairs must have shape [2, 2], got [3, 2]",
        ),
        (
            "intersect",
            {"without": torch.zeros(2).long()},
            ValueError,
            "intersect: without must have shape [K, Q], got [2]",
        ),
        (
            "intersect",
            {"counts": torch.zeros(2, 3).long()},
            ValueError,
            "intersect: counts must have shape [1, Q + 1] or [3, Q + 1]",
        ),
        (
            "intersect",
            {"counts": torch.zeros(3, 3).long()},
            ValueError,
            "intersect: both, first and second must be given as far as there are parts, or none to count",
        ),
        ("intersect", {"both": torch.zeros(1)}, TypeError, "intersect: columns must be an index"),
        (
            "neighbor_sample",
            {"seeds": torch.tensor([3])},
            IndexError,
            "neighbor_sample: every seed must be in [0, 3), got 3",
        ),
        (
            "neighbor_sample",
            {"seeds": torch.tensor([2], dtype=torch.int32)},
            TypeError,
            "neighbor_sample: seeds must be int64, got int32",
        ),
        (
            "neighbor_sample",
            {"sizes": [4]},
            ValueError,
            "neighbor_sample: a graph must have as many nodes as their types",
        ),
        ("neighbor_sample", {"ends": [(0, 1)]}, ValueError, "neighbor_sample: an edge type has an end of no node type"),
        (
            "neighbor_sample",
            {"fanouts": []},
            ValueError,
            "neighbor_sample: ends and fanouts must be given for every edge type",
        ),
        (
            "neighbor_sample",
            {"sizes": []},
            ValueError,
            "neighbor_sample: seeds must be given for every node type, or None",
        ),
    ],
)
def test_refused(
    function: str, changes: dict[str, Any], error: type[Exception], text: str, kernels: ModuleType
) -> None:
    with pytest.raises(error) as caught:
        FUNCTIONS[function](kernels, **changes)
    assert str(caught.value) == text

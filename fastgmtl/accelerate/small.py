"""Small inputs: when sorting edges into a Graph is worth its time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# Numbers along the edges (E x d) from which a graph pays off in the first call that uses it, and how many calls below
# that use the same edges before it does: bench/bench_accelerate.py, "new edges".
SMALL = 1 << 16
PATIENCE = 6

_seen: WeakIdKeyDictionary = WeakIdKeyDictionary()
_always = False


def is_worth_a_graph(edges: Any, numbers: int) -> bool:
    """Whether to build (or use) the Graph of ``edges`` for a call that moves ``numbers`` along them.

    A graph is built once and kept with its edges. For a small one that costs more than a call gains: edges that are new
    (those of a mini-batch) are left to the parent's path until they have come back a few times (those of a data set).
    """
    if numbers >= SMALL or _always:
        return True
    if isinstance(edges, Tensor) and edges.is_inference():  # nothing is kept for them
        return False
    version = getattr(edges, "_version", 0)
    seen = _seen.get(edges)
    if seen is None or seen[0] != version:
        seen = _seen[edges] = [version, 0]
    seen[1] += 1
    return seen[1] > PATIENCE


@contextlib.contextmanager
def always() -> Iterator[None]:
    """In the ``with`` block new edges of any size are sorted and run on the operators: for checks of their results."""
    global _always
    before, _always = _always, True
    try:
        yield
    finally:
        _always = before

"""Small inputs: when sorting edges into a Graph is worth its time."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Numbers along the edges (E x d) from which a graph pays off in the first call that uses it: for layers whose parent
# gathers and adds (or multiplies by a CSR matrix), and for layers whose parent does more in every call.
SMALL, SMALL_OF_MORE = 1 << 19, 1 << 17
# The same where the parent takes maxima over a sparse matrix in one product, kept or new.
SMALL_MATRIX = 1 << 22
# How many calls below that use the same edges before a graph pays off. All by bench/bench_accelerate.py, test_layer.
PATIENCE = 6

# Of each edges object, by its id: a reference to it, its version and how often it has come. Plain dictionaries are
# several times faster than weak ones, and this is asked in every call.
_seen: dict[int, list[Any]] = {}
_always = False


def is_worth_a_graph(edges: Any, numbers: int, small: int = SMALL) -> bool:
    """Whether to build (or use) the Graph of ``edges`` for a call that moves ``numbers`` along them.

    A graph is built once and kept with its edges. For a small one that costs more than a call gains: edges that are new
    (those of a mini-batch) are left to the parent's path until they have come back a few times (those of a data set).
    """
    if _always or numbers >= small:
        return True
    is_tensor = isinstance(edges, Tensor)
    if is_tensor and edges.is_inference():  # nothing is kept for them
        return False
    # Some parents mark a sparse matrix as coalesced in every call, which counts as a change of it.
    version = edges._version if is_tensor and edges.layout == torch.strided else 0
    seen = _seen.get(id(edges))
    if seen is None or seen[0]() is not edges:
        number = id(edges)
        _seen[number] = [weakref.ref(edges, lambda gone: _forget(number, gone)), version, 1]
        return False
    if seen[1] != version:
        seen[1:] = version, 0
    seen[2] += 1
    return bool(seen[2] > PATIENCE)


def _forget(number: int, gone: Any) -> None:
    if number in _seen and _seen[number][0] is gone:  # its number may be another's by now
        del _seen[number]


def is_always() -> bool:
    """Whether small inputs run on the operators now."""
    return _always


@contextlib.contextmanager
def always() -> Iterator[None]:
    """In the ``with`` block new edges of any size are sorted and run on the operators: for checks of their results."""
    global _always
    before, _always = _always, True
    try:
        yield
    finally:
        _always = before

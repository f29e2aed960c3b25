"""The graphs of the benches, from the table of shapes that they share with the tests."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cases

from fastgmtl import Graph

SIZES, EXPONENT = cases.SIZES, cases.EXPONENT


def edges(size: str, kind: str = "power_law") -> Tensor:
    """``[2, E]`` int64 of a named size, sorted by destination, without parallel edges."""
    return cases.large(kind, *SIZES[size], distinct=True).edge_index


@lru_cache(maxsize=4)
def graph(size: str, kind: str = "power_law") -> Graph:
    """The graph of a named size, with its transpose built: what a training run has after its first step."""
    num_nodes, _ = SIZES[size]
    made = Graph.from_edge_index(edges(size, kind), num_nodes, num_nodes)
    made.t()
    return made


def shuffled(edge_index: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The edges in random order, and the permutation."""
    order = torch.randperm(edge_index.size(1), generator=torch.Generator().manual_seed(seed))
    return edge_index[:, order].contiguous(), order


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal float32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

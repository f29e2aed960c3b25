"""Deterministic graphs for the benchmarks: power-law and uniform, without parallel edges."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastgmtl import Graph

SIZES = {"small": (20_000, 200_000), "big": (100_000, 1_000_000), "tiny": (2_000, 20_000)}
EXPONENT = 0.6  # the node of rank r has (expected) degree in proportion to r ** -EXPONENT


def power_law(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """``[2, E]`` int64, both ends drawn by rank ** -EXPONENT, independently ranked; sorted by destination."""
    rng = np.random.default_rng(seed)
    share = np.cumsum(np.arange(1, num_nodes + 1) ** -EXPONENT)
    share /= share[-1]
    src_of, dst_of = rng.permutation(num_nodes), rng.permutation(num_nodes)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        src, dst = (np.searchsorted(share, rng.random(count)) for _ in range(2))
        return src_of[src], dst_of[dst]

    return _distinct(draw, num_nodes, num_edges, rng)


def uniform(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """``[2, E]`` int64, both ends uniform; sorted by destination."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, num_nodes, count), rng.integers(0, num_nodes, count)

    return _distinct(draw, num_nodes, num_edges, rng)


def _distinct(draw, num_nodes: int, num_edges: int, rng: np.random.Generator) -> Tensor:
    """Exactly ``num_edges`` different pairs: torch's sparse gradients merge parallel edges, so there are none."""
    keys = np.empty(0, dtype=np.int64)
    while keys.size < num_edges:
        src, dst = draw(num_edges + num_edges // 4)
        keys = np.union1d(keys, dst * np.int64(num_nodes) + src)
    keys = np.sort(rng.permutation(keys)[:num_edges])
    return torch.from_numpy(np.stack([keys % num_nodes, keys // num_nodes]))


@lru_cache(maxsize=4)
def edges(size: str, kind: str = "power-law") -> Tensor:
    """``[2, E]`` int64 of a named size, sorted by destination."""
    return {"power-law": power_law, "uniform": uniform}[kind](*SIZES[size])


@lru_cache(maxsize=4)
def graph(size: str, kind: str = "power-law") -> Graph:
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

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_geometric", reason="accelerate_ swaps layers of torch_geometric")

from fastgmtl.accelerate.small import always

NODES, WIDTH = 12, 6


@pytest.fixture(autouse=True)
def _operators_for_small_inputs() -> Iterator[None]:
    torch.manual_seed(0)
    with always():
        yield


@pytest.fixture
def edge_index() -> Tensor:
    """Unsorted, with loops and parallel edges; the last node is isolated."""
    edges = torch.randint(0, NODES - 1, (2, 40))
    return torch.cat([edges, torch.tensor([[3, 3, 0, 0], [3, 3, 1, 1]])], dim=1)


@pytest.fixture
def simple_edges() -> Tensor:
    """Unsorted, every edge once and no loops: what every sparse layout can hold; the last node is isolated."""
    edges = torch.randint(0, NODES - 1, (2, 60))
    pairs = edges[:, edges[0] != edges[1]].unique(dim=1)
    return pairs[:, torch.randperm(pairs.size(1))]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(NODES, WIDTH)

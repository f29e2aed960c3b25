"""Heterogeneous data for a method: features of every node type in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset


class TypedInput(nn.Module):
    """Features of each node type, dense or sparse, to h [N, hidden] of all nodes: a linear map for each type.

    The nodes of a type without features have learned embeddings. Data without types are one type, with ``x``.
    """

    def __init__(self, dataset: Dataset, hidden: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        for name, number in _types(dataset).items():
            features = _features(dataset, name)
            self.maps[name] = nn.Embedding(number, hidden) if features is None else nn.Linear(features.shape[1], hidden)

    def forward(self, batch: Dataset, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """h [N, hidden], the node types in turn; ``masks`` [F_type] weigh the features of a type."""
        return torch.cat([self._of_type(batch, name, masks or {}) for name in _types(batch)])

    def _of_type(self, batch: Dataset, name: str, masks: Mapping[str, Tensor]) -> Tensor:
        given, features = self.maps[name], _features(batch, name)
        if isinstance(given, nn.Embedding) or features is None:
            return cast(Tensor, given.weight)
        weight, bias = cast(Tensor, given.weight), cast(Tensor, given.bias)
        if name in masks:
            weight = weight * masks[name]
        if features.layout == torch.strided:
            return F.linear(features, weight, bias)
        return torch.sparse.mm(features, weight.t()) + bias


def _types(dataset: Dataset) -> dict[str, int]:
    return {"node": dataset.num_nodes} if dataset.hetero is None else dict(dataset.hetero.num_nodes)


def _features(dataset: Dataset, name: str) -> Tensor | None:
    return dataset.x if dataset.hetero is None else dataset.features.get(name)


def edge_types(dataset: Dataset) -> tuple[Tensor, int]:
    """Type of each edge of ``dataset.graph``, int64 [E], and how many types there are."""
    if dataset.edge_type is None:
        return torch.zeros(dataset.graph.num_edges, dtype=torch.int64, device=dataset.graph.device), 1
    return dataset.edge_type, len(dataset.edge_type_names)

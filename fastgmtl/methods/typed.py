"""Heterogeneous data for a method: features of every node type in one table, and all typed edges between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph
from fastgmtl.hetero import HeteroGraph


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


@dataclass(frozen=True, eq=False)
class Typed:
    """All nodes and edges of a data set, with their types.

    hetero: the typed graph. graph: the same edges as one pattern over all nodes. edge_type: int64 [E], in the order of
    ``graph.edge_index()``, places in ``hetero.relations``.
    """

    hetero: HeteroGraph
    graph: Graph
    edge_type: Tensor


_known: WeakKeyDictionary[Dataset, Typed] = WeakKeyDictionary()


def typed(dataset: Dataset) -> Typed:
    """The typed nodes and edges of a data set; plain data are one type of nodes. Kept as long as the data set lives."""
    if dataset not in _known:
        hetero = dataset.hetero or _one_type(dataset)
        single = hetero.to_homogeneous()
        _known[dataset] = Typed(hetero, single.graph, single.edge_type)
    return _known[dataset]


def _one_type(dataset: Dataset) -> HeteroGraph:
    edges = dataset.graph.edge_index()
    if dataset.edge_type is None:
        relations = {"edge": edges}
    else:
        relations = {name: edges[:, dataset.edge_type == k] for k, name in enumerate(dataset.edge_type_names)}
    return HeteroGraph.from_dict({("node", name, "node"): e for name, e in relations.items()}, _types(dataset))


def of_x(dataset: Dataset, h: Tensor) -> Tensor:
    """Of a table h [N, ...] of all typed nodes the rows of ``dataset.x``: of all node types, or of those with tasks."""
    if dataset.hetero is None or dataset.node_types == dataset.hetero.node_types:
        return h
    return torch.cat([h[dataset.hetero.rows(name)] for name in dataset.node_types])

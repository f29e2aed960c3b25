"""A neighbour sampler for the loaders of PyTorch Geometric, which need no further package with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, FeatureStore, GraphStore, HeteroData
from torch_geometric.data.remote_backend_utils import num_nodes
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    NumNeighbors,
    SamplerOutput,
)
from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample

from fastgmtl.graph import Graph
from fastgmtl.ops import neighbor_sample
from fastgmtl.ops.neighbor_sample import EdgeType, NeighborSample

STORES = (FeatureStore, GraphStore)


class NeighborSampler(BaseSampler):  # type: ignore[misc]
    """Uniform sampling of neighbours, hop by hop: :func:`fastgmtl.ops.neighbor_sample` behind PyG's ``BaseSampler``.

    ::

        sampler = NeighborSampler(data, [10, 10])
        loader = NodeLoader(data, node_sampler=sampler, input_nodes=data.train_mask, batch_size=128, shuffle=True)
        links = LinkLoader(data, link_sampler=sampler, neg_sampling="binary", batch_size=128)

    Batches are those of PyG's NeighborLoader with pyg-lib (directional subgraphs): seeds first, ``batch_size``,
    ``n_id``, ``e_id``, ``input_id``, ``num_sampled_nodes`` and ``num_sampled_edges``. Not temporal, not weighted.

    Args:
        data: a ``Data`` or ``HeteroData`` with ``edge_index`` or ``adj_t``, or a pair (FeatureStore, GraphStore) of a
            graph with types; edges are sorted once, here.
        num_neighbors: how many edges a node draws at each hop, -1 for all; of each edge type, or the same for all.
        replace: draw with replacement.
        disjoint: every seed has a neighbourhood of its own; ``batch`` says whose a node is.
        generator: where the seed of each batch comes from; None for PyTorch's own, which a loader's workers seed
            differently.

    Raises TypeError for data of another kind, ValueError for a fan-out that is none.
    """

    def __init__(
        self,
        data: Any,
        num_neighbors: Sequence[int] | Mapping[EdgeType, Sequence[int]] | Any,
        replace: bool = False,
        disjoint: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        stored = (
            isinstance(data, tuple) and [isinstance(v, k) for v, k in zip(data, STORES, strict=False)] == [True] * 2
        )
        if not isinstance(data, Data | HeteroData) and not stored:
            raise TypeError(
                "NeighborSampler: data must be a Data, a HeteroData or a pair (FeatureStore, GraphStore), "
                f"got {type(data).__name__}"
            )
        self.num_neighbors = num_neighbors if isinstance(num_neighbors, NumNeighbors) else NumNeighbors(num_neighbors)
        self.replace, self.disjoint, self.generator = replace, disjoint, generator
        self.num_nodes: int | dict[str, int]
        self.graph: Graph | dict[EdgeType, Graph]
        if isinstance(data, tuple):
            self.graph, self.num_nodes = _stored(*data)
        elif isinstance(data, HeteroData):
            self.num_nodes = {name: data[name].num_nodes for name in data.node_types}
            self.graph = {
                kind: _graph(data[kind], self.num_nodes[kind[0]], self.num_nodes[kind[2]]) for kind in data.edge_types
            }
        else:
            self.num_nodes = data.num_nodes
            self.graph = _graph(data, data.num_nodes, data.num_nodes)

    def sample_from_nodes(self, inputs: NodeSamplerInput, **kwargs: Any) -> SamplerOutput | HeteroSamplerOutput:
        """The sample of a batch of nodes, for NodeLoader."""
        return node_sample(inputs, self._sample)

    def sample_from_edges(
        self, inputs: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> SamplerOutput | HeteroSamplerOutput:
        """The sample of a batch of edges and of negative ones, for LinkLoader."""
        return edge_sample(inputs, self._sample, self.num_nodes, self.disjoint, None, neg_sampling)

    @property
    def edge_permutation(self) -> None:
        """None: edges are named by their places in ``edge_index``."""
        return None

    def _sample(self, seeds: Any, seed_time: Any = None, **_: Any) -> SamplerOutput | HeteroSamplerOutput:
        if any(v is not None for v in (seed_time.values() if isinstance(seed_time, dict) else [seed_time])):
            raise ValueError("NeighborSampler: temporal sampling is not offered, and the input has times")
        kinds = list(self.graph) if isinstance(self.graph, dict) else None
        graph: Any = self.graph
        found: Any = neighbor_sample(
            graph,
            seeds,
            self.num_neighbors.get_values(kinds),
            self.replace,
            self.disjoint,
            self.generator,
            self.num_nodes if isinstance(self.num_nodes, dict) else None,
        )
        kind = SamplerOutput if isinstance(found, NeighborSample) else HeteroSamplerOutput
        return kind(
            node=found.node,
            row=found.row,
            col=found.col,
            edge=found.edge,
            batch=found.batch,
            num_sampled_nodes=found.num_nodes,
            num_sampled_edges=found.num_edges,
        )


def _stored(features: FeatureStore, edges: GraphStore) -> tuple[dict[EdgeType, Graph], dict[str, int]]:
    """The graphs by edge type, and the numbers of nodes by node type."""
    kinds = [attr.edge_type for attr in edges.get_all_edge_attrs()]
    if not kinds or not all(isinstance(kind, tuple) for kind in kinds):
        raise ValueError("NeighborSampler: the edges of a GraphStore must have types (source, relation, destination)")
    counts = {name: num_nodes(features, edges, name) for kind in kinds for name in (kind[0], kind[2])}
    rows, columns, places = edges.coo()
    graphs = {}
    for kind in dict.fromkeys(kinds):
        pairs, place = torch.stack((rows[kind], columns[kind])).cpu(), (places or {}).get(kind)
        if place is not None:  # edges are named by where they are in the store
            back = torch.empty_like(place)
            back[place] = torch.arange(len(place))
            pairs = pairs[:, back]
        graphs[kind] = Graph.from_edge_index(pairs, counts[kind[0]], counts[kind[2]])
    return graphs, counts


def _graph(store: Any, num_src: int, num_dst: int) -> Graph:
    """The graph of a storage of edges, on the CPU."""
    if "edge_index" in store:
        return Graph.from_edge_index(store.edge_index.cpu().as_subclass(Tensor), num_src, num_dst)
    if "adj_t" in store:
        return Graph.from_sparse(store.adj_t.cpu())
    return Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), num_src, num_dst)

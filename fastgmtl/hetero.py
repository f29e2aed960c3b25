"""HeteroGraph: node types as ranges of one numbering, and for each of them one pattern of all relations into it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastgmtl import convert
from fastgmtl.graph import Graph, _plain

Relation = tuple[str, str, str]  # (source type, name, destination type)


class Homogeneous(NamedTuple):
    """A heterogeneous graph without its types: edge_type [E] and node_type [N], int64, say what they were."""

    graph: Graph
    edge_type: Tensor
    node_type: Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """The relations into one node type, as one pattern.

    ``graph`` has a row for each (node, relation), row = node * R + relation, and the nodes of all types as columns
    (global numbers): one pass over it serves all relations, and a node's R results lie side by side, [N * R, d] is
    [N, R, d]. Its edge order is that of the first relation's edge_index, then the second's, and so on. ``relations``
    are R, ``relation_ids`` their places in HeteroGraph.relations, ``sizes`` their numbers of edges.
    """

    node_type: str
    num_nodes: int
    relations: tuple[Relation, ...]
    relation_ids: tuple[int, ...]
    sizes: tuple[int, ...]
    graph: Graph

    @property
    def num_relations(self) -> int:
        """R, the number of relations into the node type."""
        return len(self.relations)

    def by_node(self) -> Graph:
        """The same edges, in the same order, with one row for each node: [N] rows, without the relation. Kept."""

        def make() -> Graph:
            graph, count = self.graph, self.num_relations
            row_ptr = graph.row_ptr[::count].contiguous() if count else graph.row_ptr.new_zeros(self.num_nodes + 1)
            return Graph(row_ptr, graph.col, graph.edge_id, graph.num_src)

        return self.graph._once("by_node", make)

    def edge_type(self) -> Tensor:
        """Which of the R relations each edge belongs to, int64 [E], in edge order. Kept."""

        return self.graph._once("edge_type", lambda: _numbered(self.sizes, self.graph.device))

    def join_edges(self, values: Mapping[Relation, Tensor]) -> Tensor:
        """Per-edge values of each relation, [E_r, ...], as one tensor [E, ...] in edge order."""
        return torch.cat([values[relation] for relation in self.relations])

    def split_edges(self, value: Tensor) -> dict[Relation, Tensor]:
        """Per-edge values [E, ...] by relation, each in the order of its edge_index: undoes :meth:`join_edges`."""
        return dict(zip(self.relations, value.split(self.sizes), strict=True))

    def edge_index(self) -> dict[Relation, Tensor]:
        """Edges by relation, int64 [2, E_r] as they were given, but in global numbers of the sources."""
        count = max(1, self.num_relations)
        src, row = self.graph.edge_index()
        return {r: e.t().contiguous() for r, e in self.split_edges(torch.stack([src, row // count], 1)).items()}

    def to(self, device: torch.device | str) -> Packed:
        """The same on another device."""
        return Packed(
            self.node_type, self.num_nodes, self.relations, self.relation_ids, self.sizes, self.graph.to(device)
        )


class HeteroGraph:
    """An immutable graph with typed nodes and relations (source type, name, destination type), as in PyG.

    The nodes of all types have one numbering: those of ``node_types[0]`` first, then those of the next type
    (:meth:`rows`). ``num_nodes`` and ``num_edges`` are sizes by node type and by relation. :meth:`packed` holds what
    points into a node type; a relation may have no edges and a node type no relation into it. Build it with
    :meth:`from_dict` or :meth:`from_hetero_data`.
    """

    node_types: tuple[str, ...]
    relations: tuple[Relation, ...]
    num_nodes: Mapping[str, int]
    num_edges: Mapping[Relation, int]
    device: torch.device
    _counts: dict[str, int]  # num_nodes, for what is compiled: Dynamo does not follow the proxy
    _starts: dict[str, int]
    _packed: dict[str, Packed]
    _lazy: dict[str, Any]

    def __init__(self, num_nodes: Mapping[str, int], relations: Iterable[Relation], packed: Mapping[str, Packed]):
        """Wrap patterns that are known to be valid; use a ``from_`` method for anything else."""
        starts = [0, *accumulate(num_nodes.values())]
        edges = {r: size for part in packed.values() for r, size in zip(part.relations, part.sizes, strict=True)}
        relations = tuple(relations)
        vars(self).update(
            node_types=tuple(num_nodes),
            relations=relations,
            num_nodes=MappingProxyType(dict(num_nodes)),
            _counts=dict(num_nodes),
            num_edges=MappingProxyType({relation: edges[relation] for relation in relations}),
            device=next((p.graph.device for p in packed.values()), torch.device("cpu")),
            _starts=dict(zip(num_nodes, starts, strict=False)),
            _packed=dict(packed),
            _lazy={},
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"HeteroGraph: {name} cannot be set, a graph is immutable; build a new one")

    # ------------------------------------------------------------------------------------------- construction

    @classmethod
    def from_dict(cls, edge_index_dict: Mapping[Relation, Tensor], num_nodes_dict: Mapping[str, int]) -> HeteroGraph:
        """Graph of edge indices by relation and numbers of nodes by type; both keep their order.

        ``edge_index_dict`` has keys (source type, name, destination type) and values int32 or int64 [2, E_r], row 0
        the sources and row 1 the destinations, each numbered within its type. Edges may come in any order and repeat.

        Raises TypeError for what is not of these types, ValueError for a wrong shape or an unknown node type,
        IndexError for an index out of range; each with the name of the relation.
        """
        counts = _counts(num_nodes_dict)
        edges = _edges(edge_index_dict, counts)
        starts = dict(zip(counts, [0, *accumulate(counts.values())], strict=False))
        device = next((e.device for e in edges.values()), torch.device("cpu"))
        packed = {}
        for node_type, number in counts.items():
            into = [(i, relation) for i, relation in enumerate(edges) if relation[2] == node_type]
            parts = [edges[relation] for _, relation in into]
            rows = [part[1].long() * len(parts) + r for r, part in enumerate(parts)]
            cols = [part[0].long() + starts[relation[0]] for part, (_, relation) in zip(parts, into, strict=True)]
            empty = torch.empty(0, dtype=torch.int64, device=device)
            pairs = torch.stack([torch.cat([empty, *cols]), torch.cat([empty, *rows])])
            packed[node_type] = Packed(
                node_type,
                number,
                tuple(relation for _, relation in into),
                tuple(i for i, _ in into),
                tuple(part.size(1) for part in parts),
                Graph.from_edge_index(pairs, sum(counts.values()), number * len(parts)),
            )
        return cls(counts, edges, packed)

    @classmethod
    def from_hetero_data(cls, data: Any) -> HeteroGraph:
        """Graph of a PyG ``HeteroData``: the edge_index (or adj_t) of its edge types, num_nodes of its node types."""
        edges = {}
        for relation in data.edge_types:
            store = data[relation]
            if "edge_index" in store:
                edges[relation] = store["edge_index"]
            elif "adj_t" in store:
                edges[relation] = convert.sparse_to_coo(store["adj_t"])[0]
            else:
                raise ValueError(f"HeteroGraph: relation {_show(relation)} has neither edge_index nor adj_t")
        return cls.from_dict(edges, {node_type: data[node_type].num_nodes for node_type in data.node_types})

    # ------------------------------------------------------------------------------------------- what it knows

    def packed(self, node_type: str) -> Packed:
        """All relations into ``node_type`` as one pattern over rows (node, relation)."""
        return self._packed[self._known(node_type)]

    def rows(self, node_type: str) -> slice:
        """Where the nodes of a type are in a table of all nodes."""
        start = self._starts[self._known(node_type)]
        return slice(start, start + self._counts[node_type])

    def out_of(self, node_type: str) -> tuple[Relation, ...]:
        """The relations that leave a node type, in order."""
        self._known(node_type)
        return tuple(relation for relation in self.relations if relation[0] == node_type)

    def by_source(self) -> Graph:
        """All edges as one pattern: a row for each node, a column for each (node, relation out of its type). Kept.

        Rows are the nodes of all types in turn; columns, for each type in turn, its nodes and for each of these its
        relations (:meth:`out_of`). So a table of what each node sends along each relation is [N_type * R_type, d] of
        the types below each other. Edges are in the order of :meth:`to_homogeneous`.
        """
        if "by_source" not in self._lazy:
            with _plain():
                self._lazy["by_source"] = self._sources()
        return self._lazy["by_source"]

    def _sources(self) -> Graph:
        leaving = {t: self.out_of(t) for t in self.node_types}
        sizes = [self._counts[t] * len(leaving[t]) for t in self.node_types]
        first = dict(zip(self.node_types, [0, *accumulate(sizes)], strict=False))
        parts = [torch.empty(2, 0, dtype=torch.int64, device=self.device)]
        for relation, (src, dst) in self.edge_index_dict().items():
            others = leaving[relation[0]]
            columns = first[relation[0]] + src * len(others) + others.index(relation)
            parts.append(torch.stack([columns, self._starts[relation[2]] + dst]))
        return Graph.from_edge_index(torch.cat(parts, dim=1), sum(sizes), sum(self._counts.values()))

    def join_nodes(self, values: Mapping[str, Tensor]) -> Tensor:
        """Per-node values of each type, [N_type, ...], as one table [N, ...] of all nodes."""
        return torch.cat([values[node_type] for node_type in self.node_types])

    def split_nodes(self, value: Tensor) -> dict[str, Tensor]:
        """A table [N, ...] of all nodes by node type: undoes :meth:`join_nodes`."""
        return dict(zip(self.node_types, value.split(list(self._counts.values())), strict=True))

    def edge_index_dict(self) -> dict[Relation, Tensor]:
        """Edge indices by relation, int64 [2, E_r], as they were given to :meth:`from_dict`."""
        found = {}
        for part in self._packed.values():
            for relation, edges in part.edge_index().items():
                edges[0] -= self._starts[relation[0]]
                found[relation] = edges
        return {relation: found[relation] for relation in self.relations}

    def to_hetero_data(self) -> Any:
        """A PyG ``HeteroData`` with num_nodes and edge_index; PyTorch Geometric is imported here."""
        from torch_geometric.data import HeteroData

        data = HeteroData()
        for node_type, number in self._counts.items():
            data[node_type].num_nodes = number
        for relation, edges in self.edge_index_dict().items():
            data[relation].edge_index = edges
        return data

    def to_homogeneous(self) -> Homogeneous:
        """One graph of all nodes and edges, in the order of ``node_types`` and ``relations``, and what they were."""
        start, edges = self._starts, self.edge_index_dict()
        parts = [e + e.new_tensor([[start[r[0]]], [start[r[2]]]]) for r, e in edges.items()]
        pairs = torch.cat([torch.empty(2, 0, dtype=torch.int64, device=self.device), *parts], dim=1)
        total = sum(self._counts.values())
        kinds = [_numbered(sizes.values(), self.device) for sizes in (self.num_edges, self._counts)]
        return Homogeneous(Graph.from_edge_index(pairs, total, total), *kinds)

    # ------------------------------------------------------------------------------------------- changed copies

    def add_inverse_relations(self, relations: Iterable[Relation] | None = None) -> HeteroGraph:
        """The graph with (b, rev_x, a) appended for each relation (a, x, b) given, or for all: its edges reversed."""
        edges = self.edge_index_dict()
        chosen = [self._known_relation(r) for r in (self.relations if relations is None else relations)]
        return self._with({(r[2], f"rev_{r[1]}", r[0]): edges[r].flip(0) for r in chosen})

    def add_self_relations(self, node_types: Iterable[str] | None = None) -> HeteroGraph:
        """The graph with (a, self, a) appended for each node type given, or for all: one edge i -> i for each node."""
        chosen = [self._known(t) for t in (self.node_types if node_types is None else node_types)]
        loops = {t: torch.arange(self._counts[t], device=self.device).repeat(2, 1) for t in chosen}
        return self._with({(t, "self", t): e for t, e in loops.items()})

    def _with(self, more: Mapping[Relation, Tensor]) -> HeteroGraph:
        taken = next((relation for relation in more if relation in self.num_edges), None)
        if taken is not None:
            raise ValueError(f"HeteroGraph: relation {_show(taken)} must not be there already")
        return HeteroGraph.from_dict(self.edge_index_dict() | dict(more), self._counts)

    def to(self, device: torch.device | str) -> HeteroGraph:
        """The graph on another device, with what has been computed for it; itself if it is there already."""
        if torch.device(device) == self.device:
            return self
        return HeteroGraph(self._counts, self.relations, {t: p.to(device) for t, p in self._packed.items()})

    # ------------------------------------------------------------------------------------------- the rest

    def _known(self, node_type: str) -> str:
        if node_type not in self._counts:
            known = ", ".join(self.node_types)
            raise ValueError(f"HeteroGraph: node type {node_type!r} is unknown; this graph has {known or 'none'}")
        return node_type

    def _known_relation(self, relation: Relation) -> Relation:
        if relation not in self.num_edges:
            known = ", ".join(map(_show, self.relations))
            raise ValueError(f"HeteroGraph: relation {relation!r} is unknown; this graph has {known or 'none'}")
        return relation

    def __reduce__(self) -> Any:
        return HeteroGraph, (dict(self._counts), self.relations, self._packed)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{t}={n}" for t, n in self._counts.items())
        edges = ", ".join(f"{_show(r)}={n}" for r, n in self.num_edges.items())
        return f"HeteroGraph(nodes: {nodes or 'none'}; edges: {edges or 'none'}; device='{self.device}')"


_known_graphs: WeakIdKeyDictionary = WeakIdKeyDictionary()


def as_hetero(edges: Any, num_nodes: Mapping[str, int]) -> HeteroGraph:
    """The HeteroGraph of what a layer is given: a HeteroGraph, or a dict of edge indices or sparse matrices (adj_t).

    That of a dict is kept as long as its first tensor lives and none of its tensors is changed in place or replaced.
    """
    if isinstance(edges, HeteroGraph):
        if edges._counts != dict(num_nodes):
            raise ValueError(f"the graph has the nodes {edges._counts}, the features are for {dict(num_nodes)}")
        return edges

    def make() -> HeteroGraph:
        plain = {
            r: e if isinstance(e, Tensor) and e.layout == torch.strided else convert.sparse_to_coo(e)[0]
            for r, e in edges.items()
        }
        return HeteroGraph.from_dict(plain, num_nodes)

    tensors = list(edges.values()) if isinstance(edges, Mapping) else []
    if not tensors or any(e.is_inference() if isinstance(e, Tensor) else not hasattr(e, "coo") for e in tensors):
        return make()
    versions = tuple(getattr(e, "_version", 0) for e in tensors)
    stamp = tuple(edges), tuple(id(e) for e in tensors), versions, tuple(num_nodes.items())
    known = _known_graphs.get(tensors[0])
    if known is None or known[0] != stamp or any(ref() is not e for ref, e in zip(known[1], tensors, strict=True)):
        with _plain():
            known = (stamp, [weakref.ref(e) for e in tensors], make())
        _known_graphs[tensors[0]] = known
    return known[2]


def _show(relation: Relation) -> str:
    return f"({', '.join(relation)})"


def _numbered(sizes: Iterable[int], device: torch.device) -> Tensor:
    """0 as often as the first size, 1 as often as the second, and so on."""
    counts = list(sizes)
    index = torch.arange(len(counts), device=device)
    counted = torch.tensor(counts, dtype=torch.int64, device=device)
    return index.repeat_interleave(counted, output_size=sum(counts))


def _counts(num_nodes_dict: Any) -> dict[str, int]:
    if not isinstance(num_nodes_dict, Mapping):
        raise TypeError(
            f"HeteroGraph: num_nodes_dict must map node types to numbers of nodes, got {type(num_nodes_dict).__name__}"
        )
    for node_type in num_nodes_dict:
        if not isinstance(node_type, str):
            raise TypeError(f"HeteroGraph: a node type must be a string, got {node_type!r}")
    with _named("HeteroGraph"):
        return {t: convert.check_count(f"num_nodes of {t}", n) for t, n in num_nodes_dict.items()}


def _edges(edge_index_dict: Any, counts: Mapping[str, int]) -> dict[Relation, Tensor]:
    if not isinstance(edge_index_dict, Mapping):
        raise TypeError(
            f"HeteroGraph: edge_index_dict must map relations to edge indices, got {type(edge_index_dict).__name__}"
        )
    edges: dict[Relation, Tensor] = {}
    for relation, edge_index in edge_index_dict.items():
        if not isinstance(relation, tuple) or len(relation) != 3 or not all(isinstance(part, str) for part in relation):
            raise TypeError(
                "HeteroGraph: a relation must be (source type, name, destination type), three strings, "
                f"got {relation!r}"
            )
        who = f"HeteroGraph: relation {_show(relation)}"
        with _named(who):
            edges[relation] = convert.plain_edge_index(edge_index)
        first = next(iter(edges.values())).device
        if edges[relation].device != first:
            raise ValueError(f"{who}: edges must be on one device, got {first} and {edges[relation].device}")
        for side, node_type, index in zip(
            ("source", "destination"), (relation[0], relation[2]), edges[relation], strict=True
        ):
            if node_type not in counts:
                known = ", ".join(counts) or "none"
                raise ValueError(f"{who}: node type {node_type} is unknown; num_nodes_dict has {known}")
            _check_range(who, f"{side} ({node_type})", index, counts[node_type])
    return edges


def _check_range(who: str, what: str, index: Tensor, size: int) -> None:
    bad = (index < 0) | (index >= size)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise IndexError(f"{who}: every {what} must be in [0, {size}), edge {at} has {int(index[at])}")


@contextlib.contextmanager
def _named(who: str) -> Iterator[None]:
    """Errors of the block about a graph say which part of it they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{who}: {str(error).removeprefix('graph: ')}") from None

"""Graph: a sparsity pattern sorted by destination, and its transpose, built once and shared by every operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastgmtl import convert, csr
from fastgmtl.streams import Mark, is_capturing, refuse_capture


class Graph:
    """An immutable directed graph, stored by destination rows (CSR).

    Row i holds the edges that point to node i. ``row_ptr`` [num_dst + 1] (int64) bounds the rows, ``col`` [E] is the
    source of each edge (int32 where sizes fit, else int64), ``edge_id`` [E] its position in the order in which the
    user gave the edges, or None where that order was sorted by destination already. Parallel edges and self loops are
    kept. Build it with :meth:`from_edge_index` or one of the other ``from_`` methods; the transpose is built on first
    need (:meth:`t`) and kept. Everything an operator needs of a graph is computed once, here.

    On CUDA the host waits for the GPU while edges are checked and sorted: at construction and at the first :meth:`t`.
    What is kept may be used on any stream. A CUDA graph cannot capture a sort: run one step before the capture.
    """

    num_src: int
    num_dst: int
    row_ptr: Tensor
    col: Tensor
    edge_id: Tensor | None
    parted: ClassVar[bool] = False  # whether its nodes lie on several ranks: see fastgmtl.distributed.Part

    def __init__(self, row_ptr: Tensor, col: Tensor, edge_id: Tensor | None, num_src: int) -> None:
        """Wrap sorted arrays that are known to be valid; use a ``from_`` method for anything else."""
        values: dict[str, Any] = {
            "row_ptr": row_ptr,
            "col": col,
            "edge_id": edge_id,
            "num_src": num_src,
            "num_dst": row_ptr.size(0) - 1,
            "num_edges": col.size(0),
            "pattern": (row_ptr, col, edge_id, num_src),
            "device_type": col.device.type,
            "_lazy": {},
            "_made": {},
        }
        # One by one: torch.compile of PyTorch 2.9 cannot trace vars(self).update.
        for name, value in values.items():
            object.__setattr__(self, name, value)

    num_edges: int
    pattern: tuple[Tensor, Tensor, Tensor | None, int]  # what a kernel reads
    device_type: str
    _lazy: dict[Any, Any]
    _made: dict[Any, Mark]  # on CUDA: from when on what is in _lazy is there

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Graph: {name} cannot be set, a graph is immutable; build a new one")

    # ------------------------------------------------------------------------------------------- construction

    @classmethod
    def from_edge_index(cls, edge_index: Tensor, num_src: int | None = None, num_dst: int | None = None) -> Graph:
        """Graph of ``edge_index`` [2, E], int32 or int64: row 0 the sources, row 1 the destinations (as in PyG).

        Edges may come in any order, repeat and be self loops. ``num_src`` and ``num_dst`` are the numbers of source
        and destination nodes; if one is missing it equals the other, if both are, they are the largest index + 1.

        Raises TypeError for what is not an integer tensor, ValueError for a wrong shape, IndexError (with the
        offending value and its position) for an index out of range.
        """
        edge_index = convert.plain_edge_index(edge_index)
        if num_src is None and num_dst is None:
            refuse_capture("nodes cannot be counted", edge_index.device.type)
            num_src = num_dst = int(edge_index.max()) + 1 if edge_index.numel() else 0
        num_src = convert.check_count("num_src", num_dst if num_src is None else num_src)
        num_dst = convert.check_count("num_dst", num_src if num_dst is None else num_dst)
        row_ptr, col, edge_id = csr.from_coo(edge_index[1], edge_index[0], num_dst, num_src)
        return cls(row_ptr, col, edge_id, num_src)

    @classmethod
    def from_csr(cls, row_ptr: Tensor, col: Tensor, num_src: int | None = None) -> Graph:
        """Graph of destination rows: ``row_ptr`` [num_dst + 1], ``col`` [E] (sources). Edge order is row order."""
        row_ptr, col, num_src = convert.check_csr(row_ptr, col, num_src)
        return cls(row_ptr, col, None, num_src)

    @classmethod
    def from_sparse(cls, adj_t: Any) -> Graph:
        """Graph of a transposed adjacency matrix: entry (i, j) is the edge j -> i (PyG's ``adj_t``).

        Takes torch sparse tensors (COO, CSR, CSC) and torch_sparse's ``SparseTensor``. Values are not part of a graph:
        :func:`fastgmtl.convert.sparse_weight` returns them in edge order.
        """
        edge_index, num_dst, num_src = convert.sparse_to_coo(adj_t)
        return cls.from_edge_index(edge_index, num_src, num_dst)

    @classmethod
    def from_data(cls, data: Any) -> Graph:
        """Graph of a PyG ``Data`` or ``Batch`` (its ``edge_index`` or ``adj_t``, and its ``num_nodes``)."""
        return convert.from_data(cls, data)

    @classmethod
    def from_dgl(cls, graph: Any) -> Graph:
        """Graph of a homogeneous DGLGraph, through its COO form; DGL itself is not imported."""
        src, dst = graph.edges(form="uv", order="eid")
        num = graph.num_nodes()
        return cls.from_edge_index(torch.stack([src, dst]), num, num)

    @classmethod
    def batch(cls, graphs: Sequence[Graph]) -> Graph:
        """One block-diagonal graph of several; edges keep their order, graph after graph. :meth:`unbatch` undoes it."""
        if not graphs:
            raise ValueError("Graph.batch: at least one graph is required, got an empty sequence")
        src_sizes = [g.num_src for g in graphs]
        dst_sizes = [g.num_dst for g in graphs]
        starts, src, dst = [], 0, 0
        for g in graphs:
            starts.append((src, dst))
            src, dst = src + g.num_src, dst + g.num_dst
        parts = [
            g.edge_index() + torch.tensor([[s], [d]], device=g.device) for g, (s, d) in zip(graphs, starts, strict=True)
        ]
        out = cls.from_edge_index(torch.cat(parts, dim=1), src, dst)
        out._lazy["parts"] = (src_sizes, dst_sizes, [g.num_edges for g in graphs])
        return out

    def unbatch(self) -> list[Graph]:
        """The graphs that :meth:`batch` joined."""
        if "parts" not in self._lazy:
            raise ValueError("Graph.unbatch: this graph was not made by Graph.batch")
        src_sizes, dst_sizes, edges = self._lazy["parts"]
        out, src, dst = [], 0, 0
        for part, n_src, n_dst in zip(self.edge_index().split(edges, dim=1), src_sizes, dst_sizes, strict=True):
            shift = torch.tensor([[src], [dst]], device=self.device)
            out.append(Graph.from_edge_index(part - shift, n_src, n_dst))
            src, dst = src + n_src, dst + n_dst
        return out

    # ------------------------------------------------------------------------------------------- what it knows

    @property
    def device(self) -> torch.device:
        """Device of the index tensors."""
        return self.col.device

    @property
    def is_square(self) -> bool:
        """Whether sources and destinations are the same number of nodes."""
        return self.num_src == self.num_dst

    def _once(self, key: Any, make: Any) -> Any:
        if key in self._lazy:
            return self._kept(key)
        with _plain():
            return self._keep(key, make())

    def _keep(self, key: Any, value: Any) -> Any:
        if is_capturing(self.device_type):
            return value
        mark = self._mark()
        if mark is not None:
            self._made[key] = mark
        self._lazy[key] = value
        return value

    def _mark(self) -> Mark | None:
        """On CUDA, where other streams have to wait for what has just been made."""
        return Mark(self.device) if self.device_type == "cuda" and not csr.is_symbolic(self.col) else None

    def _kept(self, key: Any) -> Any:
        if key in self._made and not torch.compiler.is_compiling():
            self._made[key].wait()
        return self._lazy[key]

    def edge_rows(self) -> Tensor:
        """Destination of each edge in row order, int64 [E]."""

        def make() -> Tensor:
            rows = torch.arange(self.num_dst, device=self.device)
            return rows.repeat_interleave(self.row_ptr.diff(), output_size=self.num_edges)

        return self._once("rows", make)

    def edge_index(self) -> Tensor:
        """``[2, E]`` int64 (sources, destinations), in the order in which the user gave the edges."""
        return self.unsort_edges(torch.stack([self.col.long(), self.edge_rows()], dim=1)).t().contiguous()

    def sort_edges(self, value: Tensor) -> Tensor:
        """Per-edge values [E, ...] from the user's order into row order."""
        return value if self.edge_id is None else value[self.edge_id.long()]

    def unsort_edges(self, value: Tensor) -> Tensor:
        """Per-edge values [E, ...] from row order into the user's order."""
        if self.edge_id is None:
            return value
        return torch.empty_like(value).index_copy(0, self.edge_id.long(), value)

    def in_degree(self) -> Tensor:
        """Number of edges into each destination, int64 [num_dst]."""
        return self.row_ptr.diff()

    def out_degree(self) -> Tensor:
        """Number of edges out of each source, int64 [num_src]."""
        return self.t().row_ptr.diff()

    def inverse_degree(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``1 / max(1, in_degree)`` [num_dst]: what turns a sum over a row into its mean."""
        return self._once(("inverse", dtype), lambda: self.in_degree().clamp(min=1).to(dtype).reciprocal())

    def t(self) -> Graph:
        """The transposed graph: the same edges, with the same edge ids, from destination to source. Kept."""
        if "transpose" in self._lazy:
            return self._kept("transpose")
        with _plain():
            row_ptr, col, edge_id = csr.transpose(self.row_ptr, self.col, self.edge_id, self.num_src)
        back = Graph(row_ptr, col, edge_id, self.num_dst)
        back._lazy["transpose"] = self
        return self._keep("transpose", back)

    def neighbor_sets(self) -> Graph:
        """The graph whose rows are sets: columns ascend, of parallel edges there is one. Its edges are new. Kept."""
        return self._once("sets", self._as_sets)

    def _as_sets(self) -> Graph:
        # Sorted by row, then (stable) by column, then by row.
        back = self.t()
        row_ptr, col, _ = csr.transpose(back.row_ptr, back.col, None, self.num_dst)
        rows, new = self.edge_rows(), torch.ones(self.num_edges, dtype=torch.bool, device=self.device)
        new[1:] = (col[1:] != col[:-1]) | (rows[1:] != rows[:-1])
        count = torch.zeros(self.num_edges + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(new, 0, out=count[1:])
        return Graph(count[row_ptr], col[new], None, self.num_src)

    # ------------------------------------------------------------------------------------------- changed copies

    def add_self_loops(self) -> Graph:
        """The graph with one edge i -> i appended (as edge E + i) for every node i; existing loops stay. Kept.

        Rows stay sorted: the loop goes to the end of its row, so nothing is sorted again.
        """
        if not self.is_square:
            raise ValueError(
                "Graph.add_self_loops: the graph must have as many sources as destinations, got "
                f"{self.num_src} and {self.num_dst}"
            )
        return self._once("looped", self._with_loops)

    def _with_loops(self) -> Graph:
        nodes, total = torch.arange(self.num_dst + 1, device=self.device), self.num_edges + self.num_dst
        dtype = csr.index_dtype(total, self.num_src)
        row_ptr = self.row_ptr + nodes
        old = torch.arange(self.num_edges, device=self.device)
        place, loop = old + self.edge_rows(), row_ptr[1:] - 1
        edge_id = old if self.edge_id is None else self.edge_id
        out = torch.empty(2, total, dtype=dtype, device=self.device)
        out[:, place] = torch.stack([self.col, edge_id]).to(dtype)
        out[:, loop] = torch.stack([nodes[:-1], nodes[:-1] + self.num_edges]).to(dtype)
        return Graph(row_ptr, out[0], out[1], self.num_src)

    def to(self, device: torch.device | str) -> Graph:
        """The graph on another device, with what has been computed for it; itself if it is there already."""
        if torch.device(device) == self.device:
            return self
        return self._map(lambda tensor: tensor.to(device))

    def pin_memory(self) -> Graph:
        """The graph in page-locked memory, for an asynchronous copy to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """As of a tensor: memory of the graph, and of what it keeps, is not reused before ``stream`` has done its work.

        Needed where a graph is dropped while a stream other than the one it was made on may still read it.
        """
        left: list[Any] = [self]
        seen = set()
        while left:
            value = left.pop()
            if isinstance(value, Tensor):
                value.record_stream(stream)
            elif isinstance(value, tuple):
                left.extend(value)
            elif isinstance(value, Graph) and id(value) not in seen:
                seen.add(id(value))
                left.extend((*value.pattern, *value._lazy.values()))

    def _map(self, change: Any) -> Graph:
        def moved(graph: Graph) -> Graph:
            edge_id = None if graph.edge_id is None else change(graph.edge_id)
            return Graph(change(graph.row_ptr), change(graph.col), edge_id, graph.num_src)

        out = moved(self)
        if "transpose" in self._lazy:
            out._lazy["transpose"] = moved(self._lazy["transpose"])
            out._lazy["transpose"]._lazy["transpose"] = out
        if "parts" in self._lazy:
            out._lazy["parts"] = self._lazy["parts"]
        return out

    def __reduce__(self) -> Any:
        parts = self._lazy.get("parts")
        return _rebuild, (self.row_ptr, self.col, self.edge_id, self.num_src, parts)

    def __repr__(self) -> str:
        return (
            f"Graph(num_src={self.num_src}, num_dst={self.num_dst}, num_edges={self.num_edges}, "
            f"index={str(self.col.dtype).removeprefix('torch.')}, device='{self.device}')"
        )


def _rebuild(row_ptr: Tensor, col: Tensor, edge_id: Tensor | None, num_src: int, parts: Any) -> Graph:
    out = Graph(row_ptr, col, edge_id, num_src)
    if parts is not None:
        out._lazy["parts"] = parts
    return out


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def as_graph(edges: Any, num_src: int, num_dst: int) -> Graph:
    """The Graph of whatever a layer is given: a Graph, an edge_index, a sparse matrix (``adj_t``).

    The graph of an edge_index tensor is kept as long as the tensor lives and is not changed in place, so that the
    layers of a model sort the edges once, not once a layer and step.
    """
    graph = edges if isinstance(edges, Graph) else _kept_graph(edges, num_src, num_dst)
    if (graph.num_src, graph.num_dst) != (num_src, num_dst):
        raise ValueError(
            f"the graph has {graph.num_src} sources and {graph.num_dst} destinations, "
            f"the features are for {num_src} and {num_dst}"
        )
    return graph


def _kept_graph(edges: Any, num_src: int, num_dst: int) -> Graph:
    def make() -> Graph:
        if not isinstance(edges, Tensor) or edges.layout != torch.strided:
            return Graph.from_sparse(edges)
        return Graph.from_edge_index(edges, num_src, num_dst)

    # A tensor made in inference mode does not count its changes: its graph may be out of date at the next call.
    if torch.compiler.is_compiling() or (isinstance(edges, Tensor) and edges.is_inference()):
        return make()
    if not (isinstance(edges, Tensor) or hasattr(edges, "coo")):
        return make()
    stamp, known = (getattr(edges, "_version", 0), num_src, num_dst), _known.get(edges)
    if known is not None and known[0] == stamp:
        if known[2] is not None:
            known[2].wait()
        return known[1]
    with _plain():
        graph = make()
    _known[edges] = (stamp, graph, graph._mark())
    return graph


@contextlib.contextmanager
def _cleared_transforms() -> Iterator[None]:
    """Outside of every ``torch.func`` transform, under which even a new tensor is wrapped."""
    clear = getattr(torch._functorch.pyfunctorch, "temporarily_clear_interpreter_stack", contextlib.nullcontext)
    with clear():
        yield


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """What is kept outlives the call that makes it: no inference tensors, none of a ``torch.func`` transform."""
    if torch.compiler.is_compiling():
        yield
        return
    with torch.inference_mode(False), _cleared_transforms():
        yield

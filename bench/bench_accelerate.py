"""accelerate_: PyTorch Geometric's models as they are and accelerated, in the same layout of edges.

Models: training steps (forward, and the gradients of all parameters) of three layers on real graphs, with random
features. Layers: one layer on graphs from 30 nodes on, in every layout, on edges that are kept from call to call and on
new ones (a mini-batch), for training and for inference: what may never be much slower than PyTorch Geometric.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastgmtl
from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import Absent, need
from fastgmtl.data import load
from fastgmtl.data.files import find_folder, read_npz
from fastgmtl.data.splits import both_ways, undirected

CHANNELS, HEADS = 64, 4
PYG = "PyG"
Make = Callable[[Any], nn.Module]


@lru_cache(maxsize=2)
def real(name: str) -> tuple[Tensor, int]:
    """Edges of one of the graphs of gnn-benchmark, both ways and once, and the number of nodes."""
    forms: Any = {"adj_indptr": ("iu", 1), "adj_indices": ("iu", 1)}
    arrays = read_npz(find_folder("gnn_benchmark_npz") / f"{name}.npz", forms)
    ptr = torch.from_numpy(arrays["adj_indptr"]).long()
    count = ptr.numel() - 1
    rows = torch.arange(count).repeat_interleave(ptr.diff())
    pairs = undirected(torch.stack([rows, torch.from_numpy(arrays["adj_indices"]).long()]), count)
    return both_ways(pairs).contiguous(), count


def in_layout(edges: Tensor, count: int, layout: str) -> Any:
    """edge_index as PyTorch Geometric's users have it, or its transposed adjacency matrix."""
    if layout == "edge_index":
        return edges
    if layout == "EdgeIndex":
        from torch_geometric import EdgeIndex

        made = EdgeIndex(edges, sparse_size=(count, count)).sort_by("col").values
        made.fill_cache_()
        return made
    if layout == "SparseTensor":
        need("torch_sparse")
        from torch_sparse import SparseTensor

        return SparseTensor(row=edges[1], col=edges[0], sparse_sizes=(count, count))
    coo = torch.sparse_coo_tensor(edges.flip(0), torch.ones(edges.size(1)), (count, count)).coalesce()
    return {"CSR": coo.to_sparse_csr, "COO": coo.coalesce}[layout]()


def outputs(found: Any) -> list[Tensor]:
    return list(found.values()) if isinstance(found, dict) else [found]


def step(model: nn.Module, given: Callable[[], tuple[Any, ...]], train: bool = True) -> Callable[[], Any]:
    """The outputs and, for ``train``, the gradients of all parameters, for gradients of ones of the outputs."""
    leaves = list(model.parameters())

    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(train):
            out = outputs(model(*given()))
        if not train:
            return tuple(out)
        grads = torch.autograd.grad(out, leaves, [torch.ones_like(o) for o in out], allow_unused=True)
        return (*out, *(g for g in grads if g is not None))

    return run


def compare(
    benchmark: Any,
    settings: Settings,
    case: Case,
    make: Make,
    given: Callable[[], tuple[Any, ...]],
    train: bool = True,
    calls: int = 1,
) -> None:
    """A model and its accelerated copy on the same arguments."""
    import torch_geometric.nn as pyg

    torch.manual_seed(0)
    stock = make(pyg)
    fast = copy.deepcopy(stock)
    fastgmtl.accelerate_(fast)
    try:
        wanted = step(stock, given, train)()
    except (NotImplementedError, RuntimeError, ValueError) as reason:
        pytest.skip(f"{PYG} does not take this layout: {reason}")
    providers: dict[str, Provider | str] = {
        OURS: Provider(step(fast, given, train), lambda found: difference(found, wanted)),
        PYG: Provider(step(stock, given, train)),
    }
    settings.measure(benchmark, case, providers, Floors(output=0), calls=calls, memory=calls == 1)


class Typed(nn.Module):
    """Layers over edges with types (or dicts of edges), with relu between them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any, *edges: Any) -> Any:
        for number, layer in enumerate(self.layers):
            if number:
                x = {t: v.relu() for t, v in x.items()} if isinstance(x, dict) else x.relu()
            x = layer(x, *edges)
        return x


MODELS: dict[str, Make] = {
    "GraphSAGE": lambda pyg: pyg.GraphSAGE(CHANNELS, CHANNELS, 3),
    "GAT": lambda pyg: pyg.GAT(CHANNELS, CHANNELS, 3, heads=HEADS),
    "GCN": lambda pyg: pyg.GCN(CHANNELS, CHANNELS, 3),
    "GIN": lambda pyg: pyg.GIN(CHANNELS, CHANNELS, 3),
}


def needs_pyg() -> None:
    try:
        need("torch_geometric")
    except Absent as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("name", "data", "layout", "threads"),
    cases(
        MODELS,
        ("amazon_cs", "coauthor_phy"),
        ("edge_index", "CSR"),
        (1, 2),
        quick=lambda name, data, layout, threads: (
            name in ("GraphSAGE", "GAT") and data == "amazon_cs" and layout == "edge_index" and threads == 1
        ),
    ),
)
def test_model(benchmark: Any, settings: Settings, name: str, data: str, layout: str, threads: int) -> None:
    needs_pyg()
    torch.set_num_threads(threads)
    edges, count = real(data)
    x, adjacency = graphs.random(count, CHANNELS), in_layout(edges, count, layout)
    case = Case("accelerate", f"{name}, {data}, {layout}", "train step", threads, count, edges.size(1), CHANNELS)
    compare(benchmark, settings, case, MODELS[name], lambda: (x, adjacency))


@pytest.mark.parametrize(
    ("data", "threads"),
    cases(("debian", "debian_bookworm"), (1, 2), quick=lambda data, threads: data == "debian" and threads == 1),
)
def test_rgcn(benchmark: Any, settings: Settings, data: str, threads: int) -> None:
    needs_pyg()
    torch.set_num_threads(threads)
    found = load(data)
    edges, types, count = found.graph.edge_index(), found.edge_type, found.num_nodes
    relations, x = len(found.edge_type_names), graphs.random(count, CHANNELS)

    def make(pyg: Any) -> nn.Module:
        return Typed([pyg.RGCNConv(CHANNELS, CHANNELS, relations) for _ in range(3)])

    case = Case(
        "accelerate", f"RGCN, {data}, {relations} relations", "train step", threads, count, edges.size(1), CHANNELS
    )
    compare(benchmark, settings, case, make, lambda: (x, edges, types))


@pytest.mark.parametrize(
    ("data", "threads"),
    cases(("debian",), (1, 2), quick=lambda *_: False),  # half a minute a step of PyG
)
def test_hgt(benchmark: Any, settings: Settings, data: str, threads: int) -> None:
    """Relations as they point: PyG's time grows with the square of their number."""
    needs_pyg()
    torch.set_num_threads(threads)
    hetero = load(data).hetero
    assert hetero is not None
    edges = {r: e for r, e in hetero.edge_index_dict().items() if not r[1].startswith("rev_")}
    nodes = dict(hetero.num_nodes)
    x = {t: graphs.random(n, CHANNELS) for t, n in nodes.items()}
    metadata = (list(nodes), list(edges))

    def make(pyg: Any) -> nn.Module:
        return Typed([pyg.HGTConv(CHANNELS, CHANNELS, metadata, HEADS) for _ in range(3)])

    number = sum(e.size(1) for e in edges.values())
    case = Case(
        "accelerate",
        f"HGT, {data}, {len(edges)} relations",
        "train step",
        threads,
        sum(nodes.values()),
        number,
        CHANNELS,
        HEADS,
    )
    compare(benchmark, settings, case, make, lambda: (x, edges))


@pytest.mark.parametrize(
    ("data", "threads"),
    cases(("debian", "debian_bookworm"), (1, 2), quick=lambda data, threads: data == "debian" and threads == 1),
)
def test_hetero_conv(benchmark: Any, settings: Settings, data: str, threads: int) -> None:
    """HeteroConv of SAGEConv over relations and their inverses: one pass for all of them, beside one for each."""
    needs_pyg()
    torch.set_num_threads(threads)
    hetero = load(data).hetero
    assert hetero is not None
    edges, nodes = dict(hetero.edge_index_dict()), dict(hetero.num_nodes)
    x = {t: graphs.random(n, CHANNELS) for t, n in nodes.items()}

    def make(pyg: Any) -> nn.Module:
        return Typed(
            [pyg.HeteroConv({r: pyg.SAGEConv((CHANNELS, CHANNELS), CHANNELS) for r in edges}) for _ in range(3)]
        )

    number = sum(e.size(1) for e in edges.values())
    name = f"HeteroConv, {data}, {len(edges)} relations"
    case = Case("accelerate", name, "train step", threads, sum(nodes.values()), number, CHANNELS)
    compare(benchmark, settings, case, make, lambda: (x, edges))


LAYERS: dict[str, Callable[[Any, int], nn.Module]] = {
    "GCNConv": lambda pyg, d: pyg.GCNConv(d, d),
    "SAGEConv": lambda pyg, d: pyg.SAGEConv(d, d),
    "SAGEConv max": lambda pyg, d: pyg.SAGEConv(d, d, aggr="max"),
    "GINConv": lambda pyg, d: pyg.GINConv(nn.Linear(d, d)),
    "GINEConv": lambda pyg, d: pyg.GINEConv(nn.Linear(d, d)),
    "GraphConv": lambda pyg, d: pyg.GraphConv(d, d),
    "GATConv": lambda pyg, d: pyg.GATConv(d, d // HEADS, HEADS),
    "GATv2Conv": lambda pyg, d: pyg.GATv2Conv(d, d // HEADS, HEADS),
    "TransformerConv": lambda pyg, d: pyg.TransformerConv(d, d // HEADS, HEADS),
    "RGCNConv": lambda pyg, d: pyg.RGCNConv(d, d, 4),
    "HGTConv": lambda pyg, d: pyg.HGTConv(d, d, (["a"], [("a", str(r), "a") for r in range(4)]), HEADS),
}
LAYOUTS = ("edge_index", "new edges", "EdgeIndex", "CSR", "COO", "SparseTensor")
SHAPES = {"30": (30, 120, 16), "1000": (1000, 5000, 64)}  # nodes, edges, width


@pytest.mark.parametrize(
    ("name", "size", "layout", "mode"),
    cases(
        LAYERS,
        SHAPES,
        LAYOUTS,
        ("train step", "fwd"),
        quick=lambda name, size, layout, mode: (
            name in ("SAGEConv", "GATConv") and size == "30" and layout in LAYOUTS[:2] and mode == "train step"
        ),
    ),
)
def test_layer(benchmark: Any, settings: Settings, name: str, size: str, layout: str, mode: str) -> None:
    needs_pyg()
    count, number, width = SHAPES[size]
    torch.set_num_threads(1)
    drawn = torch.randint(0, count, (2, number), generator=torch.Generator().manual_seed(0)).unique(dim=1)
    edges, _ = graphs.shuffled(drawn[:, drawn[0] != drawn[1]])
    typed = name in ("RGCNConv", "HGTConv")
    if typed and layout not in LAYOUTS[:2]:
        pytest.skip("one form of typed edges for all")
    if name == "GINEConv" and layout not in LAYOUTS[:3]:
        pytest.skip("features of edges have no place in a sparse matrix")
    new = layout == "new edges"
    try:
        adjacency = edges if new else in_layout(edges, count, layout)
    except Absent as reason:
        pytest.skip(str(reason))
    x, kinds = graphs.random(count, width), torch.arange(edges.size(1)) % 4
    of_edges = graphs.random(edges.size(1), width, seed=1)
    by_relation = {("a", str(r), "a"): edges[:, kinds == r] for r in range(4)}

    def given() -> tuple[Any, ...]:
        if name == "HGTConv":
            return {"a": x}, {k: e.clone() for k, e in by_relation.items()} if new else by_relation
        if name == "RGCNConv":
            return x, adjacency.clone() if new else adjacency, kinds.clone() if new else kinds
        given = x, adjacency.clone() if new else adjacency
        return (*given, of_edges) if name == "GINEConv" else given

    case = Case("accelerate", f"{name}, {layout}", mode, 1, count, edges.size(1), width)
    compare(
        benchmark, settings, case, lambda pyg: LAYERS[name](pyg, width), given, mode != "fwd", max(1, 20_000 // number)
    )

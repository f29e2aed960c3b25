"""A training step of a layer (forward, and the gradients of its input and parameters), beside PyTorch Geometric's.

PyG runs on an edge_index sorted by destination (gather and scatter) and on the CSR matrix of the same edges (its
fused path); GraphConv on an EdgeIndex too, the only one of these layers that has a fused path for it. GCN
normalisation is cached on both sides, and the edges of attention have no loops to replace: PyG would do that in every
step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import graphs
from bench.floor import spmm_gather
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from bench.peers import Absent, csr, need
from fastgmtl import HeteroGraph
from fastgmtl import nn as ours

CHANNELS, HEADS = 64, 4
CONVS: dict[str, Callable[[Any], nn.Module]] = {  # of fastgmtl.nn or torch_geometric.nn: signatures are the same
    "GCNConv": lambda module: module.GCNConv(CHANNELS, CHANNELS, cached=True),
    "SAGEConv": lambda module: module.SAGEConv(CHANNELS, CHANNELS),
    "GINConv": lambda module: module.GINConv(nn.Linear(CHANNELS, CHANNELS)),
    "GraphConv": lambda module: module.GraphConv(CHANNELS, CHANNELS),
    "GATConv": lambda module: module.GATConv(CHANNELS, CHANNELS, HEADS, add_self_loops=False),
    "GATv2Conv": lambda module: module.GATv2Conv(CHANNELS, CHANNELS, HEADS, add_self_loops=False),
}


def is_quick(size: str, threads: int, *_: Any) -> bool:
    return size == "small" and threads == 1


def train_step(convs: list[nn.Module], x: Tensor, edges: Any, grads: list[Tensor]) -> Callable[[], Any]:
    leaves = [x, *(p for conv in convs for p in conv.parameters())]

    def run() -> tuple[Tensor, ...]:
        outputs = [conv(x, edges) for conv in convs]
        return (*outputs, *torch.autograd.grad(outputs, leaves, grads))

    return run


def formats(size: str, with_edge_index_class: bool) -> dict[str, Any]:
    """The edges in the forms that PyG's layers take."""
    graph = graphs.graph(size)
    pairs = torch.stack([graph.col.long(), graph.edge_rows()])
    found = {"PyG, CSR": csr(graph, None, torch.int64), "PyG, edge_index": pairs}
    if with_edge_index_class:
        from torch_geometric import EdgeIndex

        made = EdgeIndex(pairs, sparse_size=(graph.num_src, graph.num_dst), sort_order="col")
        made.fill_cache_()
        found["PyG, EdgeIndex"] = made
    return found


@pytest.mark.parametrize(("size", "threads", "name"), cases(("small", "big"), (1, 2), CONVS, quick=is_quick))
def test_layer(benchmark: Any, settings: Settings, size: str, threads: int, name: str) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    graph, conv = graphs.graph(size), CONVS[name](ours)
    width = CHANNELS * getattr(conv, "heads", 1)
    x = graphs.random(graph.num_src, CHANNELS).requires_grad_()
    grad = graphs.random(graph.num_dst, width, seed=1)
    providers: dict[str, Provider | str] = {}
    try:
        need("torch_geometric")
        import torch_geometric.nn as pyg

        for label, edges in formats(size, name == "GraphConv").items():
            peer = CONVS[name](pyg)
            peer.load_state_dict(conv.state_dict())
            providers[label] = Provider(train_step([peer], x, edges, [grad]))
    except Absent as reason:
        providers["PyG"] = str(reason)
    measured = [p for p in providers.values() if not isinstance(p, str)]
    wanted = measured[-1].run() if measured else None

    def error(result: tuple[Tensor, ...]) -> float:
        return difference(result, wanted) if wanted is not None else 0.0

    providers = {OURS: Provider(train_step([conv], x, graph, [grad]), error), **providers}
    case = Case(
        "layers", name, "train step", threads, graph.num_dst, graph.num_edges, CHANNELS, getattr(conv, "heads", 1)
    )
    floors = Floors(None, spmm_gather(graph, width, "fwdbwd", threads), 4 * graph.num_dst * width)
    settings.measure(benchmark, case, providers, floors)


@pytest.mark.parametrize(("size", "threads"), cases(("small", "big"), (1, 2), quick=is_quick))
def test_four_tasks(benchmark: Any, settings: Settings, size: str, threads: int) -> None:
    """GCNConv(num_tasks=4) over shared features, beside four GCNConv of PyG."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    graph, tasks = graphs.graph(size), 4
    x = graphs.random(graph.num_src, CHANNELS).requires_grad_()
    grad = graphs.random(graph.num_dst, tasks, CHANNELS, seed=1)
    one_by_one = [ours.GCNConv(CHANNELS, CHANNELS, cached=True) for _ in range(tasks)]
    conv = ours.GCNConv(CHANNELS, CHANNELS, cached=True, num_tasks=tasks)
    states = [layer.state_dict() for layer in one_by_one]
    conv.load_state_dict({key: torch.stack([state[key] for state in states]) for key in conv.state_dict()})
    grads = [grad[:, t].contiguous() for t in range(tasks)]
    wanted = train_step(one_by_one, x, graph, grads)()
    stacked = (torch.stack(wanted[:tasks], 1), wanted[tasks])
    providers: dict[str, Provider | str] = {
        OURS: Provider(train_step([conv], x, graph, [grad]), lambda result: difference(result[:2], stacked)),
        f"{OURS}, 4 layers": Provider(train_step(one_by_one, x, graph, grads)),
    }
    try:
        need("torch_geometric")
        import torch_geometric.nn as pyg

        for label, edges in formats(size, False).items():
            peers = [CONVS["GCNConv"](pyg) for _ in range(tasks)]
            providers[f"{label}, 4 layers"] = Provider(train_step(peers, x, edges, grads))
    except Absent as reason:
        providers["PyG, 4 layers"] = str(reason)
    shape = (graph.num_dst, graph.num_edges, CHANNELS, tasks)
    case = Case("layers", "GCNConv, shared input", "train step", threads, *shape)
    floors = Floors(None, spmm_gather(graph, CHANNELS, "fwdbwd", threads), 4 * graph.num_dst * CHANNELS * tasks)
    settings.measure(benchmark, case, providers, floors)


@pytest.mark.parametrize(
    ("size", "threads", "relations"),
    cases(
        ("small", "big"), (1, 2), (4, 64), quick=lambda size, threads, r: size == "small" and threads == 1 and r == 4
    ),
)
def test_relations(benchmark: Any, settings: Settings, size: str, threads: int, relations: int) -> None:
    """RGCNConv: types drawn uniformly, so with 64 of them nearly every edge is alone in its (node, relation)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    graph, edges = graphs.graph(size), graphs.edges(size)
    kinds = torch.randint(relations, (edges.size(1),), generator=torch.Generator().manual_seed(0))
    conv = ours.RGCNConv(CHANNELS, CHANNELS, relations)
    x = graphs.random(graph.num_src, CHANNELS).requires_grad_()
    grad = graphs.random(graph.num_dst, CHANNELS, seed=1)

    def step(layer: nn.Module) -> Callable[[], Any]:
        def run() -> tuple[Tensor, ...]:
            out = layer(x, edges, kinds)
            return (out, *torch.autograd.grad(out, [x, *layer.parameters()], grad))

        return run

    providers: dict[str, Provider | str] = {OURS: Provider(step(conv))}
    try:
        need("torch_geometric")
        import torch_geometric.nn as pyg

        peer = pyg.RGCNConv(CHANNELS, CHANNELS, relations)
        peer.load_state_dict(conv.state_dict())
        wanted = step(peer)()
        providers = {
            OURS: Provider(step(conv), lambda result: difference(result, wanted)),
            "PyG, edge_index": Provider(step(peer)),
        }
    except Absent as reason:
        providers["PyG, edge_index"] = str(reason)
    case = Case(
        "layers", f"RGCNConv, {relations} relations", "train step", threads, graph.num_dst, graph.num_edges, CHANNELS
    )
    floors = Floors(None, spmm_gather(graph, CHANNELS, "fwdbwd", threads), 4 * graph.num_dst * CHANNELS)
    settings.measure(benchmark, case, providers, floors)


NODES = {"author": 4057, "paper": 14_328, "term": 7723}  # of DBLP, as are the numbers of edges
PAIRS = {("author", "paper"): 19_645, ("paper", "term"): 85_810}


@pytest.mark.parametrize("threads", cases((1, 2), quick=lambda threads: threads == 1))
def test_hgt(benchmark: Any, settings: Settings, threads: int) -> None:
    """HGTConv with four heads over six relations, of the sizes of DBLP."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    edges = {(t, "self", t): torch.arange(NODES[t]).repeat(2, 1) for t in ("author", "paper")}
    for (src, dst), count in PAIRS.items():
        pairs = torch.stack([torch.randint(NODES[t], (count,)) for t in (src, dst)])
        edges |= {(src, "to", dst): pairs, (dst, "to", src): pairs.flip(0)}
    graph, metadata = HeteroGraph.from_dict(edges, NODES), (list(NODES), list(edges))
    conv = ours.HGTConv(CHANNELS, CHANNELS, metadata, 4)
    x = {t: graphs.random(n, CHANNELS).requires_grad_() for t, n in NODES.items()}
    grad = {t: graphs.random(n, CHANNELS, seed=1) for t, n in NODES.items()}

    def step(layer: nn.Module, edges: Any) -> Callable[[], Any]:
        def run() -> tuple[Tensor, ...]:
            out = layer(x, edges)
            leaves = [*x.values(), *layer.parameters()]
            return (*out.values(), *torch.autograd.grad(list(out.values()), leaves, [grad[t] for t in out]))

        return run

    providers: dict[str, Provider | str] = {OURS: Provider(step(conv, graph))}
    try:
        need("torch_geometric")
        import torch_geometric.nn as pyg

        peer = pyg.HGTConv(CHANNELS, CHANNELS, metadata, 4)
        peer.load_state_dict(conv.state_dict())
        wanted = step(peer, edges)()
        providers = {
            OURS: Provider(step(conv, graph), lambda result: difference(result, wanted)),
            "PyG, edge_index": Provider(step(peer, edges)),
        }
    except Absent as reason:
        providers["PyG, edge_index"] = str(reason)
    total, number = sum(NODES.values()), sum(graph.num_edges.values())
    case = Case("layers", "HGTConv, 6 relations, 4 heads", "train step", threads, total, number, CHANNELS)
    settings.measure(benchmark, case, providers, Floors(None, None, 4 * total * CHANNELS))

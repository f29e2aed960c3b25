from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgmtl import Graph
from fastgmtl.nn import GATConv, GINConv, GraphConv, SAGEConv, TransformerConv, layerwise
from fastgmtl.nn.inference import row_block

NODES, EDGES = 203, 2000


@pytest.fixture
def graph() -> Graph:
    g = torch.Generator().manual_seed(0)
    return Graph.from_edge_index(torch.randint(NODES - 3, (2, EDGES), generator=g), NODES, NODES)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(NODES, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


LAYERS = {
    "sage": lambda i, o: SAGEConv(i, o),
    "sage-max": lambda i, o: SAGEConv(i, o, aggr="max", project=True, normalize=True),
    "graph": lambda i, o: GraphConv(i, o),
    "gin": lambda i, o: GINConv(nn.Linear(i, o)),
    "gat": lambda i, o: GATConv((i, i), o, add_self_loops=False),
    "transformer": lambda i, o: TransformerConv(i, o, heads=1),
}


@pytest.mark.parametrize("rows", [1, 50, 203, 1000])
@pytest.mark.parametrize("kind", LAYERS)
def test_blocks_give_what_one_pass_gives(graph: Graph, x: Tensor, kind: str, rows: int) -> None:
    torch.manual_seed(2)
    first, second = (LAYERS[kind](*sizes).double() for sizes in ((5, 7), (7, 3)))
    layers = [first, lambda pair, block: pair[1].relu(), second]
    whole = second((h := first((x, x), graph).relu(), h), graph)
    blocks = layerwise(layers, x, graph, rows)
    assert not blocks.requires_grad
    torch.testing.assert_close(blocks, whole.detach(), rtol=1e-12, atol=1e-12)


def test_tasks(graph: Graph, x: Tensor) -> None:
    torch.manual_seed(2)
    layers = [SAGEConv(5, 4, num_tasks=3).double(), SAGEConv(4, 2, num_tasks=3).double()]
    whole = layers[1](layers[0](x, graph), graph)
    torch.testing.assert_close(layerwise(layers, x, graph, 64), whole.detach(), rtol=1e-12, atol=1e-12)


def test_the_result_goes_into_a_mapped_array(graph: Graph, x: Tensor, tmp_path: Path) -> None:
    layer = SAGEConv(5, 4).double()
    disk = np.lib.format.open_memmap(tmp_path / "h.npy", "w+", np.float64, (NODES, 4))
    out = torch.from_numpy(disk)
    assert layerwise([layer], x, graph, 20, out) is out
    disk.flush()
    assert np.array_equal(np.load(tmp_path / "h.npy"), layer(x, graph).detach().numpy())


def test_a_block_is_the_edges_into_its_rows(graph: Graph) -> None:
    block = row_block(graph, 60, 90)
    src, dst = graph.edge_index()
    kept = (dst >= 60) & (dst < 90)
    order = dst[kept].sort(stable=True).indices
    assert torch.equal(block.edge_index(), torch.stack([src[kept], dst[kept] - 60])[:, order])
    assert (block.num_src, block.num_dst) == (NODES, 30)
    assert block.col.data_ptr() == graph.col[int(graph.row_ptr[60]) :].data_ptr()


def test_no_nodes() -> None:
    empty = Graph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 0, 0)
    assert list(layerwise([SAGEConv(5, 4)], torch.empty(0, 5), empty).shape) == [0, 4]


def test_refused(graph: Graph, x: Tensor) -> None:
    layer = SAGEConv(5, 4).double()
    with pytest.raises(ValueError, match=r"graph must be over the 100 nodes of x, got 203 sources and 203 dest"):
        layerwise([layer], x[:100], graph)
    with pytest.raises(ValueError, match="a layer and rows of at least 1 are required, got 0 and 5"):
        layerwise([], x, graph, 5)
    with pytest.raises(ValueError, match=r"out must be float64 \[203, 4\], got float32 \[203, 4\]"):
        layerwise([layer], x, graph, 50, torch.empty(NODES, 4))

"""NeighborSampler in PyG's own loaders, without pyg-lib and torch-sparse."""

from __future__ import annotations

import pickle

import pytest
import torch

from fastgmtl import nn

geometric = pytest.importorskip("torch_geometric", reason="NeighborSampler is for PyTorch Geometric")
import torch_geometric.typing  # noqa: E402
from torch_geometric.data import Data, HeteroData  # noqa: E402
from torch_geometric.loader import LinkLoader, NodeLoader  # noqa: E402
from torch_geometric.sampler import BaseSampler, NodeSamplerInput  # noqa: E402
from torch_geometric.utils import k_hop_subgraph, trim_to_layer  # noqa: E402

from fastgmtl.data.sampling import NeighborSampler  # noqa: E402


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but PyG."""
    for name in ("WITH_PYG_LIB", "WITH_TORCH_SPARSE"):
        monkeypatch.setattr(torch_geometric.typing, name, False)
    torch.manual_seed(0)


@pytest.fixture
def data() -> Data:
    g = torch.Generator().manual_seed(1)
    edges = torch.randint(80, (2, 600), generator=g)
    return Data(x=torch.arange(80.0).unsqueeze(1), edge_index=edges, edge_attr=torch.arange(600), y=torch.arange(80))


@pytest.fixture
def typed() -> HeteroData:
    g = torch.Generator().manual_seed(2)
    found = HeteroData()
    for name, count in (("author", 40), ("paper", 30), ("venue", 5)):
        found[name].x = torch.arange(count).float().unsqueeze(1)
    edges = torch.stack([torch.randint(40, (200,), generator=g), torch.randint(30, (200,), generator=g)])
    found["author", "writes", "paper"].edge_index = edges
    found["author", "writes", "paper"].edge_attr = torch.arange(200)
    found["paper", "by", "author"].edge_index = edges.flip(0)
    return found


@pytest.mark.parametrize("disjoint", [False, True])
def test_batches_of_nodes(data: Data, disjoint: bool) -> None:
    sampler = NeighborSampler(data, [4, 2], disjoint=disjoint)
    assert isinstance(sampler, BaseSampler)
    seeds = torch.randperm(80)[:50]
    seen = []
    for batch in NodeLoader(data, node_sampler=sampler, input_nodes=seeds, batch_size=16):
        size = batch.batch_size
        assert torch.equal(batch.n_id[:size], seeds[batch.input_id])
        assert torch.equal(batch.x.flatten().long(), batch.n_id) and torch.equal(batch.y, batch.n_id)
        assert torch.equal(batch.edge_attr, batch.e_id)
        assert torch.equal(data.edge_index[:, batch.e_id], batch.n_id[batch.edge_index])
        assert sum(batch.num_sampled_nodes) == batch.num_nodes and sum(batch.num_sampled_edges) == batch.num_edges
        assert (batch.batch is None) != disjoint
        if disjoint:
            assert torch.equal(batch.batch[:size], torch.arange(size))
            assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
        seen.append(batch.input_id)
    assert torch.equal(torch.cat(seen), torch.arange(50))


def test_all_neighbours_are_the_subgraph_of_as_many_hops(data: Data) -> None:
    sampler = NeighborSampler(data, [-1, -1])
    batch = next(iter(NodeLoader(data, node_sampler=sampler, input_nodes=torch.arange(3), batch_size=3)))
    nodes, *_ = k_hop_subgraph([0, 1, 2], 2, data.edge_index)
    assert torch.equal(batch.n_id.sort().values, nodes)


def test_trimmed_layers_give_what_whole_ones_give(data: Data) -> None:
    sampler = NeighborSampler(data, [4, 2])
    batch = next(iter(NodeLoader(data, node_sampler=sampler, input_nodes=torch.arange(9), batch_size=9)))
    layers = [nn.SAGEConv(1, 4), nn.SAGEConv(4, 2)]
    whole, x, edges = batch.x, batch.x, batch.edge_index
    for k, layer in enumerate(layers):
        whole = layer(whole, batch.edge_index)
        x, edges, _ = trim_to_layer(k, batch.num_sampled_nodes, batch.num_sampled_edges, x, edges)
        x = layer(x, edges)
    torch.testing.assert_close(x[:9], whole[:9])


def test_typed_batches(typed: HeteroData) -> None:
    fanouts = {("author", "writes", "paper"): [3, 2], ("paper", "by", "author"): [2, 2]}
    sampler = NeighborSampler(typed, fanouts)
    for batch in NodeLoader(typed, node_sampler=sampler, input_nodes="paper", batch_size=8):
        size = batch["paper"].batch_size
        assert torch.equal(batch["paper"].n_id[:size], batch["paper"].input_id)
        assert batch["venue"].num_nodes == 0
        for kind in typed.edge_types:
            store = batch[kind]
            ends = torch.stack([batch[kind[k]].n_id[store.edge_index[k // 2]] for k in (0, 2)])
            assert torch.equal(typed[kind].edge_index[:, store.e_id], ends)
            assert sum(store.num_sampled_edges) == store.edge_index.size(1)
        assert torch.equal(batch["author", "writes", "paper"].edge_attr, batch["author", "writes", "paper"].e_id)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_batches_of_links(data: Data, mode: str | None, disjoint: bool) -> None:
    sampler = NeighborSampler(data, [3, 2], disjoint=disjoint)
    loader = LinkLoader(data, link_sampler=sampler, neg_sampling=mode, batch_size=20)
    for batch in loader:
        asked = data.edge_index[:, batch.input_id]
        if mode == "triplet":
            assert torch.equal(batch.n_id[batch.src_index], asked[0])
            assert torch.equal(batch.n_id[batch.dst_pos_index], asked[1])
            assert batch.dst_neg_index.shape == batch.src_index.shape
        else:
            assert torch.equal(batch.n_id[batch.edge_label_index[:, :20]], asked)
            assert batch.edge_label_index.size(1) == (20 if mode is None else 40)
        if mode == "binary":
            assert batch.edge_label.tolist() == [1.0] * 20 + [0.0] * 20
        if disjoint:
            assert int(batch.batch.max()) < 20


@pytest.mark.parametrize("disjoint", [False, True])
def test_typed_batches_of_links(typed: HeteroData, disjoint: bool) -> None:
    kind = ("author", "writes", "paper")
    sampler = NeighborSampler(typed, [3, 2], disjoint=disjoint)
    loader = LinkLoader(
        typed, link_sampler=sampler, edge_label_index=(kind, None), neg_sampling="binary", batch_size=10
    )
    batch = next(iter(loader))
    index = batch[kind].edge_label_index
    asked = typed[kind].edge_index[:, :10]
    assert torch.equal(batch["author"].n_id[index[0, :10]], asked[0])
    assert torch.equal(batch["paper"].n_id[index[1, :10]], asked[1])


def test_samples_follow_the_seed(data: Data) -> None:
    def drawn(generator: torch.Generator | None) -> torch.Tensor:
        sampler = NeighborSampler(data, [3], generator=generator)
        return sampler.sample_from_nodes(NodeSamplerInput(None, torch.arange(40))).edge

    first = drawn(torch.Generator().manual_seed(5))
    assert torch.equal(first, drawn(torch.Generator().manual_seed(5)))
    assert not torch.equal(first, drawn(torch.Generator().manual_seed(6)))


def test_workers_draw_differently_and_repeat(data: Data) -> None:
    sampler = NeighborSampler(data, [3])
    seeds = torch.zeros(4, dtype=torch.long)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        loader = NodeLoader(data, node_sampler=sampler, input_nodes=seeds, batch_size=1, num_workers=2)
        runs.append([batch.e_id.tolist() for batch in loader])
    assert runs[0] == runs[1] and len({tuple(edges) for edges in runs[0]}) > 1


def test_it_can_be_pickled(data: Data) -> None:
    sampler = pickle.loads(pickle.dumps(NeighborSampler(data, [2])))
    assert len(sampler.sample_from_nodes(NodeSamplerInput(None, torch.arange(3))).node) >= 3


def test_refused(data: Data) -> None:
    with pytest.raises(TypeError, match=r"NeighborSampler: data must be a Data, a HeteroData or a pair .*, got list"):
        NeighborSampler([], [2])
    sampler = NeighborSampler(data, [2])
    with pytest.raises(ValueError, match="temporal sampling is not offered"):
        sampler.sample_from_nodes(NodeSamplerInput(None, torch.arange(3), torch.arange(3)))


def test_graphs_without_edges() -> None:
    data = Data(x=torch.ones(3, 1))
    sampler = NeighborSampler(data, [2])
    assert sampler.sample_from_nodes(NodeSamplerInput(None, torch.arange(3))).node.tolist() == [0, 1, 2]


def test_stores_of_features_and_edges(typed: HeteroData) -> None:
    from torch_geometric.testing import MyFeatureStore, MyGraphStore

    features, edges = MyFeatureStore(), MyGraphStore()
    for name in ("author", "paper", "venue"):
        features.put_tensor(typed[name].x, group_name=name, attr_name="x", index=None)
    for kind in typed.edge_types:
        pairs, size = typed[kind].edge_index, (typed[kind[0]].num_nodes, typed[kind[2]].num_nodes)
        edges.put_edge_index((pairs[0], pairs[1]), edge_type=kind, layout="coo", size=size)
    stored, whole = (NeighborSampler(data, [4, 2]) for data in ((features, edges), typed))
    loaders = [
        NodeLoader(data, node_sampler=sampler, input_nodes=("paper", torch.arange(10)), batch_size=5)
        for data, sampler in (((features, edges), stored), (typed, whole))
    ]
    batches = []
    for loader in loaders:
        torch.manual_seed(3)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["paper"].x, other["paper"].x) and torch.equal(one["author"].x, other["author"].x)
        for kind in typed.edge_types:
            assert torch.equal(one[kind].edge_index, other[kind].edge_index)
    with pytest.raises(TypeError, match=r"a pair \(FeatureStore, GraphStore\), got tuple"):
        NeighborSampler((edges, features), [1])
    with pytest.raises(ValueError, match="must have types"):
        NeighborSampler((features, MyGraphStore()), [1])

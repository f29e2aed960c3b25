"""Who has which node, and what the ranks tell each other about it, without any processes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, HeteroGraph
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.distributed import Part, World, lost, partition, share


def _grid(side: int) -> Graph:
    at = torch.arange(side * side).view(side, side)
    pairs = [(at[:, :-1], at[:, 1:]), (at[:-1], at[1:])]
    one = torch.cat([torch.stack((a.flatten(), b.flatten())) for a, b in pairs], 1)
    return Graph.from_edge_index(torch.cat((one, one.flip(0)), 1), side * side, side * side)


def _cut(graph: Graph, owner: Tensor) -> int:
    src, dst = graph.edge_index()
    return int((owner[src] != owner[dst]).sum())


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_blocks_are_runs_of_equal_work(parts: int) -> None:
    graph = _grid(30)
    owner = partition(graph, parts, method="blocks")
    assert owner.diff().min() >= 0 and owner.unique().tolist() == list(range(parts))
    work = torch.zeros(parts, dtype=torch.int64).index_add(0, owner, graph.in_degree() + 1)
    assert work.max() - work.min() <= 2 * 5
    heavy = torch.ones(900, dtype=torch.int64)
    heavy[:100] = 9
    share = torch.zeros(parts, dtype=torch.int64).index_add(0, partition(graph, parts, heavy, "blocks"), heavy)
    assert share.max() - share.min() <= 18


@pytest.mark.skipif(importlib.util.find_spec("pymetis") is None, reason="needs pymetis")
def test_metis_cuts_less_than_runs_of_nodes() -> None:
    graph = _grid(30)
    shuffled = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    mixed = Graph.from_edge_index(shuffled[graph.edge_index()], 900, 900)
    owner = partition(mixed, 3, method="metis")
    assert torch.equal(owner, partition(mixed, 3))
    assert owner.bincount().max() < 1.1 * 300
    assert _cut(mixed, owner) < 0.2 * _cut(mixed, partition(mixed, 3, method="blocks"))


def test_without_pymetis() -> None:
    """Runs of nodes are taken; metis asked for by name says what to install."""
    script = """
import sys
sys.modules["pymetis"] = None
import torch
from fastgmtl import Graph
from fastgmtl.distributed import partition
graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), 4, 4)
print(partition(graph, 2).tolist())
try:
    partition(graph, 2, method="metis")
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[0, 0, 1, 1]",
        'partition: method "metis" needs pymetis, which is not installed; do: pip install "fastgmtl[dist]", or take '
        'method "blocks"',
    ]


def test_more_parts_than_nodes() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2, 2)
    assert partition(graph, 5, method="blocks").tolist() == [1, 3]
    assert partition(Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0), 3).tolist() == []


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (0, {}, "parts must be at least 1, got 0"),
        (2, {"method": "metos"}, "method must be one of auto, metis, blocks, got 'metos'"),
        (2, {"work": torch.ones(3)}, r"work must have shape \[N\] = \[4\], got \[3\]"),
    ],
)
def test_arguments_are_checked(parts: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"partition: {message}"):
        partition(_grid(2), parts, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_one_sends_is_what_the_other_waits_for(size: int) -> None:
    graph = _grid(12)
    owner = torch.randint(size, (144,), generator=torch.Generator().manual_seed(size))
    parts = [Part.of(graph, owner, World(r, size)) for r in range(size)]
    assert torch.cat([p.nodes for p in parts]).sort().values.tolist() == list(range(144))
    assert torch.cat([p.edges for p in parts]).sort().values.tolist() == list(range(graph.num_edges))
    for p in parts:
        arriving = []
        for q in parts:
            at = sum(q.send_to[: p.world.rank])
            arriving.append(q.nodes[q.send[at : at + q.send_to[p.world.rank]]])
            assert q.send_to[p.world.rank] == p.recv[q.world.rank]
        assert torch.equal(torch.cat(arriving), p.halo)
        rows, src_dst = torch.cat([p.nodes, p.halo]), p.local_edges()
        assert torch.equal(torch.stack([rows[src_dst[0]], p.nodes[src_dst[1]]]), graph.edge_index()[:, p.edges])
        inner = p.nodes[: p.interior.num_dst]
        src, dst = graph.edge_index()
        assert bool((owner[src[torch.isin(dst, inner)]] == p.world.rank).all())
        assert torch.equal(p.in_degree(), graph.in_degree()[p.nodes])
        assert f"{144 if size == 1 else len(p.nodes)} of 144 nodes" in repr(p)


def test_labels_of_every_node_type_go_with_their_nodes() -> None:
    """A task about one of two types: its nodes have their labels and splits, the others none."""
    pairs = torch.tensor([[0, 1, 1, 3], [2, 0, 1, 4]])
    hetero = HeteroGraph.from_dict({("a", "to", "b"): pairs}, {"a": 4, "b": 5})

    def task(node_type: str, kind: str, target: Tensor, outputs: int) -> Task:
        split = {part: torch.arange(len(target)) % 3 == k for k, part in enumerate(("train", "val", "test"))}
        metric = {"class": "accuracy", "regression": "mae"}[kind]
        return Task(node_type, kind, "node", target, split, metric, node_type, outputs)

    tasks = TaskSet([task("b", "class", torch.arange(5), 5), task("a", "regression", torch.arange(4.0), 1)])
    data = Dataset.from_hetero("two", hetero.add_inverse_relations(), {}, tasks, "somewhere")
    owner = torch.tensor([0, 1, 1, 0, 1, 0, 1, 0, 0])
    parts = [Part.of(data.graph, owner, World(r, 2)) for r in (0, 1)]
    shares = [share(data, part) for part in parts]
    for name, first in (("a", 0), ("b", 4)):
        given = data.tasks[name]
        for part, mine in zip(parts, shares, strict=True):
            got = mine.tasks[name]
            about = (part.nodes >= first) & (part.nodes < first + len(given.target))
            rows = part.nodes[about] - first
            assert torch.equal(got.target[about], given.target[rows])
            assert bool((got.target[~about] == -1).all() if name == "b" else got.target[~about].isnan().all())
            for split, mask in got.split.items():
                assert torch.equal(mask[about], given.split[split][rows]) and not mask[~about].any()
                assert got.count(split) == given.count(split)
    assert torch.equal(shares[0].x, data.x[parts[0].nodes]) and shares[0].source == "somewhere"


def test_what_is_said_of_a_rank_that_has_ended() -> None:
    """The first sentence of gloo's message, without a path; what is no such message is not taken for one."""
    text = (
        "[/a/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:14210: Connection reset by peer. This is why.\nMore"
    )
    told = "Read error [127.0.0.1]:14210: Connection reset by peer"
    found = lost(World(1, 3), RuntimeError(text))
    assert str(found) == f"rank 1 of 3: another rank has ended or does not answer ({told})"
    assert lost(World(1, 3), RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost(World(1, 3), ValueError(text)) is None

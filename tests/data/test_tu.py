from __future__ import annotations

import gzip
import time

import pytest
import torch

from fastgmtl.data import load
from fastgmtl.data.splits import undirected
from fastgmtl.data.tu import load_tu


def test_a_small_folder_is_read_as_published(tu_folder):
    data = load(str(tu_folder), seed=1)
    assert (data.name, data.num_graphs, data.num_nodes, data.num_features) == ("tu:TINY", 2, 8, 2)
    assert data.node_graph.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert list(data.tasks) == ["graph_class", "node_class", "link"]
    # Labels -1, 1 and 3, 5, 9 are numbered by size.
    assert data.tasks["graph_class"].target.tolist() == [0, 1]
    assert data.tasks["node_class"].target.tolist() == [0, 0, 1, 2, 0, 1, 1, 0]
    assert (data.tasks["graph_class"].num_outputs, data.tasks["node_class"].num_outputs) == (2, 3)
    # X / max(1, row sum): the sum of row 2 is 0.5, of row 5 negative.
    expected = [[0.25, 0.75], [0.25, 0.25], [0.5, 0.5], [0, 0], [-1, 0.5], [0.5, 0.5], [1, 0], [0.5, 0.5]]
    assert data.x.tolist() == expected
    pairs = data.tasks["link"].target
    assert pairs.t().tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3], [4, 5], [4, 6], [5, 6]]
    assert "2 graphs, 8 nodes" in data.summary()


def test_nodes_follow_the_split_of_their_graph(tu_folder):
    data = load(tu_folder, seed=1)
    for split in ("train", "val", "test"):
        graphs = data.tasks["graph_class"].split[split]
        assert torch.equal(data.tasks["node_class"].split[split], graphs[data.node_graph])


def test_gzipped_files_are_read_alike(tu_folder):
    plain = load(tu_folder)
    for path in list(tu_folder.glob("*.txt")):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load(tu_folder)
    assert torch.equal(packed.x, plain.x)
    assert torch.equal(packed.graph.edge_index(), plain.graph.edge_index())
    assert packed.tasks.counts("train") == plain.tasks.counts("train")


def test_labels_and_attributes_are_optional(tu_folder):
    for part in ("graph_labels", "node_labels", "node_attributes"):
        (tu_folder / f"TINY_{part}.txt").unlink()
    data = load(tu_folder)
    assert list(data.tasks) == ["link"]
    assert data.num_graphs == 2
    degree = data.graph.in_degree().float()
    assert torch.equal(data.x, torch.stack((torch.ones(8), degree.log1p()), 1))


def test_edges_in_one_direction_or_twice_make_no_difference(tu_folder):
    path = tu_folder / "TINY_A.txt"
    plain = load(tu_folder)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[::2] + lines[::2] + ["4, 4"]))
    again = load(tu_folder)
    assert torch.equal(again.tasks["link"].target, plain.tasks["link"].target)


def test_a_set_without_edges(tu_folder):
    (tu_folder / "TINY_A.txt").write_text("")
    data = load(tu_folder)
    assert data.graph.num_edges == 0
    assert data.tasks["link"].count("train") == 0


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("A", "1, 2\n2, 9\n", "node numbers must be in 1..8, got 9"),
        ("A", "0, 2\n", "node numbers must be in 1..8, got 0"),
        ("A", "1, 2\n4, 5\n", "line 2 joins nodes of two graphs"),
        ("A", "1, 2, 3\n", "two node numbers a line are required, got 3"),
        ("A", "1, 2\n2\n", "line 2 holds 1 numbers"),
        ("graph_indicator", "", "the file is empty"),
        ("graph_indicator", "1\n1\n2\n1\n", "graph numbers must start at 1 and not fall"),
        ("graph_indicator", "0\n1\n2\n2\n", "graph numbers must start at 1 and not fall"),
        ("graph_indicator", "1\n1\n2\n3\n", "graph numbers must be in 1..2, got 3"),
        ("graph_indicator", "1, 1\n1, 2\n", "one number a line is required, got 2"),
        ("graph_labels", "1\n", "graph numbers must be in 1..1, got 2"),
        ("graph_labels", "1.5\n2\n", "line 1 holds '1.5', which is not an integer"),
        ("node_labels", "1\n2\n", "8 lines are required, one a node, got 2"),
        ("node_labels", "one\n", "line 1 holds 'one', which is not an integer"),
        ("node_attributes", "1, 2\n", "8 lines are required, one a node, got 1"),
        ("node_attributes", "", "8 lines are required, one a node, got 0"),
        ("node_attributes", "1, 2\n3, nan\n", "line 2 holds a number that is not finite"),
    ],
)
def test_damaged_files_are_named(tu_folder, part, text, message):
    (tu_folder / f"TINY_{part}.txt").write_text(text)
    named = "graph_indicator" if part == "graph_labels" and "graph numbers" in message else part
    with pytest.raises(ValueError, match=rf"TINY_{named}.txt: .*{message}"):
        load(tu_folder)


def test_huge_graph_numbers_without_labels_are_refused(tu_folder):
    (tu_folder / "TINY_graph_labels.txt").unlink()
    (tu_folder / "TINY_graph_indicator.txt").write_text("1\n999999999999\n")
    with pytest.raises(ValueError, match=r"graph numbers must be in 1..2, got 999999999999"):
        load(tu_folder)


def test_missing_files_are_named(tu_folder):
    (tu_folder / "TINY_graph_indicator.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"TINY_graph_indicator.txt: neither this file nor"):
        load(tu_folder)


# graphs, nodes, lines of A, graph classes, node classes, attributes: the table of the data's SOURCE.md.
PUBLISHED = {
    "ENZYMES": (600, 19580, 74564, 6, 3, 18),
    "PROTEINS": (1113, 43471, 162088, 2, 3, 1),
    "PROTEINS_full": (1113, 43471, 162088, 2, 3, 29),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_counts_of_the_published_sets(data_root, name):
    begin = time.perf_counter()
    data = load_tu(data_root / "tu" / name, name, seed=0)
    took = time.perf_counter() - begin
    graphs, nodes, lines, graph_classes, node_classes, attributes = PUBLISHED[name]
    assert (data.num_graphs, data.num_nodes, data.num_features) == (graphs, nodes, attributes)
    link = data.tasks["link"]
    assert link.target.shape[1] * 2 == lines
    assert data.tasks["graph_class"].num_outputs == graph_classes
    assert data.tasks["node_class"].num_outputs == node_classes
    assert sum(data.tasks["node_class"].count(s) for s in ("train", "val", "test")) == nodes
    # Reading takes 0.1 to 0.3 s; ten times that is a reader that has become slow.
    assert took < 3


def test_enzymes_as_same_has_it(data_root):
    data = load_tu(data_root / "tu" / "ENZYMES", "ENZYMES", seed=0)
    assert data.tasks.counts("train")["graph_class"] == 420
    assert data.tasks.counts("val")["graph_class"] == 60
    assert data.tasks.counts("test")["graph_class"] == 120
    first = torch.tensor([11.0, 15.887014, 37.78, -0.51, 1.701, 93.9, 4, 5, 2, 4, 4, 3, 3, 4, 4, 3, 6, 2])
    torch.testing.assert_close(data.x[0], first / first.sum())
    # The classes are balanced: 100 graphs each.
    assert data.tasks["graph_class"].target.bincount().tolist() == [100] * 6
    link = data.tasks["link"]
    held = torch.cat([link.positives(s) for s in ("val", "test")], 1)
    key = held[0] * data.num_nodes + held[1]
    messages = undirected(data.graph.edge_index(), data.num_nodes)
    assert not torch.isin(key, messages[0] * data.num_nodes + messages[1]).any()
    for split in ("train", "val", "test"):
        negatives = link.negatives(split, torch.Generator().manual_seed(0))
        assert torch.equal(data.node_graph[negatives[0]], data.node_graph[negatives[1]])
        pairs = undirected(negatives, data.num_nodes)
        keys = pairs[0] * data.num_nodes + pairs[1]
        assert not torch.isin(keys, link.target[0] * data.num_nodes + link.target[1]).any()
    other = load_tu(data_root / "tu" / "ENZYMES", "ENZYMES", seed=1)
    assert not torch.equal(other.tasks["graph_class"].split["train"], data.tasks["graph_class"].split["train"])

"""The text format of the Heterogeneous Graph Benchmark: info.dat, node.dat, link.dat, label.dat and label.dat.test.

Source: Q. Lv et al., Are we really making much progress? Revisiting, benchmarking and refining heterogeneous graph
neural networks, KDD 2021; github.com/THUDM/HGB. Nodes have one numbering, type after type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, check_range, read_lines, read_text, require, text_file, to_tensor
from fastgmtl.data.splits import random_split
from fastgmtl.data.tasks import Task, TaskSet
from fastgmtl.hetero import HeteroGraph, Relation

VALIDATION = 0.2  # of the labelled nodes that are not for testing, as in HGB


class Hgb(NamedTuple):
    """Graph, weights of its edges by relation (float32 [E_r]) and features by node type, where there are any."""

    graph: HeteroGraph
    weight: dict[Relation, Tensor]
    features: dict[str, Tensor]


class Labels(NamedTuple):
    """Labelled nodes of one type, int64 [n] in the numbers of the type, and the classes of each."""

    nodes: Tensor
    classes: list[tuple[int, ...]]


def read_hgb(folder: Path) -> Hgb:
    """The graph in ``folder``: info.dat names types, link.dat holds the edges; each but info.dat may be gzipped.

    The nodes are those of node.dat; without one, meta.dat says how many there are of each type. A link type whose
    meaning is "author-paper" between these types is the relation (author, to, paper), as in PyG; "paper-cite-paper" is
    (paper, cite, paper); any other meaning is the name of the relation.
    Raises FileNotFoundError for a missing file and ValueError, naming file and line, for a damaged one.
    """
    info = _read_info(folder / "info.dat")
    types, relations = _types(folder / "info.dat", info), _relations(folder / "info.dat", info)
    has_nodes = any((folder / name).exists() for name in ("node.dat", "node.dat.gz"))
    counts, features = _read_nodes(folder / "node.dat", types) if has_nodes else (_read_meta(folder, types), {})
    starts = dict(zip(counts, [0, *accumulate(counts.values())], strict=False))

    path = text_file(folder / "link.dat")
    table = read_text(folder / "link.dat", integer=False, delimiter="\t")
    if not table.size:
        table = np.empty((0, 4))
    require(path, table.shape[1] in (3, 4), f"3 or 4 numbers a line are required, got {table.shape[1]}")
    whole = (table[:, :3] == np.floor(table[:, :3])).all(axis=1)
    _require_lines(path, whole, "holds a node or type that is no integer")
    links, kind = table[:, :2].astype(np.int64), table[:, 2].astype(np.int64)
    _require_lines(path, np.isin(kind, list(relations)), "has a link type that info.dat lacks")
    edges, weight = {}, {}
    for number, relation in relations.items():
        mine = kind == number
        for end, (side, node_type) in enumerate((("source", relation[0]), ("destination", relation[2]))):
            first = starts[node_type]
            what = f"link type {number}: {side} nodes ({node_type})"
            check_range(path, what, links[mine, end], first, first + counts[node_type])
        own = links[mine] - [starts[relation[0]], starts[relation[2]]]
        edges[relation] = to_tensor(own.T, torch.int64)
        values = table[mine, 3] if table.shape[1] == 4 else np.ones(len(own))
        weight[relation] = to_tensor(values, torch.float32)
    return Hgb(HeteroGraph.from_dict(edges, counts), weight, features)


def write_hgb(folder: Path, graph: HeteroGraph, weight: Mapping[Relation, Tensor] | None = None) -> None:
    """info.dat, meta.dat and link.dat of a graph, which :func:`read_hgb` reads; without weights they are 1."""
    types = list(graph.node_types)
    kinds = {
        str(i): {"start": str(types.index(src)), "end": str(types.index(dst)), "meaning": _meaning((src, name, dst))}
        for i, (src, name, dst) in enumerate(graph.relations)
    }
    named = {str(i): name for i, name in enumerate(types)}
    info = {"node.dat": {"node type": named}, "link.dat": {"link type": kinds}}
    (folder / "info.dat").write_text(json.dumps(info, indent=4))
    counts = {f"Node Type_{i}": str(graph.num_nodes[name]) for i, name in enumerate(types)}
    meta = {"Node Total": str(sum(graph.num_nodes.values())), **counts}
    (folder / "meta.dat").write_text(json.dumps(meta, indent=4))
    with (folder / "link.dat").open("w") as file:
        for i, (relation, edges) in enumerate(graph.edge_index_dict().items()):
            start = [graph.rows(t).start for t in (relation[0], relation[2])]
            values = [1.0] * edges.shape[1] if weight is None else weight[relation].tolist()
            for src, dst, value in zip(*edges.tolist(), values, strict=True):
                file.write(f"{src + start[0]}\t{dst + start[1]}\t{i}\t{value}\n")


def read_labels(path: Path, graph: HeteroGraph) -> dict[str, Labels]:
    """The labels of a label.dat by node type: lines of node, name, type and classes (separated by commas)."""
    path, lines = read_lines(path, "utf-8")
    nodes: dict[str, list[int]] = {}
    classes: dict[str, list[tuple[int, ...]]] = {}
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        require(path, len(cells) == 4, f"line {number} must be node, name, type and classes, got {len(cells)} cells")
        try:
            node, kind, label = int(cells[0]), int(cells[2]), tuple(int(c) for c in cells[3].split(","))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
        require(path, 0 <= kind < len(graph.node_types), f"line {number}: node type {kind} is unknown")
        node_type = graph.node_types[kind]
        rows = graph.rows(node_type)
        what = f"line {number}: nodes of type {node_type}"
        require(path, rows.start <= node < rows.stop, f"{what} are {rows.start}..{rows.stop - 1}, got {node}")
        require(path, min(label) >= 0, f"line {number}: a class must not be negative, got {min(label)}")
        nodes.setdefault(node_type, []).append(node - rows.start)
        classes.setdefault(node_type, []).append(label)
    for node_type, found in nodes.items():
        require(path, len(set(found)) == len(found), f"a node of type {node_type} is there twice")
    return {t: Labels(torch.tensor(found), classes[t]) for t, found in nodes.items()}


def load_hgb(folder: Path, seed: int = 0) -> Dataset:
    """An HGB node classification data set: a task for each labelled node type.

    Labels of label.dat.test are for testing; of those of label.dat 20 % are for validation, drawn by ``seed``. Nodes
    with several classes make a multi-label task, and a node without any has no label.
    """
    hgb = read_hgb(folder)
    seen, tested = (read_labels(folder / name, hgb.graph) for name in ("label.dat", "label.dat.test"))
    tasks = []
    for node_type in dict.fromkeys((*seen, *tested)):
        none = Labels(torch.empty(0, dtype=torch.int64), [])
        mine, theirs = seen.get(node_type, none), tested.get(node_type, none)
        both = set(mine.nodes.tolist()) & set(theirs.nodes.tolist())
        require(
            folder / "label.dat.test", not both, f"nodes must not be in label.dat as well, got {min(both, default=0)}"
        )
        tasks.append(_task(node_type, hgb.graph.num_nodes[node_type], mine, theirs, seed))
    return Dataset.from_hetero(folder.name, hgb.graph, hgb.features, TaskSet(tasks), f"HGB text files in {folder.name}")


def _task(node_type: str, number: int, seen: Labels, tested: Labels, seed: int) -> Task:
    classes = seen.classes + tested.classes
    nodes, width = torch.cat((seen.nodes, tested.nodes)), 1 + max(max(label) for label in classes)
    chosen = random_split(len(seen.nodes), (1 - VALIDATION, VALIDATION), seed)
    split = {name: torch.zeros(number, dtype=torch.bool) for name in chosen}
    split["train"][seen.nodes[~chosen["val"]]] = True
    split["val"][seen.nodes[chosen["val"]]] = True
    split["test"][tested.nodes] = True
    if all(len(label) == 1 for label in classes):
        target = torch.full((number,), -1)
        target[nodes] = torch.tensor([label[0] for label in classes])
        return Task(f"{node_type}_class", "class", "node", target, split, "accuracy", node_type, width)
    table = torch.full((number, width), torch.nan)
    for node, label in zip(nodes.tolist(), classes, strict=True):
        table[node] = 0
        table[node, list(label)] = 1
    return Task(f"{node_type}_labels", "multilabel", "node", table, split, "roc_auc", node_type, width)


# ------------------------------------------------------------------------------------------------------- the files


def _require_lines(path: Path, fine: Array, wrong: str) -> None:
    """ValueError "path: line n wrong" for the first line that is not fine."""
    if not fine.all():
        raise ValueError(f"{path}: line {int(fine.argmin()) + 1} {wrong}")


def _read_info(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of json and of the decoder
        raise ValueError(f"{path}: not readable as JSON ({error})") from error


def _types(path: Path, info: Any) -> dict[int, str]:
    """Names of node types by number, in order."""
    try:
        types = {int(number): str(name) for number, name in info["node.dat"]["node type"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: "node.dat", "node type" must name the types by number ({error!r})') from error
    require(
        path, sorted(types) == list(range(len(types))), f"node types must be 0..{len(types) - 1}, got {list(types)}"
    )
    require(path, len(set(types.values())) == len(types), "names of node types must differ")
    return dict(sorted(types.items()))


def _relations(path: Path, info: Any) -> dict[int, Relation]:
    types, found = _types(path, info), {}
    try:
        for number, link in info["link.dat"]["link type"].items():
            src, dst = types[int(link["start"])], types[int(link["end"])]
            found[int(number)] = (src, _name(src, str(link["meaning"]), dst), dst)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: "link.dat", "link type" must have start, end and meaning for each number ({error!r})'
        ) from error
    require(path, len(set(found.values())) == len(found), "link types must differ in their ends or meaning")
    return found


def _name(src: str, meaning: str, dst: str) -> str:
    """What is between the names of the types: "to" where it is only a dash or an arrow; else the whole meaning."""
    if meaning in (f"{src}-{dst}", f"{src}->{dst}"):
        return "to"
    if meaning.startswith(f"{src}-") and meaning.endswith(f"-{dst}") and len(meaning) > len(src) + len(dst) + 2:
        return meaning[len(src) + 1 : -len(dst) - 1]
    return meaning


def _meaning(relation: Relation) -> str:
    return f"{relation[0]}-{relation[2]}" if relation[1] == "to" else "-".join(relation)


def _read_meta(folder: Path, types: dict[int, str]) -> dict[str, int]:
    path = folder / "meta.dat"
    if not path.exists():
        raise FileNotFoundError(f"{path}: neither this file nor node.dat exists; one must say how many nodes there are")
    meta = _read_info(path)
    try:
        counts = {name: int(meta[f"Node Type_{number}"]) for number, name in types.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: "Node Type_k" must be the number of nodes of each type k ({error!r})') from error
    require(path, all(count >= 0 for count in counts.values()), "numbers of nodes must not be negative")
    return counts


def _read_nodes(path: Path, types: dict[int, str]) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Numbers of nodes and features by type; a line is node, name, type and, where there are any, the features."""
    path, lines = read_lines(path, "utf-8")
    counts, features = dict.fromkeys(types.values(), 0), {name: list[list[float]]() for name in types.values()}
    last = 0
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        require(
            path, len(cells) in (3, 4), f"line {number} must be node, name, type and features, got {len(cells)} cells"
        )
        try:
            node, kind = int(cells[0]), int(cells[2])
            row = [float(value) for value in cells[3].split(",")] if len(cells) == 4 and cells[3] else []
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
        require(path, node == number - 1, f"line {number}: nodes must be 0, 1, 2 and so on, got {node}")
        require(
            path, kind in types and kind >= last, f"line {number}: types must be in info.dat and not fall, got {kind}"
        )
        last, mine = kind, features[types[kind]]
        width = len(mine[0]) if mine else len(row)
        require(path, len(row) == width, f"line {number}: {width} features are required as before, got {len(row)}")
        require(path, np.isfinite(row).all(), f"line {number}: a feature is not finite")
        counts[types[kind]] += 1
        mine.append(row)
    return counts, {name: torch.tensor(rows) for name, rows in features.items() if rows and rows[0]}

"""Knowledge graphs: triples (head, relation, tail) in three splits, for link prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.files import check_range, data_roots, find_folder, read_lines, read_text, require, to_tensor
from fastgmtl.data.tasks import SPLITS
from fastgmtl.graph import Graph

# Where a knowledge graph lies under a data root.
FOLDERS = {
    "fb15k237": "fb15k237",
    "wn18rr": "wn18rr",
    "kinships": "kg_small/kinships",
    "nations": "kg_small/nations",
    "umls": "kg_small/umls",
}


@dataclass(frozen=True)
class KnowledgeGraph:
    """``splits``: [n, 3] int64 of head, relation and tail for "train", "val" and "test"."""

    name: str
    num_entities: int
    num_relations: int
    splits: dict[str, Tensor]
    _kept: dict[tuple[str, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def graph(self) -> Graph:
        """The train triples as edges from head to tail, followed by their inverses, from tail to head."""
        head, _, tail = self.splits["train"].t()
        edges = torch.stack([torch.cat([head, tail]), torch.cat([tail, head])])
        return Graph.from_edge_index(edges, self.num_entities, self.num_entities)

    @cached_property
    def edge_type(self) -> Tensor:
        """Relation of each edge of the graph; the inverse of r is r + num_relations."""
        relation = self.splits["train"][:, 1]
        return torch.cat([relation, relation + self.num_relations])

    def queries(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """``(source, relation, answer)`` of both questions that a triple answers: (h, r, ?), (t, inverse of r, ?)."""
        head, relation, tail = self.splits[split].t()
        return (
            torch.cat([head, tail]),
            torch.cat([relation, relation + self.num_relations]),
            torch.cat([tail, head]),
        )

    def _sorted(self, splits: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """The questions of the splits, source * 2 R + relation, sorted, and their answers; kept."""
        if splits not in self._kept:
            source, relation, answer = (torch.cat(column) for column in zip(*map(self.queries, splits), strict=True))
            key, order = (source * 2 * self.num_relations + relation).sort()
            self._kept[splits] = key, answer[order]
        return self._kept[splits]

    def known(self, source: Tensor, relation: Tensor, splits: tuple[str, ...] = SPLITS) -> Tensor:
        """Whether an entity answers a question in one of the splits, bool [B, num_entities]."""
        key, answer = self._sorted(splits)
        asked = source * 2 * self.num_relations + relation
        begin, end = (torch.searchsorted(key, asked, right=right) for right in (False, True))
        count = end - begin
        row = torch.arange(len(asked)).repeat_interleave(count)
        at = torch.arange(len(row)) - (count.cumsum(0) - count).repeat_interleave(count) + begin[row]
        found = torch.zeros(len(asked), self.num_entities, dtype=torch.bool)
        found[row, answer[at]] = True
        return found


def kg_names() -> list[str]:
    """The knowledge graphs whose files are in the data roots."""
    return [name for name, folder in FOLDERS.items() if any((root / folder).is_dir() for root in data_roots())]


def load_kg(name: str) -> KnowledgeGraph:
    """``fb15k237`` (OpenKE's ids), ``wn18rr``, ``kinships``, ``nations`` or ``umls`` (names, separated by tabs).

    Raises ValueError for an unknown name or a damaged file, FileNotFoundError for absent data.
    """
    if name not in FOLDERS:
        raise ValueError(f"data: a knowledge graph is one of {', '.join(FOLDERS)}, got {name!r}")
    folder = find_folder(FOLDERS[name])
    if (folder / "entity2id.txt").exists():
        return _by_ids(name, folder)
    return _by_names(name, folder)


def _files(ending: str) -> dict[str, str]:
    return {split: f"{'valid' if split == 'val' else split}{ending}" for split in SPLITS}


def _count(path: Path) -> int:
    path, lines = read_lines(path, "utf-8")
    require(path, bool(lines) and lines[0].strip().isdigit(), "line 1 must be a count")
    return int(lines[0])


def _by_ids(name: str, folder: Path) -> KnowledgeGraph:
    entities, relations = _count(folder / "entity2id.txt"), _count(folder / "relation2id.txt")
    splits = {}
    for split, file in _files("2id.txt").items():
        path = folder / file
        table, count = read_text(path, True, delimiter=" ", skip=1), _count(path)
        table = table.reshape(-1, 3) if table.size == 0 else table
        require(path, table.shape == (count, 3), f"{count} lines of three ids are required, got {list(table.shape)}")
        check_range(path, "entities", table[:, :2], 0, entities)
        check_range(path, "relations", table[:, 2], 0, relations)
        splits[split] = to_tensor(table[:, [0, 2, 1]], torch.int64)
    return KnowledgeGraph(name, entities, relations, splits)


def _by_names(name: str, folder: Path) -> KnowledgeGraph:
    rows: dict[str, list[list[str]]] = {}
    for split, file in _files(".txt").items():
        path, lines = read_lines(folder / file, "utf-8")
        rows[split] = [line.split("\t") for line in lines if line.strip()]
        wrong = next((k for k, row in enumerate(rows[split]) if len(row) != 3), None)
        require(path, wrong is None, f"triple {0 if wrong is None else wrong + 1} must have three names")
    entities = sorted({row[k] for split in rows.values() for row in split for k in (0, 2)})
    relations = sorted({row[1] for split in rows.values() for row in split})
    entity, relation = ({key: n for n, key in enumerate(keys)} for keys in (entities, relations))
    splits = {
        split: torch.from_numpy(
            np.array([(entity[h], relation[r], entity[t]) for h, r, t in found], dtype=np.int64).reshape(-1, 3)
        )
        for split, found in rows.items()
    }
    return KnowledgeGraph(name, len(entities), len(relations), splits)

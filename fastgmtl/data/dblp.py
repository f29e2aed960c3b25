"""DBLP with two tasks, as StrucHIS has it: authors' research areas and papers' venues."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Form, read_npz, read_sparse_npz, require, to_tensor
from fastgmtl.data.hgb import read_hgb, read_labels
from fastgmtl.data.tasks import SPLITS, Task, TaskSet
from fastgmtl.hetero import HeteroGraph

TYPES = ("author", "paper", "term")
SPLIT_FORMS: dict[str, Form] = {f"{kind}_{part}": ("b", 1) for kind in ("author", "paper") for part in SPLITS}


def is_dblp(folder: Path) -> bool:
    """Whether the folder holds this data set."""
    return all((folder / name).exists() for name in ("author_feat.npz", "paper_feat.npz", "term_feat.npz", "split.npz"))


def load_dblp(folder: Path) -> Dataset:
    """4,057 authors, 14,328 papers and 7,723 terms from the HGB files, features and split in ``folder``.

    * Relations: authors and papers, papers and terms, both ways; an edge of every author and of every paper to
      itself. Venues are no nodes: they are what is to be predicted.
    * features: counts of words of authors and papers (sparse), 50 numbers for terms.
    * ``author_area``: class, 4. ``paper_venue``: class, 20.
    * Split: the shipped one.

    Source: StrucHIS (see the SOURCE.md of the folder). Raises FileNotFoundError for a missing file and ValueError,
    naming the file, for a damaged one.
    """
    whole = read_hgb(folder).graph
    info = folder / "info.dat"
    lacking = [name for name in (*TYPES, "venue") if name not in whole.num_nodes]
    require(info, not lacking, f"node types must be author, paper, term and venue, {', '.join(lacking)} is missing")
    published = ("paper", "to", "venue")
    require(info, published in whole.relations, "the link type paper-venue is missing")
    edges = whole.edge_index_dict()
    counts = {name: whole.num_nodes[name] for name in TYPES}
    inner = {relation: e for relation, e in edges.items() if "venue" not in (relation[0], relation[2])}
    hetero = HeteroGraph.from_dict(inner, counts).add_self_relations(("author", "paper"))

    area = torch.full((counts["author"],), -1)
    for name in ("label.dat", "label.dat.test"):
        labels = read_labels(folder / name, whole)
        require(folder / name, set(labels) <= {"author"}, "only authors have labels")
        for mine in labels.values():
            require(folder / name, all(len(label) == 1 for label in mine.classes), "an author has one class")
            area[mine.nodes] = torch.tensor([label[0] for label in mine.classes])
    venue = torch.full((counts["paper"],), -1)
    paper, target = edges[published]
    require(folder / "link.dat", paper.unique().numel() == paper.numel(), "a paper has two venues")
    venue[paper] = target

    masks = read_npz(folder / "split.npz", SPLIT_FORMS)
    for name, mask in masks.items():
        rows = counts[name.partition("_")[0]]
        require(folder / "split.npz", mask.size == rows, f"array {name} must have {rows} entries, got {mask.size}")

    def task(name: str, node_type: str, classes: Tensor, outputs: int) -> Task:
        split = {part: to_tensor(masks[f"{node_type}_{part}"], torch.bool) for part in SPLITS}
        return Task(name, "class", "node", classes, split, "accuracy", node_type, outputs)

    areas = int(area.max()) + 1 if area.numel() else 1
    return Dataset.from_hetero(
        "dblp",
        hetero,
        _features(folder, counts),
        TaskSet(
            [
                task("author_area", "author", area, max(1, areas)),
                task("paper_venue", "paper", venue, max(1, whole.num_nodes["venue"])),
            ]
        ),
        "DBLP of StrucHIS (HGB files; features of HeCo); dblp.org records are CC0",
    )


def _features(folder: Path, counts: dict[str, int]) -> dict[str, Tensor]:
    path = folder / "term_feat.npz"
    term = to_tensor(read_npz(path, {"feat": ("f", 2)})["feat"], torch.float32)
    require(path, len(term) == counts["term"], f"{counts['term']} rows are required, got {len(term)}")
    require(path, bool(term.isfinite().all()), "a value is not finite")
    words = {name: read_sparse_npz(folder / f"{name}_feat.npz", counts[name]) for name in ("author", "paper")}
    return {**words, "term": term}

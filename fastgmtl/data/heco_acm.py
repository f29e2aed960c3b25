"""ACM of HeCo with two tasks: papers' classes and papers' subjects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, check_range, read_sparse_npz, read_text, require, to_tensor
from fastgmtl.data.splits import random_split
from fastgmtl.data.tasks import Task, TaskSet
from fastgmtl.hetero import HeteroGraph

FRACTIONS = (0.6, 0.2)


def is_heco_acm(folder: Path) -> bool:
    """Whether the folder holds this data set."""
    return all((folder / name).exists() for name in ("pa.txt", "ps.txt", "labels.npy", "p_feat.npz", "a_feat.npz"))


def load_heco_acm(folder: Path, seed: int = 0) -> Dataset:
    """4,019 papers and 7,167 authors from the files of HeCo in ``folder``.

    * Relations: papers and authors, both ways; an edge of every node to itself. Subjects are no nodes: they are what
      is to be predicted.
    * features: sparse, 1,902 numbers for papers and authors.
    * ``paper_class``: class, 3. ``paper_subject``: class, 60.
    * Split: 60/20/20 of the papers at random, by ``seed``, the same for both tasks.

    Source: X. Wang et al., Self-supervised heterogeneous graph neural network with co-contrastive learning, KDD 2021.
    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one.
    """
    classes = _labels(folder / "labels.npy")
    written, about = (_pairs(folder / name, classes.size) for name in ("pa.txt", "ps.txt"))
    authors = int(written[1].max()) + 1 if written.size else 0
    edges = to_tensor(written, torch.int64)
    counts = {"paper": classes.size, "author": authors}
    both = {("paper", "to", "author"): edges, ("author", "to", "paper"): edges.flip(0)}
    features = {name: read_sparse_npz(folder / f"{name[0]}_feat.npz", rows) for name, rows in counts.items()}

    require(folder / "ps.txt", np.unique(about[0]).size == about.shape[1], "a paper has two subjects")
    subject = torch.full((classes.size,), -1)
    subject[to_tensor(about[0], torch.int64)] = to_tensor(about[1], torch.int64)
    split = random_split(classes.size, FRACTIONS, seed)
    tasks = [
        Task(name, "class", "node", target, split, "accuracy", "paper", int(target.max()) + 1)
        for name, target in (("paper_class", to_tensor(classes, torch.int64)), ("paper_subject", subject))
    ]
    return Dataset.from_hetero(
        "heco_acm",
        HeteroGraph.from_dict(both, counts).add_self_relations(),
        features,
        TaskSet(tasks),
        "ACM of HeCo (github.com/liun-online/HeCo), no licence stated",
    )


def _labels(path: Path) -> Array:
    try:
        labels: Array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy raises several types for damaged bytes
        raise ValueError(f"{path}: not a readable npy file ({error})") from error
    fine = isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iuf" and labels.size > 0
    require(path, fine and bool((labels == np.floor(labels)).all()), "one whole number for each paper is required")
    check_range(path, "classes", labels, 0, labels.size)
    return labels.astype(np.int64)


def _pairs(path: Path, papers: int) -> Array:
    """The edges of a text file, [2, E]: papers and what they are joined to."""
    table = read_text(path, integer=True, delimiter="\t")
    require(path, table.size > 0 and table.shape[1] == 2, "two numbers a line are required")
    check_range(path, "papers", table[:, 0], 0, papers)
    check_range(path, "what they are joined to", table[:, 1], 0, 2**31)
    return table.T

"""The classic data sets of multi-task learning: many tasks, each with rows of its own, over the same features.

A task is a school, a patient or a minefield. All rows are nodes of one graph without edges; a row has a label for its
own task alone (for both of its patient's, in Parkinsons). Rows are split 60/20/20 at random within each task.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, read_lines, read_text, require, to_tensor
from fastgmtl.data.mat import read_mat
from fastgmtl.data.splits import random_split
from fastgmtl.data.tasks import SPLITS, Task, TaskSet
from fastgmtl.graph import Graph

FILES = {"School": "school.mat", "Parkinsons": "parkinsons_updrs.data", "Landmine": "LandmineData.mat"}
SOURCES = {
    "School": "Inner London Education Authority's examination records (Mortimore et al. 1988), as in MALSAR",
    "Parkinsons": "Parkinsons telemonitoring (Tsanas et al. 2010), UCI, CC BY 4.0",
    "Landmine": "landmine detection by radar (Xue et al. 2007); no licence stated",
}


def mtl_names(folder: Path) -> list[str]:
    """Names of the data sets whose file is in the folder."""
    return [name for name, file in FILES.items() if (folder / file).exists()]


def load_mtl(folder: Path, name: str, seed: int = 0) -> Dataset:
    """``School``, ``Parkinsons`` or ``Landmine`` of the folder.

    * School: the examination score of 15,362 pupils of 139 schools, one regression task a school; 27 features of year,
      pupil and school, and a constant.
    * Parkinsons: UPDRS scores of 42 patients from 5,875 recordings of their voice: 84 regression tasks, ``motor_1`` to
      ``motor_42`` and ``total_1`` to ``total_42``; 16 features of the voice, age, sex and time.
    * Landmine: 29 fields with 14,820 places, mine or not: a task of one label a field, judged by ROC-AUC, because only
      6 % are mines; 9 features of the radar's picture.

    ``seed`` chooses the split. Raises FileNotFoundError for a missing file and ValueError, naming the file, for a
    damaged one.
    """
    path = folder / FILES[name]
    if name == "Parkinsons":
        return _parkinsons(path, seed)
    variables = read_mat(path)
    x, y = (_cells(path, variables, key) for key in (("X", "Y") if name == "School" else ("feature", "label")))
    require(path, len(x) == len(y), f"{len(x)} tasks with features but {len(y)} with labels")
    for t, (rows, labels) in enumerate(zip(x, y, strict=True)):
        fits = rows.shape == (labels.size, x[0].shape[1])
        require(path, fits, f"task {t + 1}: features {list(rows.shape)} do not fit labels {list(labels.shape)}")
        require(path, name == "School" or np.isin(labels, (0, 1)).all(), f"task {t + 1}: a label is neither 0 nor 1")
    owner = np.repeat(np.arange(len(y)), [labels.size for labels in y])
    columns = {"school" if name == "School" else "field": np.concatenate([labels.ravel() for labels in y])}
    return _dataset(path, name, np.concatenate(x), owner, columns, seed)


def _cells(path: Path, variables: dict[str, Array | list[Array]], name: str) -> list[Array]:
    value = variables.get(name)
    require(path, isinstance(value, list) and bool(value), f"cells {name} are missing")
    assert isinstance(value, list)
    return value


def _parkinsons(path: Path, seed: int) -> Dataset:
    """Separated by commas or tabulators: subject, age, sex, test_time, motor_UPDRS, total_UPDRS, 16 of the voice."""
    _, lines = read_lines(path)
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    head = lines[0].split(delimiter) if lines else []
    fits = len(head) == 22 and head[:1] + head[4:6] == ["subject#", "motor_UPDRS", "total_UPDRS"]
    require(path, fits, "the head line must name 22 columns, with subject#, motor_UPDRS and total_UPDRS where UCI has")
    table = read_text(path, integer=False, delimiter=delimiter, skip=1)
    require(path, table.shape[0] > 0 and table.shape[1] == 22, f"a table of 22 columns is required, got {table.shape}")
    _, owner = np.unique(table[:, 0], return_inverse=True)
    x = np.delete(table, (0, 4, 5), axis=1)
    return _dataset(path, "Parkinsons", x, owner, {"motor": table[:, 4], "total": table[:, 5]}, seed)


def _dataset(path: Path, name: str, x: Array, owner: Array, columns: dict[str, Array], seed: int) -> Dataset:
    """Row i belongs to unit ``owner[i]``; every column is a task for each unit."""
    require(path, np.isfinite(x).all() and all(np.isfinite(y).all() for y in columns.values()), "a value is not finite")
    split = {part: torch.zeros(len(x), dtype=torch.bool) for part in SPLITS}
    units = [to_tensor(np.flatnonzero(owner == unit), torch.int64) for unit in range(owner.max() + 1)]
    for unit, rows in enumerate(units):
        for part, mask in random_split(len(rows), (0.6, 0.2), seed + unit).items():
            split[part][rows[mask]] = True
    tasks = []
    for column, y in columns.items():
        values = to_tensor(y, torch.float32)
        for unit, rows in enumerate(units):
            target = torch.full((len(x),), torch.nan)
            target[rows] = values[rows]
            binary = name == "Landmine"
            tasks.append(
                Task(
                    f"{column}_{unit + 1}",
                    "multilabel" if binary else "regression",
                    "node",
                    target[:, None] if binary else target,
                    split,
                    "roc_auc" if binary else "r2",
                )
            )
    none = torch.zeros(2, 0, dtype=torch.int64)
    return Dataset(
        name=f"mtl:{name}",
        graph=Graph.from_edge_index(none, len(x), len(x)),
        x=to_tensor(x, torch.float32),
        tasks=TaskSet(tasks),
        source=SOURCES[name],
    )

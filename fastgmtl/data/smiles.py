"""Molecules from a table of SMILES, read by RDKit: the optional extra ``molecules``."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgmtl.data.files import Array, read_lines, require
from fastgmtl.data.molecules import MOTIFS, Molecules, molecules

# RDKit's names of what the codes 0, 1, ... stand for.
CHIRALITIES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
DIRECTIONS = ("NONE", "ENDUPRIGHT", "ENDDOWNRIGHT")
_TABLES = ("atom", "bond", "bond_attr")


def load_smiles(path: Path) -> Molecules:
    """The molecules of a CSV file (``.csv`` or ``.csv.gz``): a head line, then SMILES and one column a label.

    An empty cell is a missing label. Molecules that RDKit refuses, with dummy atoms or with a bond that is not single,
    double, triple or aromatic are left out. The split is by scaffold (:func:`scaffold_split`); motifs are RDKit's 85
    functional groups. Raises ImportError without RDKit, and ValueError, naming the file and line, for a damaged file.
    """
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import Descriptors
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        raise ImportError(f"data: {path} holds SMILES, which RDKit reads; pip install 'fastgmtl[molecules]'") from None
    RDLogger.DisableLog("rdApp.*")
    groups = [count for name, count in Descriptors.descList if name.startswith("fr_")][:MOTIFS]
    path, lines = read_lines(path, "utf-8")
    head, *rows = list(csv.reader(lines)) or [[]]
    require(path, len(head) > 1, "a head line of SMILES and at least one label is required")
    tables: tuple[list[Any], ...] = ([], [], [])
    sizes, labels, scaffolds, motifs = [], [], [], []
    for line, row in enumerate(rows, 2):
        require(path, len(row) == len(head), f"line {line} holds {len(row)} cells, the head {len(head)}")
        molecule = Chem.MolFromSmiles(row[0])
        coded = None if molecule is None else _coded(molecule)
        if coded is None:
            continue
        for table, part in zip(tables, coded, strict=True):
            table += part
        sizes.append((len(coded[0]), len(coded[1])))
        labels.append([_number(path, line, cell) for cell in row[1:]])
        motifs.append([float(count(molecule) > 0) for count in groups])
        scaffolds.append(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=True))
    ptr = np.cumsum([(0, 0), *sizes], axis=0)
    arrays = {
        **{key: np.array(rows, np.int64).reshape(-1, 2) for key, rows in zip(_TABLES, tables, strict=True)},
        "atom_ptr": ptr[:, 0],
        "bond_ptr": ptr[:, 1],
        "y": np.array(labels, np.float32).reshape(-1, len(head) - 1),
        "scaffold_split": scaffold_split(scaffolds),
        "tasks": np.array(head[1:]),
    }
    name = path.name.removesuffix(".gz").removesuffix(".csv").lower()
    return molecules(path, name, arrays, torch.tensor(motifs).reshape(-1, MOTIFS))


def scaffold_split(scaffolds: Sequence[str]) -> Array:
    """0 (train), 1 (val) or 2 (test) for each molecule: 80/10/10, no scaffold in two, the commonest ones in train.

    Source: Wu et al., MoleculeNet, Chemical Science 2018, in its deterministic form.
    """
    members = defaultdict(list)
    for number, scaffold in enumerate(scaffolds):
        members[scaffold].append(number)
    total, train, val = len(scaffolds), 0, 0
    split = np.full(total, 2, np.int64)
    for group in sorted(members.values(), key=lambda g: (len(g), g[0]), reverse=True):
        if train + len(group) <= 0.8 * total:
            split[group], train = 0, train + len(group)
        elif train + val + len(group) <= 0.9 * total:
            split[group], val = 1, val + len(group)
    return split


def _coded(molecule: Any) -> tuple[list[Any], list[Any], list[Any]] | None:
    """Atoms, bonds and bond attributes of an RDKit molecule; None for one that has no code."""
    atoms = [(a.GetAtomicNum() - 1, _place(CHIRALITIES, a.GetChiralTag(), 0)) for a in molecule.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    kinds = [(_place(BONDS, b.GetBondType(), -1), _place(DIRECTIONS, b.GetBondDir(), 0)) for b in molecule.GetBonds()]
    known = atoms and min(number for number, _ in atoms) >= 0 and all(kind >= 0 for kind, _ in kinds)
    return (atoms, bonds, kinds) if known else None


def _place(names: Sequence[str], value: Any, other: int) -> int:
    return names.index(str(value)) if str(value) in names else other


def _number(path: Path, line: int, cell: str) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        raise ValueError(f"{path}: line {line} holds {cell!r}, which is not a number") from None

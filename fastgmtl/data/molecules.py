"""Molecules: thousands of small graphs of atoms and bonds, and MoleculeNet's data sets of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.files import Array, Form, check_range, read_npz, require, to_tensor
from fastgmtl.data.tasks import SPLITS, Task, TaskSet
from fastgmtl.graph import Graph

ELEMENTS, CHIRALITIES = 119, 3
BOND_TYPES, DIRECTIONS = ("single", "double", "triple", "aromatic"), ("", " up", " down")
MOTIFS = 85

FORMS: dict[str, Form] = {
    "atom": ("iu", 2),
    "bond": ("iu", 2),
    "bond_attr": ("iu", 2),
    "atom_ptr": ("iu", 1),
    "bond_ptr": ("iu", 1),
    "y": ("f", 2),
    "scaffold_split": ("iu", 1),
    "tasks": ("U", 1),
}
NON_COMMERCIAL = ("sider", "freesolv")


@dataclass(frozen=True, eq=False)
class Molecules(Dataset):
    """Molecules as graphs of their heavy atoms: many graphs, of which a method takes a batch at a time.

    x: float32 [N, 2], whole numbers: atomic number - 1, and chirality 0 (none), 1 (clockwise), 2.
    graph: every bond in both directions, one after the other: edges 2 k and 2 k + 1 are bond k.
    edge_type: 3 * bond type (single, double, triple, aromatic) + direction (none, up, down).
    motif: float32 [num_graphs, 85] of 0 and 1: which motifs a molecule holds, for methods that learn to say so.
        RDKit's 85 functional groups where the molecules were read by it. Else the 85 surroundings of an atom (its
        element, and the bonds to its neighbours and their elements) that are in most of the training molecules.
    """

    motif: Tensor = field(default_factory=lambda: torch.zeros(0, MOTIFS))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("motif", [self.num_graphs, self.motif.shape[-1]], self.motif)
        for task in self.tasks.values():
            if task.level != "graph":
                raise ValueError(f"data set {self.name}: tasks must be about molecules, {task.name} is {task.level}")

    def take(self, molecules: Tensor) -> Molecules:
        """The molecules of these numbers (int64 [B]), in this order: a batch, with their labels."""
        node_ptr, edge_ptr, edge_index = self._parts
        nodes, node_graph = _ranges(node_ptr, molecules)
        edges, owner = _ranges(edge_ptr, molecules)
        size = node_ptr[molecules + 1] - node_ptr[molecules]
        shift = size.cumsum(0) - size - node_ptr[molecules]
        assert self.edge_type is not None
        return dataclasses.replace(
            self,
            graph=Graph.from_edge_index(edge_index[:, edges] + shift[owner], len(nodes), len(nodes)),
            x=self.x[nodes],
            tasks=TaskSet(_taken(task, molecules) for task in self.tasks.values()),
            node_graph=node_graph,
            num_graphs=len(molecules),
            edge_type=self.edge_type[edges],
            motif=self.motif[molecules],
        )

    def to(self, device: torch.device | str) -> Molecules:
        """The same molecules with every tensor on the device."""
        moved = super().to(device)
        assert isinstance(moved, Molecules)
        return dataclasses.replace(moved, motif=self.motif.to(device))

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds of the nodes and of the edges of each molecule, int64 [G + 1], and the edges [2, E]."""
        assert self.node_graph is not None
        bounds = torch.arange(self.num_graphs + 1, device=self.x.device)
        edge_index = self.graph.edge_index()
        node_ptr, edge_ptr = (
            torch.searchsorted(owner, bounds) for owner in (self.node_graph, self.node_graph[edge_index[0]])
        )
        return node_ptr, edge_ptr, edge_index


def _ranges(ptr: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The members ptr[i] .. ptr[i + 1] - 1 for each i of ``which``, one after the other, and the place of their i."""
    size = ptr[which + 1] - ptr[which]
    owner = torch.arange(len(which), device=which.device).repeat_interleave(size)
    within = torch.arange(len(owner), device=which.device) - (size.cumsum(0) - size)[owner]
    return ptr[which][owner] + within, owner


def _taken(task: Task, rows: Tensor) -> Task:
    split = {name: mask[rows] for name, mask in task.split.items()}
    return dataclasses.replace(task, target=task.target[rows], split=split)


def moleculenet_names(folder: Path) -> list[str]:
    """Names of the data sets whose arrays are in the folder."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load_moleculenet(folder: Path, name: str) -> Molecules:
    """``name.npz`` of the folder: molecules as arrays, with their scaffold split.

    Arrays: atom [N, 2] and bond_attr [M, 2] as Molecules has them, bond [M, 2] (each once, atoms counted from 0 in each
    molecule), atom_ptr and bond_ptr [G + 1], y [G, L] (NaN missing), scaffold_split [G] (0 train, 1 val, 2 test), tasks
    [L]. Labels that are 0 or 1 are one task ``name`` of L labels, judged by the mean ROC-AUC; others one regression
    task for each column.
    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one.
    """
    path = folder / f"{name}.npz"
    licence = ", not for commercial use" if name in NON_COMMERCIAL else ""
    found = molecules(path, name, read_npz(path, FORMS))
    return dataclasses.replace(
        found, name=f"moleculenet:{name}", source=f"MoleculeNet (Wu et al. 2018), scaffold split{licence}"
    )


def molecules(path: Path, name: str, arrays: dict[str, Array], motif: Tensor | None = None) -> Molecules:
    """Molecules of arrays as those of :func:`load_moleculenet`; motif None: surroundings of atoms."""
    _check(path, arrays)
    atom_ptr, bond_ptr = (arrays[key].astype(np.int64) for key in ("atom_ptr", "bond_ptr"))
    owner, bond_owner = (np.repeat(np.arange(len(arrays["y"])), np.diff(ptr)) for ptr in (atom_ptr, bond_ptr))
    bond = arrays["bond"].astype(np.int64) + atom_ptr[bond_owner][:, None]
    kind = len(DIRECTIONS) * arrays["bond_attr"][:, 0].astype(np.int64) + arrays["bond_attr"][:, 1]
    edges = to_tensor(np.stack([bond, bond[:, ::-1]], axis=1).reshape(-1, 2).T, torch.int64)
    x, edge_type = to_tensor(arrays["atom"], torch.float32), to_tensor(kind.repeat(2), torch.int64)
    node_graph, count = to_tensor(owner, torch.int64), len(arrays["y"])
    where = to_tensor(arrays["scaffold_split"], torch.int64)
    split = {part: where == k for k, part in enumerate(SPLITS)}
    if motif is None:
        motif = surroundings(x[:, 0].long(), edges, edge_type // len(DIRECTIONS), node_graph, split["train"])
    return Molecules(
        name=name,
        graph=Graph.from_edge_index(edges, len(x), len(x)),
        x=x,
        tasks=TaskSet(_tasks(name, arrays, split)),
        node_graph=node_graph,
        num_graphs=count,
        edge_type=edge_type,
        edge_type_names=tuple(bond_type + direction for bond_type in BOND_TYPES for direction in DIRECTIONS),
        source=f"{path.name}, scaffold split",
        motif=motif,
    )


def _tasks(name: str, arrays: dict[str, Array], split: dict[str, Tensor]) -> list[Task]:
    y = to_tensor(arrays["y"], torch.float32)
    if bool((y.isnan() | (y == 0) | (y == 1)).all()):
        return [Task(name, "multilabel", "graph", y, split, "roc_auc", num_outputs=y.shape[1])]
    columns = zip(arrays["tasks"].tolist(), y.unbind(1), strict=True)
    return [Task(column, "regression", "graph", target.contiguous(), split, "mae") for column, target in columns]


def _check(path: Path, arrays: dict[str, Array]) -> None:
    atom, bond, attributes = (arrays[key] for key in ("atom", "bond", "bond_attr"))
    count = len(arrays["y"])
    for key in ("atom", "bond", "bond_attr"):
        require(path, arrays[key].shape[1] == 2, f"{key} must have 2 columns, got {arrays[key].shape[1]}")
    require(path, len(bond) == len(attributes), f"{len(bond)} bonds but {len(attributes)} bond_attr")
    for key, total in (("atom_ptr", len(atom)), ("bond_ptr", len(bond))):
        ptr = arrays[key].astype(np.int64)
        fits = ptr.size == count + 1 and ptr[0] == 0 and ptr[-1] == total and (np.diff(ptr) >= 0).all()
        require(path, fits, f"{key} must rise from 0 to {total} in {count + 1} steps")
    require(path, (np.diff(arrays["atom_ptr"].astype(np.int64)) > 0).all(), "a molecule has no atom")
    require(path, arrays["scaffold_split"].shape == (count,), f"scaffold_split must have {count} entries")
    require(path, len(arrays["tasks"]) == arrays["y"].shape[1], "tasks must name the columns of y")
    check_range(path, "atoms", atom[:, 0], 0, ELEMENTS)
    check_range(path, "chirality", atom[:, 1], 0, CHIRALITIES)
    check_range(path, "bond types", attributes[:, 0], 0, len(BOND_TYPES))
    check_range(path, "bond directions", attributes[:, 1], 0, len(DIRECTIONS))
    check_range(path, "scaffold_split", arrays["scaffold_split"], 0, len(SPLITS))
    sizes, bonds = (to_tensor(arrays[key], torch.int64).diff() for key in ("atom_ptr", "bond_ptr"))
    outside = (bond < 0) | (bond >= sizes.repeat_interleave(bonds).numpy()[:, None])
    require(path, not outside.any(), "a bond joins an atom that its molecule does not have")


def surroundings(element: Tensor, edges: Tensor, bond: Tensor, owner: Tensor, train: Tensor) -> Tensor:
    """Which of the MOTIFS commonest surroundings of an atom each molecule holds: float32 [G, 85] of 0 and 1.

    A surrounding is the element of an atom with the multiset of (bond type, element) of its neighbours; the commonest
    are those in most molecules of ``train`` [G]. element [N], edges [2, E], bond [E], owner [N]: the molecule of each
    atom.
    """
    # Sums of mixed numbers: equal for equal multisets, and different ones hardly ever meet in 63 bits.
    neighbour = _mixed(len(BOND_TYPES) * element[edges[0]] + bond)
    key = _mixed(torch.zeros_like(element).index_add_(0, edges[1], neighbour) + _mixed(-1 - element))
    kinds, kind = key.unique(return_inverse=True)
    pairs = (owner * len(kinds) + kind).unique()
    molecule, kind = pairs // max(1, len(kinds)), pairs % max(1, len(kinds))
    count = torch.bincount(kind[train[molecule]], minlength=len(kinds))
    order = count.argsort(descending=True, stable=True)[:MOTIFS]
    column = torch.full((len(kinds),), -1, device=key.device)
    column[order] = torch.arange(len(order), device=key.device)
    chosen = column[kind] >= 0
    out = torch.zeros(len(train), MOTIFS, device=key.device)
    out[molecule[chosen], column[kind[chosen]]] = 1
    return out


def _mixed(number: Tensor) -> Tensor:
    """SplitMix64's finaliser, in int64 that wraps around."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        number = (number ^ ((number >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return number ^ ((number >> 31) & ((1 << 33) - 1))

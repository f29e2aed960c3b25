"""Neural sheaf diffusion on citation graphs, beside GCN: ``python -m scripts.reproduce_sheaf``."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import nn
from fastgmtl.data import Dataset, load
from fastgmtl.graph import Graph
from fastgmtl.nn.sheaf import MAPS
from scripts.reproduction import measured, spread, table, write_section

RUNS = ("GCN", *MAPS)
DATA = ("cora", "citeseer")
HEAD = ("data", "run", "seed", "epochs", "best_epoch", "val", "test", "seconds")
# Bodnar et al. 2022, table 1, on the splits of Geom-GCN.
PUBLISHED = {
    "cora": {
        "GCN": "86.98 ± 1.27",
        "diagonal": "87.14 ± 1.06",
        "orthogonal": "86.90 ± 1.13",
        "general": "87.30 ± 1.15",
    },
    "citeseer": {
        "GCN": "76.50 ± 1.36",
        "diagonal": "77.14 ± 1.85",
        "orthogonal": "76.70 ± 1.57",
        "general": "76.32 ± 1.65",
    },
}
HIDDEN, LAYERS, STALK, DROPOUT, RATE, DECAY = 16, 2, 3, 0.6, 0.01, 5e-4


class GCN(torch.nn.Module):
    """Two layers, as wide as the spaces of all columns."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.GCNConv(in_channels, HIDDEN * STALK)
        self.second = nn.GCNConv(HIDDEN * STALK, out_channels)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Logits of the classes."""
        h = self.first(F.dropout(x, DROPOUT, self.training), graph).relu()
        return self.second(F.dropout(h, DROPOUT, self.training), graph)


@dataclass(frozen=True)
class Plan:
    """What is measured: one training. The seed is that of the split, too."""

    data: str
    run: str
    seed: int
    epochs: int

    @property
    def key(self) -> tuple[str, ...]:
        """What it is."""
        return tuple(str(value) for value in dataclasses.astuple(self))

    def measure(self) -> tuple[str, ...]:
        """Train; accuracies of the weights of the best epoch on val."""
        start, data = time.perf_counter(), load(f"planetoid:{self.data}")
        torch.manual_seed(self.seed)
        graph, x = whole(data)
        task = data.tasks["node_class"]
        classes = task.num_outputs
        model = GCN(x.size(1), classes)
        if self.run != "GCN":
            model = nn.NeuralSheafDiffusion(x.size(1), HIDDEN, classes, LAYERS, STALK, self.run, DROPOUT)
        train, val, test = split(task.target, self.seed)
        optimizer = torch.optim.Adam(model.parameters(), RATE, weight_decay=DECAY)
        best = (-1.0, 0, copy.deepcopy(model.state_dict()))
        for epoch in range(1, self.epochs + 1):
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(x, graph)[train], task.target[train]).backward()
            optimizer.step()
            score = accuracy(model, x, graph, task.target, val)
            if score > best[0]:
                best = (score, epoch, copy.deepcopy(model.state_dict()))
        model.load_state_dict(best[2])
        found = accuracy(model, x, graph, task.target, test)
        return str(best[1]), repr(best[0]), repr(found), f"{time.perf_counter() - start:.1f}"


def whole(data: Dataset) -> tuple[Graph, Tensor]:
    """The graph of all links, of which the data set holds those that its link task trains on, and the features."""
    pairs = data.tasks["link"].target
    graph = Graph.from_edge_index(torch.cat([pairs, pairs.flip(0)], 1), data.num_nodes, data.num_nodes)
    return graph, data.x


def split(target: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labelled nodes at random, 48/32/20."""
    known = (target >= 0).nonzero()[:, 0]
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    return order.tensor_split([int(0.48 * len(known)), int(0.8 * len(known))])  # type: ignore[return-value]


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: Tensor, graph: Graph, target: Tensor, nodes: Tensor) -> float:
    """The share of the nodes whose class is found."""
    model.eval()
    return float((model(x, graph)[nodes].argmax(1) == target[nodes]).double().mean())


def section(rows: Sequence[tuple[str, ...]]) -> str:
    """For each data set and run what was found, beside what was published."""
    lines = []
    for data in DATA:
        for run in RUNS:
            mine = [row for row in rows if row[:2] == (data, run)]
            if mine:
                val, test = (spread([float(row[place]) for row in mine]) for place in (5, 6))
                lines.append((f"{data}, {run}", str(len(mine)), val, test, PUBLISHED[data][run]))
    return table(("data, maps", "splits", "val", "test", "published"), lines)


def main() -> None:
    """Run what was asked for and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--out", type=Path, default=Path("results/sheaf.csv"), help="a row for each training")
    arguments = parser.parse_args()
    plans = [
        Plan(data, run, seed, arguments.epochs)
        for seed in range(arguments.seeds)
        for data in arguments.data
        for run in arguments.runs
    ]
    rows = measured(plans, HEAD, arguments.out, arguments.minutes)
    note = (
        f"Accuracy in percent of the weights of the best epoch of {arguments.epochs} on val, random splits of all "
        f"nodes, 48/32/20; {LAYERS} steps, {STALK} x {HIDDEN} columns, nothing tuned. Published: ten splits of "
        "Geom-GCN of the same sizes, tuned for each data set."
    )
    command = shlex.join(["python", "-m", "scripts.reproduce_sheaf", *sys.argv[1:]])
    write_section("sheaf", "Neural sheaf diffusion", command, f"{section(rows)}\n\n{note}")


if __name__ == "__main__":
    main()

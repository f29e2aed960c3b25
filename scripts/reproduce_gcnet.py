"""GCNet, its ablations and its baselines: ``python -m scripts.reproduce_gcnet``.

On S1 with a known graph: how well the edges are found, and test ROC-AUC. On molecules: test ROC-AUC.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastgmtl.data import Dataset, load
from fastgmtl.data.scm import scm
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.gcnet.gcnet import GCNet
from fastgmtl.methods.gcnet.pictures import metrics
from scripts.reproduction import configured, measured, parser, spread, table, write_section

# What is run: a name for the table, the method, and what differs from its defaults.
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("labels", {}),
    "shared, UW": ("labels", {"balance": "uw"}),
    "shared, PCGrad": ("labels", {"balance": "pcgrad"}),
    "SGNN, correlation graph": ("sgnn", {}),
    "SGNN-EBM, correlation graph": ("sgnn_ebm", {}),
}
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "GCNet": ("gcnet", {}),
    "uniform prior": ("gcnet", {"prior": "uniform"}),
    "no refinement": ("gcnet", {"refine": False}),
    "cycles allowed": ("gcnet", {"acyclic": False}),
    "ICE unweighted": ("gcnet", {"contrast": "unweighted"}),
    "pseudo-likelihood": ("gcnet", {"contrast": "pseudo"}),
    "NCE": ("gcnet", {"contrast": "nce"}),
    "mechanisms alone": ("gcnet", {"contrast": "none"}),
    "messages without the graph": ("gcnet", {"shared_structure": False}),
    "empty graph": ("gcnet", {"graph": "empty"}),
    "full graph": ("gcnet", {"graph": "full"}),
    "correlation graph": ("gcnet", {"graph": "correlation"}),
    "true graph": ("gcnet", {"graph": "known"}),
}
RUNS = {**BASELINES, **ABLATIONS}
DATA = ("S1, T = 10", "S1, T = 50", "tox21", "sider")
HEAD = ("data", "run", "seed", "epochs", "settings", "auroc", "auprc", "shd", "best_epoch", "val", "test", "seconds")


@dataclass(frozen=True)
class Plan:
    """What is measured: one training of one run. A seed of S1 is also that of its graph and samples."""

    data: str
    run: str
    seed: int
    epochs: int
    settings: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What it is."""
        return self.data, self.run, str(self.seed), str(self.epochs), " ".join(self.settings)

    def load(self) -> Dataset:
        """The data set."""
        if self.data.startswith("S1"):
            return scm("S1", num_tasks=int(self.data.rpartition(" ")[2]), seed=self.seed)
        return load(f"moleculenet:{self.data}")

    def measure(self) -> tuple[str, ...]:
        """Train; scores of the edges after the last epoch, and of the labels with the weights of the best one."""
        method, changes = RUNS[self.run]
        config = configured(method, changes, self.settings, self.epochs)
        start, data = time.perf_counter(), self.load()
        trainer = Trainer(METHODS[method], data, config, self.seed)
        for _ in trainer:
            pass
        edges = (math.nan,) * 3
        if isinstance(trainer.method, GCNet) and trainer.method.learned:
            edges = metrics(trainer.method.probability().detach(), data.task_graph)[1:]
        assert trainer.best is not None
        scores = [list(trainer.evaluate_best(split).values()) for split in ("val", "test")]
        val, test = (sum(values) / len(values) for values in scores)
        return (
            *(repr(value) for value in edges),
            str(trainer.best.epoch),
            repr(val),
            repr(test),
            f"{time.perf_counter() - start:.1f}",
        )


def ordering(rows: Sequence[tuple[str, ...]]) -> str:
    """The runs by their mean test score, the best first; what was found once says little of a difference."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row[1], []).append(float(row[10]))
    best = sorted(scores, key=lambda run: -sum(scores[run]) / len(scores[run]))
    return "; ".join(best) + (" (one seed)" if max(map(len, scores.values())) == 1 else "")


def section(rows: Sequence[tuple[str, ...]]) -> str:
    """A table of S1, and one of molecules."""
    parts = []
    for names, shown in (
        ([name for name in DATA if name.startswith("S1")], (("AUROC", 5, 100.0), ("AUPRC", 6, 100.0), ("SHD", 7, 1.0))),
        ([name for name in DATA if not name.startswith("S1")], ()),
    ):
        columns = (*shown, ("test AUC", 10, 100.0))
        there = [name for name in names if any(row[0] == name for row in rows)]
        lines = []
        for run in RUNS:
            cells = [run]
            for name in there:
                mine = [row for row in rows if row[:2] == (name, run)]
                cells.append(f"{len(mine)}")
                for _, place, scale in columns:
                    values = [float(row[place]) for row in mine]
                    known = bool(values) and not any(map(math.isnan, values))
                    cells.append(spread(values, scale) if known else "")
            if any(row[1] == run and row[0] in there for row in rows):
                lines.append(cells)
        order = [f"{name}: {ordering([row for row in rows if row[0] == name])}." for name in there]
        if lines:
            head = ["run", *(f"{name}: {title}" for name in there for title in ("seeds", *(c[0] for c in columns)))]
            parts += [table(head, lines), "Test AUC in order. " + " ".join(order)]
    return "\n\n".join(parts)


def main() -> None:
    """Run what was asked for and write the section."""
    options = parser(__doc__, RUNS, 50, "gcnet")
    options.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    arguments = options.parse_args()
    plans = [
        Plan(name, run, seed, arguments.epochs, tuple(arguments.set))
        for seed in range(arguments.seeds)
        for name in arguments.data
        for run in (RUNS if name.startswith("S1") else (*BASELINES, "GCNet", "mechanisms alone", "correlation graph"))
        if run in arguments.runs
    ]
    rows = measured(plans, HEAD, arguments.out, arguments.minutes)
    changed = f" but {', '.join(arguments.set)}" if arguments.set else ""
    note = (
        f"{arguments.epochs} epochs, each method at its defaults{changed}. Edges after the last epoch (ROC-AUC and "
        "average precision over all ordered pairs, structural Hamming distance); test ROC-AUC, mean over the labels, "
        "with the weights of the best val epoch. All scores but the distance in percent. Predictions are of the "
        "features alone: no label of a test sample is given. Nothing was published that this could stand beside: the "
        "abstract of GCNet has no figures, and SGNN-EBM was measured on other data."
    )
    command = shlex.join(["python", "-m", "scripts.reproduce_gcnet", *sys.argv[1:]])
    write_section("gcnet", "GCNet on known graphs and on molecules", command, f"{section(rows)}\n\n{note}")


if __name__ == "__main__":
    main()

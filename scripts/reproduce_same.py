"""Tables I and II of SAME on a TU data set: ``python -m scripts.reproduce_same``.

Trains iSAME, eSAME and the baselines on all subsets of the three tasks, on repeated random splits; scores of linear
probes (of heads, for the baselines) stand beside the published ones.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgmtl.data import Dataset, load
from fastgmtl.data.folds import folds
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.same.fused import embed
from fastgmtl.methods.same.head_probes import head_scores
from fastgmtl.methods.same.probes import PROBES, delta_m
from fastgmtl.methods.same.published import DATASETS, SINGLE, TABLE_1, TABLE_2
from scripts.reproduction import measured, spread, table, write_section

TASKS = {"GC": "graph_class", "NC": "node_class", "LP": "link"}
SUBSETS = ("GC,NC", "GC,LP", "NC,LP", "all")
# The authors' settings of the baselines for ENZYMES and PROTEINS; the rest is as for SAME.
SINGLE_SETTINGS: dict[str, dict[str, Any]] = {
    "graph_class": {"batch": 32, "lr": 4.361e-4, "normalize": False},
    "node_class": {"batch": 64, "lr": 0.01922, "normalize": False},
    "link": {"batch": 64, "lr": 0.00144, "residual": False},
}
CLASSICAL_SETTINGS = {"batch": 64, "lr": 0.01}
# Methods and the tasks that they are trained on, as the table has them.
RUNS = (
    ("single", "each"),
    ("untrained", "none"),
    *(
        (method, subset)
        for subset in SUBSETS
        for method in ("classical", "finetune-multi", "isame", "esame")
        if (method, subset) != ("finetune-multi", "all")
    ),
)
NOTE = """d = 256, 3 layers, episodes of 16 graphs, as described: random splits and negatives, queried edges not in the
message graph. Random negatives are harder than the first non-edges, which the authors' code takes: LP is not
comparable with the published figures.

Per cent, mean ± deviation over the folds: accuracy, ROC-AUC of links. iSAME and eSAME by linear probes (in brackets: by
heads) on frozen embeddings; tasks in *italics* were not seen in training. untrained: the encoder of SAME before its
first step, the control: what a probe finds in random features. Δm is against the row single of this table: with few
epochs of the baselines it says little. Published: Table I and II."""
HEAD = ("data", "kind", "fold", "method", "tasks", "epochs", "head_epochs", "probe", "linear", "heads", "seconds")
Scores = dict[str, float]
Row = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What is measured: one training on one fold (one for each task, of ``single``)."""

    data: str
    kind: str
    folds: int
    fold: int
    row: Row
    epochs: int
    head_epochs: int
    probe: str

    @property
    def key(self) -> tuple[str, ...]:
        """What it is."""
        fold = f"{self.fold} of {self.folds}"
        return self.data, self.kind, fold, *self.row, str(self.epochs), str(self.head_epochs), self.probe

    def measure(self) -> tuple[str, ...]:
        """Train; test scores of linear probes or own heads, of heads on frozen embeddings."""
        start = time.perf_counter()
        fold = list(folds(load(self.data), self.kind, self.folds))[self.fold]
        linear, heads = self._scores(fold)
        return json.dumps(linear), json.dumps(heads), f"{time.perf_counter() - start:.1f}"

    def _scores(self, fold: Dataset) -> tuple[Scores, Scores]:
        method, subset = self.row
        if method == "untrained":
            untrained = Trainer(METHODS["esame"], fold, METHODS["esame"].config_type(), self.fold)
            return probed(untrained, fold, self.probe, self.head_epochs)
        if method == "single":
            single = {}
            for task, settings in SINGLE_SETTINGS.items():
                single[task] = self._trained(fold, 10, tasks=task, **settings).evaluate_best("test")[task]
            return single, {}
        chosen = names(subset)
        if method in ("isame", "esame"):
            return probed(self._trained(fold, 5, tasks=",".join(chosen)), fold, self.probe, self.head_epochs)
        scores = self._trained(fold, 10, tasks=",".join(chosen), **CLASSICAL_SETTINGS).evaluate_best("test")
        return {name: scores[name] for name in chosen}, {}

    def _trained(self, fold: Dataset, looks: int, **settings: Any) -> Trainer:
        """A method, trained to the end, with so many looks at its val scores."""
        kind, every = METHODS[self.row[0]], max(1, self.epochs // looks)
        config = kind.config_type(epochs=self.epochs, patience=10**6, evaluate_every=every, **settings)
        trainer = Trainer(kind, fold, config, self.fold)
        for _ in trainer:
            pass
        return trainer


def probed(trainer: Trainer, fold: Dataset, probe: str, head_epochs: int) -> tuple[Scores, Scores]:
    """Test scores of the best weights: linear probes, and heads, on frozen embeddings, of all tasks."""
    method: Any = trainer.method
    if trainer.best is not None:
        method.load_state_dict(trainer.best.model)
    method.eval()

    def frozen(block: Any) -> torch.Tensor:
        return embed(method.model.encoder, block)

    with torch.no_grad():
        linear = method.probes.scores(frozen, fold, "test", PROBES[probe])
    torch.manual_seed(0)
    return linear, head_scores(method.probes, frozen, fold, "test", head_epochs)


def names(subset: str) -> list[str]:
    """Tasks of a subset."""
    return list(TASKS.values()) if subset == "all" else [TASKS[short] for short in subset.split(",")]


Found = dict[Row, list[Scores]]


def section(rows: Sequence[tuple[str, ...]]) -> str:
    """Both tables in one, a line a method and subset."""
    place = HEAD.index("method")
    linear: Found = {}
    heads: Found = {}
    for row in rows:
        key, found = (row[place], row[place + 1]), [json.loads(cell) for cell in row[-3:-1]]
        linear.setdefault(key, []).append(found[0])
        if found[1]:
            heads.setdefault(key, []).append(found[1])
    name = rows[0][0].partition(":")[2] or rows[0][0]
    published = DATASETS.index(name) if name in DATASETS else None
    head = ["method", "trained on", "folds", *TASKS, "Δm", "published GC, NC, LP", "published Δm"]
    return table(head, [cells(run, linear, heads, published) for run in RUNS if run in linear])


def cells(row: Row, linear: Found, heads: Found, place: int | None) -> list[str]:
    """One row of the table."""
    seen = names("all" if row[1] in ("each", "none") else row[1])
    out = [*row, f"{len(linear[row])}"]
    for name in TASKS.values():
        values = [scores[name] for scores in linear[row] if name in scores]
        text = spread(values) if values else ""
        if row in heads:
            text += f" ({100 * statistics.fmean(scores[name] for scores in heads[row]):.1f})"
        out.append(text if name in seen or not values else f"*{text}*")
    # Fold by fold; a last one that was begun has no more than its first rows.
    pairs = zip(linear[row], linear["single", "each"], strict=False)
    gains = [delta_m({k: scores[k] for k in seen}, single) for scores, single in pairs]
    out.append("" if row[1] == "each" else spread(gains, 1))
    if place is None:
        return [*out, "", ""]
    one = SINGLE[place] if row[1] == "each" else TABLE_1[row][place] if row in TABLE_1 else ()
    two = TABLE_2[row][place] if row in TABLE_2 else None
    return [*out, ", ".join("-" if math.isnan(v) else f"{v:.1f}" for v in one), "" if two is None else f"{two:+.1f}"]


def main() -> None:
    """Run what was asked for and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="tu:ENZYMES")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="of iSAME and eSAME (the paper: 8,000 to 15,000)")
    parser.add_argument("--baseline-epochs", type=int, default=100, help="of the baselines (the paper: 1,000 to 5,000)")
    parser.add_argument("--head-epochs", type=int, default=10, help="of heads on frozen embeddings (the paper: 100)")
    parser.add_argument("--probe", default="svc", choices=tuple(PROBES), help="ridge takes a second, svc minutes")
    parser.add_argument("--kind", default="permutations", choices=("permutations", "crossvalidation"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--out", type=Path, default=Path("results/same.csv"), help="a row for each training")
    options = parser.parse_args()
    count = 10 if options.kind == "crossvalidation" else options.folds
    plans = [
        Plan(
            options.data,
            options.kind,
            count,
            fold,
            run,
            options.epochs if run[0] in ("isame", "esame", "untrained") else options.baseline_epochs,
            options.head_epochs,
            options.probe,
        )
        for fold in range(options.folds)
        for run in RUNS
    ]
    rows = measured(plans, HEAD, options.out, options.minutes)
    split = "random re-permutations" if options.kind == "permutations" else "parts of a 10-fold cross-validation"
    note = (
        f"{options.folds} {split}; {options.epochs} epochs of iSAME and eSAME (the paper: 8,000 to 15,000), "
        f"{options.baseline_epochs} of each baseline (1,000 to 5,000), {options.head_epochs} of the heads on frozen "
        f"embeddings (100), linear probe {options.probe}. {NOTE}"
    )
    command = shlex.join(["python", "-m", "scripts.reproduce_same", *sys.argv[1:]])
    name = options.data.partition(":")[2] or options.data
    write_section("same", f"SAME on {name}", command, f"{section(rows)}\n\n{note}")


if __name__ == "__main__":
    main()

"""Links of citation graphs by common neighbours, beside dot products: ``python -m scripts.reproduce_links``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgmtl.data import TaskSet, load
from fastgmtl.methods import Shared, Trainer
from scripts.reproduction import configured, measured, parser, spread, table, write_section

# What is run: a name for the table, and what differs from the defaults of `shared`.
RUNS = {"dot products": "products", "NCN": "ncn", "NCNC": "ncnc"}
DATA = ("cora", "citeseer")
HEAD = ("data", "run", "seed", "epochs", "settings", "best_epoch", "auc", "hits", "seconds")
# Wang, Yang and Zhang 2024, table 2: hits@100 of another split.
PUBLISHED = {
    "cora": {"dot products": "66.79 ± 1.65", "NCN": "89.05 ± 0.96", "NCNC": "89.65 ± 1.36"},
    "citeseer": {"dot products": "67.08 ± 2.94", "NCN": "91.56 ± 1.43", "NCNC": "93.47 ± 0.95"},
}
HITS = 100


@dataclass(frozen=True)
class Plan:
    """What is measured: one training. The seed is that of the split, too."""

    data: str
    run: str
    seed: int
    epochs: int
    settings: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What it is."""
        return self.data, self.run, str(self.seed), str(self.epochs), " ".join(self.settings)

    def measure(self) -> tuple[str, ...]:
        """Train on the links alone; ROC-AUC and hits on test, of the weights of the best epoch on val."""
        start, data = time.perf_counter(), load(f"planetoid:{self.data}", self.seed)
        data = dataclasses.replace(data, tasks=TaskSet([data.tasks["link"]]))
        config = configured("shared", {"link_head": RUNS[self.run]}, self.settings, self.epochs)
        trainer = Trainer(Shared, data, config, self.seed)
        for _ in trainer:
            pass
        assert trainer.best is not None
        trainer.method.load_state_dict(trainer.best.model)
        trainer.method.eval()
        with torch.no_grad():
            positive, negative = trainer.method.outputs(data, "test")["link"]
        auc = data.tasks["link"].score((positive, negative), "test")
        found = hits(positive, negative)
        return str(trainer.best.epoch), repr(auc), repr(found), f"{time.perf_counter() - start:.1f}"


def hits(positive: Tensor, negative: Tensor, count: int = HITS) -> float:
    """The share of positives above the ``count``-th highest negative; 1 where there are no more negatives."""
    if len(negative) < count:
        return 1.0
    return float((positive > negative.topk(count).values[-1]).double().mean())


def section(rows: Sequence[tuple[str, ...]]) -> str:
    """For each data set and run what was found, beside what was published."""
    lines = []
    for data in DATA:
        for run in RUNS:
            mine = [row for row in rows if row[:2] == (data, run)]
            if mine:
                auc, found = (spread([float(row[place]) for row in mine]) for place in (6, 7))
                lines.append((f"{data}, {run}", str(len(mine)), auc, found, PUBLISHED[data][run]))
    return table(("data, head", "seeds", "ROC-AUC", f"hits@{HITS}", "published"), lines)


def main() -> None:
    """Run what was asked for and write the section."""
    found = parser(__doc__, RUNS, 100, "links")
    found.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    arguments = found.parse_args()
    plans = [
        Plan(data, run, seed, arguments.epochs, tuple(arguments.set))
        for seed in range(arguments.seeds)
        for data in arguments.data
        for run in arguments.runs
    ]
    rows = measured(plans, HEAD, arguments.out, arguments.minutes)
    note = (
        f"Test links in percent, weights of the best epoch of {arguments.epochs} on val; one encoder of `shared` with "
        "another head each. Splits are random, 80/10/10, with as many random negatives. Published: hits@100 on "
        "70/10/20, tuned for each data set, with the links of a batch taken out of the graph for the encoder, too; its "
        "GCN beside our dot products. The figures are not comparable as they stand."
    )
    command = shlex.join(["python", "-m", "scripts.reproduce_links", *sys.argv[1:]])
    write_section("links", "Links by common neighbours", command, f"{section(rows)}\n\n{note}")


if __name__ == "__main__":
    main()

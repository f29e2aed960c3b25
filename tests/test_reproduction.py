"""The scripts behind ``make reproduce-...``: what is done is not repeated, differences are of equal seeds or folds."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the source tree")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"scripts.reproduce_{name}")


@pytest.fixture
def script(scripts: Callable[[str], ModuleType]) -> ModuleType:
    return scripts("rcgrad")


def _row(data: str, run: str, seed: int, test: float) -> tuple[str, ...]:
    return (data, run, str(seed), "4", "", "2", "0.9", str(test), "1.0")


def test_differences_are_paired_by_seed(script: ModuleType) -> None:
    rows = [
        _row("clintox", "finetune", 0, 0.5),
        _row("clintox", "finetune", 1, 0.7),
        _row("clintox", "mtl", 1, 0.75),
        _row("clintox", "mtl", 2, 0.9),
        _row("bace", "pcgrad", 0, 0.8),
    ]
    lines = {line.split(" | ")[0].strip("| "): line for line in script.section(rows).splitlines()}
    assert lines["run"] == "| run | bace | seeds | less finetune | clintox | seeds | less finetune |"
    assert lines["finetune"] == "| finetune |  | 0 |  | 60.00 ± 14.14 | 2 |  |"
    assert lines["mtl"] == "| mtl |  | 0 |  | 82.50 ± 10.61 | 2 | 5.00 |"
    assert lines["pcgrad"] == "| pcgrad | 80.00 | 1 |  |  | 0 |  |"


def test_what_was_measured_is_kept(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after two, it goes on with the third; without time nothing is begun."""
    done: list[str] = []

    def measure(plan: Any) -> tuple[str, ...]:
        done.append(plan.run)
        if len(done) == 3:
            raise KeyboardInterrupt
        return "1", "0.5", "0.6", "1.0"

    monkeypatch.setattr(script.Plan, "measure", measure)
    plans = [script.Plan("bace", run, 0, 2, ("batch=32", "lr=0.1")) for run in ("finetune", "mtl", "gcs")]
    path = tmp_path / "some" / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        script.measured(plans, script.HEAD, path, 1.0)
    assert script.measured(plans, script.HEAD, path, -1.0) == [(*p.key, "1", "0.5", "0.6", "1.0") for p in plans[:2]]
    rows = script.measured(plans, script.HEAD, path, 1.0)
    assert done == ["finetune", "mtl", "gcs", "gcs"] and [row[1] for row in rows] == ["finetune", "mtl", "gcs"]


def test_settings_that_fine_tuning_lacks_are_left_out(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def trainer(method: Any, data: Any, config: Any, seed: int) -> Any:
        seen[method.__name__] = config
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "Trainer", trainer)
    monkeypatch.setattr(script, "load", lambda name: name)
    for run in ("finetune", "rcgrad as_described"):
        with pytest.raises(KeyboardInterrupt):
            script.Plan("bace", run, 0, 7, ("auxiliary=motif", "batch=32")).measure()
    assert (seen["Finetune"].epochs, seen["Finetune"].batch, seen["Finetune"].names) == (7, 32, [])
    assert (seen["RCGrad"].variant, seen["RCGrad"].names) == ("as_described", ["motif"])


def test_table_of_struchis(scripts: Callable[[str], ModuleType]) -> None:
    struchis = scripts("struchis")
    rows = [
        ("ple", str(seed), "4", "", "2", "0.5", *(str(score + seed / 10) for score in (0.8, 0.7, 0.3, 0.2)), "1.0")
        for seed in range(2)
    ]
    *_, line = struchis.section(rows).splitlines()
    spread = "± 7.07"
    assert line == (
        f"| ple | 2 | 85.00 {spread} | ? | 75.00 {spread} | 90.38 ± .33 | 35.00 {spread} | 35.59 ± .98 "
        f"| 25.00 {spread} | 14.23 ± 1.29 |"
    )


def test_table_of_nbfnet(scripts: Callable[[str], ModuleType]) -> None:
    nbfnet = scripts("nbfnet")
    scores = ("0.5", "0.25", "0.6", "0.8")
    rows = [("wn18rr", "pna", "6", "20", str(seed), *scores, "1.0") for seed in range(2)]
    rows.append(("umls", "sum", "3", "4", "0", *scores, "1.0"))
    *_, first, second = nbfnet.section(rows).splitlines()
    zero = "± 0.00"
    assert first == (
        f"| wn18rr | pna | 6 | 20 | 2 | 50.00 {zero} | 55.1 | 25.00 {zero} | 49.7 | 60.00 {zero} | 57.3 "
        f"| 80.00 {zero} | 66.6 |"
    )
    assert second == "| umls | sum | 3 | 4 | 1 | 50.00 |  | 25.00 |  | 60.00 |  | 80.00 |  |"


def test_table_of_systems_has_a_line_for_each_score(scripts: Callable[[str], ModuleType]) -> None:
    systems = scripts("systems")
    found = [{"class, accuracy": 0.5, "class, R": 1.5}, {"class, accuracy": 0.7, "class, R": 2.5}]
    rows = [("influence", "city", "4 layers", str(seed), json.dumps(scores), "1") for seed, scores in enumerate(found)]
    assert systems.section(rows).splitlines()[2:] == [
        "| influence | city | 4 layers | class, accuracy | 2 | 60.00 ± 14.14 |",
        "| influence | city | 4 layers | class, R | 2 | 2.00 ± 0.71 |",
    ]


def test_every_system_is_measured_by_what_it_needs(
    scripts: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run is called says what it does; methods of the package get the seed."""
    systems, seen = scripts("systems"), []
    fake = {key: lambda data, what, key=key: seen.append((key, what)) or {"a": 1.0} for key in systems.RUNS}
    monkeypatch.setattr(systems, "RUNS", fake)
    for key in systems.RUNS:
        assert json.loads(systems.Plan(*key, 3).measure()[0]) == {"a": 1.0}
    methods = {key[0] for key, what in seen if what == 3}
    assert methods == {"virtual nodes", "self-tuning"}
    assert all(what == key[2] for key, what in seen if key[0] not in methods)


def test_table_of_links(scripts: Callable[[str], ModuleType]) -> None:
    links = scripts("links")
    rows = [("cora", "NCN", str(seed), "9", "", "3", "0.75", "0.5", "1.0") for seed in range(2)]
    (line,) = links.section(rows).splitlines()[2:]
    assert line == "| cora, NCN | 2 | 75.00 ± 0.00 | 50.00 ± 0.00 | 89.05 ± 0.96 |"
    scores = torch.tensor([3.0, 1.0, 0.0]), torch.arange(4.0) - 1.5
    assert [links.hits(*scores, k) for k in (1, 2, 3, 5)] == [1 / 3, 2 / 3, 1.0, 1.0]


def test_sheaf_diffusion_learns_cora(scripts: Callable[[str], ModuleType], data_root: Path) -> None:
    sheaf = scripts("sheaf")
    plan = sheaf.Plan("cora", "diagonal", 0, 15)
    found = plan.measure()
    assert float(found[1]) > 0.5 and float(found[2]) > 0.5
    (line,) = sheaf.section([(*plan.key, "9", "0.75", "0.5", "1.0")]).splitlines()[2:]
    assert line == "| cora, diagonal | 1 | 75.00 | 50.00 | 87.14 ± 1.06 |"


def test_table_of_same_compares_fold_by_fold(scripts: Callable[[str], ModuleType]) -> None:
    same = scripts("same")

    def row(fold: int, method: str, tasks: str, *scores: dict[str, float]) -> tuple[str, ...]:
        found = map(json.dumps, scores)
        return ("tu:ENZYMES", "permutations", f"{fold} of 2", method, tasks, "5", "1", "ridge", *found, "1")

    single = {"graph_class": 0.5, "node_class": 0.8, "link": 0.4}
    rows = [
        row(0, "single", "each", single, {}),
        row(0, "classical", "GC,LP", {"graph_class": 0.6, "link": 0.4}, {}),
        row(0, "esame", "GC,LP", {"graph_class": 0.5, "node_class": 0.8, "link": 0.5}, {**single, "link": 0.6}),
        row(1, "single", "each", {**single, "graph_class": 0.4}, {}),
    ]
    lines = same.section(rows).splitlines()[2:]
    assert lines[0] == "| single | each | 2 | 45.00 ± 7.07 | 80.00 ± 0.00 | 40.00 ± 0.00 |  | 51.6, 87.5, 75.5 |  |"
    assert lines[1] == "| classical | GC,LP | 1 | 60.00 |  | 40.00 | 10.00 |  | -25.3 |"
    assert lines[2] == (
        "| esame | GC,LP | 1 | 50.00 (50.0) | *80.00 (80.0)* | 50.00 (60.0) | 12.50 | 51.9, -, 80.1 | +3.2 |"
    )


def test_gcnet_has_a_table_of_known_graphs_and_one_of_molecules(scripts: Callable[[str], ModuleType]) -> None:
    script = scripts("gcnet")

    def row(data: str, run: str, seed: int, edges: tuple[float, ...], test: float) -> tuple[str, ...]:
        return (data, run, str(seed), "4", "", *map(repr, edges), "2", "0.9", repr(test), "1.0")

    nothing = (float("nan"),) * 3
    rows = [
        row("S1, T = 10", "GCNet", 0, (1.0, 0.9, 2.0), 0.7),
        row("S1, T = 10", "GCNet", 1, (0.9, 0.7, 4.0), 0.7),
        row("S1, T = 10", "shared", 0, nothing, 0.6),
        row("tox21", "shared", 0, nothing, 0.75),
    ]
    known, of_known, molecules, of_molecules = script.section(rows).split("\n\n")
    assert of_known == "Test AUC in order. S1, T = 10: GCNet; shared."
    assert of_molecules == "Test AUC in order. tox21: shared (one seed)."
    assert "| GCNet | 2 | 95.00 ± 7.07 | 80.00 ± 14.14 | 3.00 ± 1.41 | 70.00 ± 0.00 |" in known
    assert "| shared | 1 |  |  |  | 60.00 |" in known
    assert molecules.splitlines()[0] == "| run | tox21: seeds | tox21: test AUC |"
    assert "| shared | 1 | 75.00 |" in molecules

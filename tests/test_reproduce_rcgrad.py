"""The script behind ``make reproduce-rcgrad``: what is done is not repeated, differences are of equal seeds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the source tree")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    import scripts.reproduce_rcgrad

    return scripts.reproduce_rcgrad


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

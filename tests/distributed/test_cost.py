"""The formulas that a step of several processes does not count by itself; that it does count is in checks_training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastgmtl.distributed import cost

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "scale_model.py"


def test_surgery() -> None:
    ring, gram = 3 / 4, 2 * 3 / 4 * 8 * 9
    assert cost.surgery(3, 1000, 4, "all_reduce") == 2 * ring * 3 * 4000
    assert cost.surgery(3, 1000, 4, "reduce_scatter") == ring * 4 * 4000 + gram
    assert cost.surgery(3, 1000, 4, "features") == cost.surgery(3, 1000, 4, "local_gram") == 2 * ring * 4000 + gram
    assert cost.surgery(3, 1000, 1, "features") == 0
    with pytest.raises(ValueError, match="way must be one of all_reduce, reduce_scatter, features, local_gram"):
        cost.surgery(3, 1000, 4, "none")


def test_one_rank_sends_nothing_and_twice_the_ranks_have_half() -> None:
    encoder, machine = cost.Encoder(2, 32, 5000, 20, 4), cost.Machine(1e9, 1e-5, 1e10)
    alone = cost.partition_step(encoder, cost.even_share(1e6, 1e7, 1, 0, 2), 1)
    assert alone.exchanged == alone.messages == 0
    assert cost.seconds(alone, 1, machine) == (0, alone.moved / 1e10)
    two, four = (cost.even_share(1e6, 1e7, ranks, 0.3, 2) for ranks in (2, 4))
    assert two.halo == 2 * four.halo == 0.3 * 1e7 / 2 / 2
    assert cost.partition_step(encoder, two, 2).exchanged == 2 * cost.partition_step(encoder, four, 4).exchanged
    assert cost.episodes_step(encoder, 4).reduced == 4 * (5000 + 20 + 8)


def test_the_script() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--ranks", "1", "64"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "a model, not a measurement" and len(lines) == 4
    assert [line.split()[0] for line in lines[1:]] == ["ranks", "1", "64"]

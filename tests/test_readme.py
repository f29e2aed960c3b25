"""What the README shows runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgmtl as fg

README = Path(__file__).resolve().parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="needs the source tree")


def _block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_example_runs() -> None:
    shown: dict[str, Any] = {}
    exec(_block("python"), shown)
    assert shown["y"].shape == (1000, 4, 64)
    assert shown["conv4"](shown["x"], shown["graph"]).shape == (1000, 4, 32)


def _training(lines: str) -> tuple[dict[str, Any], list[torch.Tensor]]:
    torch.manual_seed(0)
    model, heads = nn.Linear(4, 3), nn.ModuleList(nn.Linear(3, 1) for _ in range(2))
    everything = nn.ModuleDict({"trunk": model, "heads": heads})
    x, labels = torch.randn(8, 4), torch.randn(2, 8, 1)
    names: dict[str, Any] = {
        "fg": fg,
        "model": everything,
        "heads": heads,
        "h": model(x),
        "labels": labels,
        "loss": F.mse_loss,
        "optimizer": torch.optim.SGD(everything.parameters(), lr=0.1),
    }
    exec(lines, names)
    return names, [p.detach().clone() for p in everything.parameters()]


def test_the_diff_turns_a_sum_into_surgery(capsys: pytest.CaptureFixture[str]) -> None:
    diff = _block("diff").splitlines()
    before = "\n".join(line[1:] for line in diff if not line.startswith("+"))
    after = "\n".join(line[1:] for line in diff if not line.startswith("-"))
    assert sum(line.startswith(("+", "-")) for line in diff) == 4
    _, plain = _training(before)
    names, surgery = _training(after)
    assert capsys.readouterr().out
    # UPGrad weighs the tasks of the trunk; heads get plain gradients.
    assert names["report"].weights.shape == (2,)
    for a, b in zip(plain[2:], surgery[2:], strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(plain[0], surgery[0])

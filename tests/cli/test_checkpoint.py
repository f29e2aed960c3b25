from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import IO

import pytest
import torch

from fastgmtl.cli import checkpoint
from fastgmtl.cli.errors import CliError

RUN = {"method": "shared", "config": {"lr": 0.1}}
STATE = {"epoch": 3, "model": {"w": torch.arange(5000.0)}, "best": None}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    checkpoint.save(path, RUN, STATE)
    return path


def test_round_trip(saved: Path) -> None:
    content = checkpoint.load(saved)
    assert content["run"] == RUN
    assert content["state"]["epoch"] == 3
    assert torch.equal(content["state"]["model"]["w"], torch.arange(5000.0))
    assert os.listdir(saved.parent) == ["last.pt"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_truncated(saved: Path, keep: float) -> None:
    whole = saved.read_bytes()
    part = whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    saved.write_bytes(part)
    with pytest.raises(CliError) as error:
        checkpoint.load(saved)
    assert str(error.value).startswith(f"checkpoint {saved} cannot be read: its {len(part)} bytes are no whole file;")
    assert saved.read_bytes() == part


def test_flipped_bit_in_a_weight(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    place = content.find(torch.tensor(4000.0).numpy().tobytes())
    content[place + 2] ^= 16
    saved.write_bytes(content)
    with pytest.raises(CliError, match=r"cannot be read: the checksum of its part \S+ is wrong; it is left as it is"):
        checkpoint.load(saved)
    assert saved.read_bytes() == content


def test_other_files(tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(CliError, match=r"notes\.pt cannot be read: its 16 bytes are no whole file"):
        checkpoint.load(text)
    other = tmp_path / "other.pt"
    torch.save({"model": {}}, other)
    with pytest.raises(CliError, match=r"other\.pt is not one of this version \(fastgmtl checkpoint 1\)"):
        checkpoint.load(other)
    with pytest.raises(CliError, match=r"absent\.pt does not exist"):
        checkpoint.load(tmp_path / "absent.pt")
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "nothing")
    with pytest.raises(CliError, match=r"archive\.pt cannot be read: "):
        checkpoint.load(archive)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-checkpoint",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"format": checkpoint.FORMAT, "run": Evil()}, path, pickle_module=pickle)
    with pytest.raises(CliError, match=r"evil\.pt cannot be read: Weights only load failed"):
        checkpoint.load(path)
    assert os.listdir(tmp_path) == ["evil.pt"]


def test_failed_write_keeps_the_old_content(saved: Path) -> None:
    before = saved.read_bytes()

    def fill(file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(saved, fill)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["last.pt"]


def test_differences() -> None:
    one = {"method": "shared", "threads": 1, "config": {"lr": 0.1, "epochs": 5}, "dataset": {"nodes": 3}}
    two = {"method": "other", "threads": 2, "config": {"lr": 0.2, "epochs": 9}, "dataset": {"nodes": 3}}
    assert checkpoint.differences(one, one) == []
    assert checkpoint.differences(one, two) == [
        "config.lr: the checkpoint has 0.1, this run 0.2",
        "method: the checkpoint has 'shared', this run 'other'",
    ]

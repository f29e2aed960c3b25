"""Checkpoints: written whole or not at all, read with every byte checked, never changed when damaged."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from fastgmtl.cli.errors import CliError

FORMAT = "fastgmtl checkpoint 1"
# May differ between a checkpoint and the run that goes on from it. Another device or number of threads may change
FREE = ("config.epochs", "device", "threads", "version")


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file through ``fill(file)`` so that at any moment the path holds the old content or the new, whole."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """:func:`write` for text in UTF-8."""
    write(path, lambda file: file.write(text.encode()))


def save(path: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint: what the run is (plain values) and its state (plain values and tensors)."""
    content = {"format": FORMAT, "run": dict(run), "state": dict(state)}
    write(path, lambda file: torch.save(content, file))


def load(path: Path) -> dict[str, Any]:
    """The ``run`` and ``state`` of a checkpoint, tensors on the CPU. CliError names the file and what is wrong."""
    try:
        # torch.load does not compare checksums: a flipped bit in a weight would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CliError(_damaged(path, f"the checksum of its part {broken} is wrong"))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CliError:
        raise
    except FileNotFoundError:
        raise CliError(f"checkpoint {path} does not exist") from None
    except zipfile.BadZipFile:
        raise CliError(_damaged(path, f"its {path.stat().st_size} bytes are no whole file")) from None
    except Exception as error:  # zipfile, zlib, pickle and torch raise a dozen types for damaged bytes
        raise CliError(_damaged(path, str(error).strip().split("\n")[0])) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CliError(f"checkpoint {path} is not one of this version ({FORMAT}); it is left as it is")
    return content


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for every value in which two descriptions of a run differ."""
    lines = []
    for key in sorted({*stored, *now}):
        name, old, new = f"{prefix}{key}", stored.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new and name not in FREE:
            lines.append(f"{name}: the checkpoint has {old!r}, this run {new!r}")
    return lines


def _damaged(path: Path, what: str) -> str:
    return (
        f"checkpoint {path} cannot be read: {what}; it is left as it is: "
        "restore it, or train anew with --overwrite or another --out"
    )

"""What a result depends on besides the configuration: versions, processor, threads, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fastgmtl

PACKAGES = ("torch", "numpy", "typer", "rich", "matplotlib")


def machine(device: torch.device) -> dict[str, Any]:
    """Plain values for machine.json."""
    return {
        "fastgmtl": fastgmtl.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES} | {"torch": torch.__version__},
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "info": fastgmtl.info().splitlines(),
    }


def processor() -> str:
    """The name of the processor, as Linux gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the checkout that the package is in, with ``+`` when files differ from it; None outside one."""
    root = Path(fastgmtl.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return head and head + ("+" if _git(root, "status", "--porcelain", "-uno") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
